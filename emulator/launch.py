"""Start a local Azure in a process of its own and point a client at it: for tests, the demo and benchmarks."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parent.parent
STOP_SECONDS = 60.0


class LocalAzureFailedError(RuntimeError):
    """The local Azure did not start; the text is the end of what it said."""


@contextlib.contextmanager
def launched(directory: Path, *, app: Path | None = None, policy: Path | None = None) -> Iterator[dict[str, Any]]:
    """A local Azure for as long as the block lasts, with the function app in `app` if given; its endpoints.json.

    Raises LocalAzureFailedError. It ends with us, however we end.
    """
    directory.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "emulator", "--directory", str(directory), "--die-with-parent"]
    command += ["--app", str(app)] if app else []
    command += ["--policy", str(policy)] if policy else []
    log = directory / "local-azure.log"
    pipes: Mapping[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with log.open("wb") as errors:
        process = subprocess.Popen(command, **pipes, stderr=errors, cwd=REPOSITORY, start_new_session=True)
    assert process.stdin is not None  # noqa: S101 - asked for above
    assert process.stdout is not None  # noqa: S101 - asked for above
    try:
        if not process.stdout.readline():
            raise LocalAzureFailedError(log.read_text()[-4000:])
        yield json.loads((directory / "endpoints.json").read_text())
    finally:
        process.stdin.close()
        process.wait(STOP_SECONDS)
        process.stdout.close()


def client_environment(endpoints: Mapping[str, Any]) -> dict[str, str]:
    """What a user sets in order to work in the local Azure as its data scientist, and nothing else."""
    return {
        **endpoints["credential"],
        "HTTPS_PROXY": endpoints["https_proxy"],
        "NO_PROXY": "127.0.0.1,localhost",
        "REQUESTS_CA_BUNDLE": endpoints["ca_bundle"],
    }
