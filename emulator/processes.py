"""Child processes that never outlive us: neither a clean stop, nor Ctrl-C, nor SIGKILL leaves one behind."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path


class ChildProcess:
    """A running child, started by `spawn`. `pid` is that of the child itself, in a process group of its own."""

    def __init__(self, name: str, leash: asyncio.subprocess.Process, pid: int) -> None:
        self.name = name
        self.pid = pid
        self._leash = leash

    @property
    def is_running(self) -> bool:
        return self._leash.returncode is None

    async def wait(self) -> int:
        """Its exit status; 128 and the signal's number if one ended it."""
        return await self._leash.wait()

    async def stop(self) -> None:
        """End it and all that it started: politely first, firmly after some seconds."""
        if self._leash.stdin is not None:
            self._leash.stdin.close()
        await self._leash.wait()

    def kill(self) -> None:
        """SIGKILL to its whole group, at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)


async def spawn(
    name: str,
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    log: Path,
    directory: Path | None = None,
) -> ChildProcess:
    """Start a command on a leash; its output goes to the file `log`, appended."""
    with log.open("ab") as output:
        leash = await asyncio.create_subprocess_exec(
            sys.executable,
            str(Path(__file__).with_name("leash.py")),
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=output,
            env=dict(environment),
            cwd=directory,
            start_new_session=True,
        )
    assert leash.stdout is not None  # noqa: S101 - asked for above
    assert leash.stdin is not None  # noqa: S101 - asked for above
    try:
        first = await leash.stdout.readline()
    except asyncio.CancelledError:
        leash.stdin.close()
        await leash.wait()
        raise
    if not first:
        raise RuntimeError(f"{name} could not be started: see {log}")
    return ChildProcess(name, leash, int(first))
