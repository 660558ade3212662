"""Run a command for as long as somebody holds our standard input; then end it and everything that it started.

The kernel closes a pipe when its holder dies, however it dies: this is what makes children follow a parent that was
killed. The first line of our output is the command's process id. Stands alone: it is run by path, and imports nothing
of the package.
"""

import contextlib
import os
import selectors
import signal
import subprocess
import sys

TERMINATION_SECONDS = 5.0


def main(command: list[str]) -> int:
    for ignored in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)  # a Ctrl-C in the terminal is for our holder to handle
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        stderr=sys.stderr,
        start_new_session=True,
        preexec_fn=_default_signals,
    )
    print(child.pid, flush=True)  # noqa: T201 - this is the answer
    _wait_for_either(child)
    _end(child)
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def _default_signals() -> None:
    for restored in (signal.SIGINT, signal.SIGTERM):
        signal.signal(restored, signal.SIG_DFL)


def _wait_for_either(child: "subprocess.Popen[bytes]") -> None:
    """Until the child has ended, or our standard input has."""
    ended, on_end = os.pipe()
    os.set_blocking(on_end, False)
    signal.set_wakeup_fd(on_end)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    with selectors.DefaultSelector() as selector:
        selector.register(ended, selectors.EVENT_READ)
        selector.register(sys.stdin, selectors.EVENT_READ)
        while child.poll() is None:
            for key, _ in selector.select():
                if key.fileobj is sys.stdin and not os.read(0, 4096):
                    return
                if key.fd == ended:
                    os.read(ended, 4096)


def _end(child: "subprocess.Popen[bytes]") -> None:
    """End the child, politely first, and then whatever of its group is left; it may have ended by itself."""
    with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGTERM)
            child.wait(TERMINATION_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
