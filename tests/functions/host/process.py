"""The local Functions host as the tests start it: a process of its own, whose lines are read as they come."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[3]
SAMPLE_APP = Path(__file__).parent / "app"


class HostProcess:
    """`wait_for_line` is how a test waits: it returns as soon as the host, or a function, has said something."""

    def __init__(self, directory: Path, settings: Mapping[str, str], app: Path = SAMPLE_APP) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._ready_file = directory / "ready.json"
        settings_file = directory / "settings.json"
        settings_file.write_text(json.dumps({"IsEncrypted": False, "Values": dict(settings)}))
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "emulator.functions_host", "--die-with-parent"),
                *("--app", str(app), "--settings", str(settings_file), "--ready-file", str(self._ready_file)),
            ],
            cwd=REPOSITORY,
            env={"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    def wait_for_line(self, pattern: str, count: int = 1, timeout: float = 30.0) -> str:
        """The `count`th line that the pattern is found in."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                found = [line for line in self.lines if re.search(pattern, line)]
                if len(found) >= count:
                    return found[count - 1]
                left = deadline - time.monotonic()
                assert left > 0 and self._reader.is_alive(), f"no line {pattern!r}:\n" + "\n".join(self.lines)
                self._changed.wait(left)

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def wait_until_ready(self) -> dict[str, Any]:
        self.wait_for_line("Host started on")
        ready: dict[str, Any] = json.loads(self._ready_file.read_text())
        assert ready["pid"] == self.process.pid
        return ready

    def wait_for_exit(self, timeout: float = 35.0) -> int:
        status = self.process.wait(timeout)
        self._reader.join()
        return status

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the process at once, as a crash or an out-of-memory does."""
        self.process.kill()
        self.wait_for_exit()
        for stream in (self.process.stdin, self.process.stdout):
            if stream:
                stream.close()
