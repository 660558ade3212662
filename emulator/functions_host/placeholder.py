"""A placeholder, as Azure keeps some for a function app: what each start of the host would import, it has imported once.

`python -m emulator.functions_host.placeholder SOCKET` listens there. A connection brings one line of JSON, the arguments of the
host; the answer is one line, the process id of a fork that becomes that host. The connection is the host's standard input:
who holds the other end sees the host end, and the host ends when the other end is closed.

The app itself is never imported here: each host reads it as it is then.
"""

import contextlib
import gc
import importlib
import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import NoReturn

from emulator.functions_host import __main__ as host

# Libraries of the app; `azure.ai.ml` alone is half of what a host that works imports.
PRELOADED = (
    "azure.ai.ml.entities",
    "azure.data.tables",
    "azure.eventgrid",
    "azure.identity",
    "azure.servicebus",
    "azure.storage.blob",
    "yaml",
)


def main(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        for module in PRELOADED:
            with contextlib.suppress(ImportError):
                importlib.import_module(module)
        gc.collect()
        gc.freeze()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for hosts here
        listener.bind(f"{path}.new")
        listener.listen()
        Path(f"{path}.new").rename(path)  # who finds it can connect
        while True:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                _answer(listener, connection)


def _answer(listener: socket.socket, connection: socket.socket) -> None:
    with connection.makefile("rb") as lines:
        arguments = json.loads(lines.readline() or b"null")
    if arguments is None:
        return
    process = os.fork()
    if process == 0:
        listener.close()
        _become_host(connection, arguments)
    connection.sendall(f"{process}\n".encode())


def _become_host(connection: socket.socket, arguments: list[str]) -> NoReturn:
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.dup2(connection.detach(), 0)
    host.main([*arguments, "--die-with-parent"])
    raise SystemExit  # main() ends the process itself


if __name__ == "__main__":
    main(sys.argv[1])
