"""`python -m emulator`: a local Azure until Ctrl-C."""

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

from emulator.function_app import FunctionAppFailedError
from emulator.local_azure import LocalAzure


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m emulator", description="A local Azure, until Ctrl-C.")
    parser.add_argument("--directory", type=Path, default=Path(".local"), help="for endpoints.json, logs and data")
    parser.add_argument("--app", type=Path, help="a function app to run as well")
    parser.add_argument("--policy", type=Path, help="the promotion policy of that app")
    parser.add_argument(
        "--die-with-parent",
        action="store_true",
        help="stop when standard input ends; the parent holds the other end of that pipe",
    )
    return parser.parse_args()


async def _run(options: argparse.Namespace) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    if options.die_with_parent:
        loop.add_reader(sys.stdin, _stop_at_end, loop, stop)
    directory = options.directory.resolve()
    ready_file = directory / "endpoints.json"
    ready_file.unlink(missing_ok=True)
    app = options.app.resolve() if options.app else None
    policy = options.policy.resolve() if options.policy else None
    starting = asyncio.ensure_future(LocalAzure(directory, app=app, policy=policy).__aenter__())
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        return
    azure = await starting
    try:
        _write(ready_file, azure.endpoints())
        print(f"The local Azure is ready: {ready_file}. Ctrl-C ends it.", flush=True)  # noqa: T201 - for the user
        await stopping
    finally:
        ready_file.unlink(missing_ok=True)
        await azure.__aexit__(None, None, None)


def _stop_at_end(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    if not os.read(sys.stdin.fileno(), 4096):
        loop.remove_reader(sys.stdin)
        stop.set()


def _write(path: Path, content: dict[str, Any]) -> None:
    """Readers see all of it or nothing; it holds keys, so nobody else may read it."""
    unfinished = path.with_suffix(".unfinished")
    unfinished.touch(mode=0o600)
    unfinished.write_text(json.dumps(content, indent=2))
    unfinished.replace(path)


def main() -> int:
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        asyncio.run(_run(_arguments()))
    except FunctionAppFailedError as error:
        print(f"The function app could not be started:\n{error}", file=sys.stderr)  # noqa: T201 - for the user
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
