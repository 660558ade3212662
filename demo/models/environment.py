"""Runs a training program in the environment that the local Azure builds for a set of requirements."""

import asyncio
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from emulator.azure_ml.service import ENVIRONMENT_CACHE
from emulator.serving.environments import Environments, Wanted

TRAINING = Path(__file__).parent / "training"


def train(program: str, requirements: Sequence[str], folder: Path, **settings: Any) -> None:
    """Run `program` of the folder training/, which writes to `folder`. Raises RuntimeError with its output."""
    python = asyncio.run(_python_with(requirements))
    command = [str(python), "-W", "ignore", str(TRAINING / program), str(folder), json.dumps(settings)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{program} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")


async def _python_with(requirements: Sequence[str]) -> Path:
    environments = Environments(directory=ENVIRONMENT_CACHE)
    try:
        python, notes = await environments.python_for(Wanted(tuple(requirements)))
    finally:
        await environments.close()
    if python is None:
        raise RuntimeError("\n".join(notes))
    return python
