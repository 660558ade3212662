"""Start a function app; see the package's docstring."""

import argparse
import asyncio
import json
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from aiohttp import web

from emulator.functions_host import worker
from emulator.functions_host.configuration import (
    ConfigurationError,
    HostConfiguration,
    Keys,
    is_disabled,
    load_host_json,
    load_settings,
    worker_settings,
)
from emulator.functions_host.host import EXIT_NOT_STARTED, Host, exit_now, log_to_stdout
from emulator.functions_host.http_trigger import HttpServer
from emulator.functions_host.service_bus_trigger import ServiceBusListener
from emulator.functions_host.timer_trigger import Timer
from emulator.functions_host.worker import Function, IndexingError, UnsupportedFunctionError

log = logging.getLogger("Host")

GRACE = 30.0  # seconds that running functions have after SIGTERM
TRIGGERS = ("httpTrigger", "eventGridTrigger", "serviceBusTrigger", "timerTrigger")
Listener = ServiceBusListener | Timer


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m emulator.functions_host", description="Run a Python function app.")
    parser.add_argument("--app", type=Path, required=True, help="directory with function_app.py and host.json")
    parser.add_argument(
        "--settings", type=Path, required=True, help="app settings: flat JSON, or a local.settings.json"
    )
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1; by default a free one")
    parser.add_argument("--ready-file", type=Path, required=True, help="written when the triggers run")
    parser.add_argument(
        "--die-with-parent",
        action="store_true",
        help="end at once when standard input ends; the parent holds the other end of that pipe",
    )
    return parser.parse_args(argv)


def listeners_for(host: Host, functions: Sequence[Function], configuration: HostConfiguration) -> list[Listener]:
    listeners: list[Listener] = []
    for function in functions:
        if function.trigger_type not in TRIGGERS:
            raise UnsupportedFunctionError(
                f"The '{function.name}' function has a {function.trigger_type}; this host runs {', '.join(TRIGGERS)}."
            )
        if function.trigger_type == "serviceBusTrigger":
            listeners.append(ServiceBusListener(host, function, configuration.service_bus))
        elif function.trigger_type == "timerTrigger":
            listeners.append(Timer(host, function))
    return listeners


def write_ready_file(path: Path, url: str, keys: Keys, functions: Sequence[Function]) -> None:
    content = {
        "url": url,
        "keys": asdict(keys),
        "functions": [function.name for function in functions],
        "pid": os.getpid(),
    }
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    unfinished.write_text(json.dumps(content))
    unfinished.replace(path)


async def run(
    options: argparse.Namespace, keys: Keys, configuration: HostConfiguration, listening: socket.socket
) -> None:
    """Serve the app until SIGTERM or SIGINT. Raises what keeps it from starting."""
    indexed = await worker.index(options.app)
    functions = [function for function in indexed if not is_disabled(function.name, os.environ)]
    host = Host(configuration.function_timeout)
    listeners = listeners_for(host, functions, configuration)
    server = HttpServer(host, functions, keys, configuration.route_prefix)
    runner = web.AppRunner(server.application(), access_log=None, handle_signals=False, shutdown_timeout=GRACE)
    await runner.setup()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, host.stopping.set)
    site = web.SockSite(runner, listening)
    await site.start()
    for listener in listeners:
        await listener.start()
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    write_ready_file(options.ready_file, url, keys, functions)
    log.info("Host started on %s with %d functions: %s", url, len(functions), ", ".join(f.name for f in functions))
    await host.stopping.wait()
    await shut_down(host, site, runner, listeners)


async def shut_down(host: Host, site: web.BaseSite, runner: web.AppRunner, listeners: Sequence[Listener]) -> None:
    """Take nothing new, let what runs finish and be settled or answered, then go."""
    await site.stop()
    log.info("Host is stopping.")
    try:
        async with asyncio.timeout(GRACE):
            await asyncio.gather(*(listener.stop() for listener in listeners))
            await host.drain(GRACE)
            await runner.cleanup()
    except TimeoutError:
        log.warning("Host stops although functions still run: they had %.0f s to finish.", GRACE)
    log.info("Host stopped.")


def die_with_parent() -> None:
    def wait() -> None:
        sys.stdin.buffer.read()
        exit_now(EXIT_NOT_STARTED)

    threading.Thread(target=wait, daemon=True).start()


def main(argv: Sequence[str]) -> None:
    options = arguments(argv)
    for name in ("app", "settings", "ready_file"):
        setattr(options, name, getattr(options, name).resolve())
    if options.die_with_parent:
        die_with_parent()
    try:
        settings, keys = load_settings(options.settings)
        configuration = load_host_json(options.app)
        listening = socket.create_server(("127.0.0.1", options.port))
        os.environ.update(worker_settings(configuration) | settings)
        os.environ.setdefault("AZURE_FUNCTIONS_ENVIRONMENT", "Development")
        os.environ["WEBSITE_HOSTNAME"] = f"127.0.0.1:{listening.getsockname()[1]}"
        os.chdir(options.app)
        log_to_stdout(configuration.log_level)
        asyncio.run(run(options, keys, configuration, listening))
    except (ConfigurationError, IndexingError, UnsupportedFunctionError, OSError, ValueError) as error:
        sys.stderr.write(f"The function app was not started: {error}\n")
        exit_now(EXIT_NOT_STARTED)
    exit_now(0)


if __name__ == "__main__":
    main(sys.argv[1:])
