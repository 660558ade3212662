"""Invocations as the host sees them: their log lines, their time-out, and their end when the host stops."""

import asyncio
import logging
import os
import secrets
import sys
import time
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NoReturn

import azure_functions_runtime as library

from emulator.functions_host import worker
from emulator.functions_host.worker import Function, InvocationResult, TypedData

log = logging.getLogger("Host")

EXIT_NOT_STARTED = 1
EXIT_FUNCTION_TIMEOUT = 3

LEVELS = {"DEBUG": "Debug", "INFO": "Information", "WARNING": "Warning", "ERROR": "Error", "CRITICAL": "Critical"}
# Loggers of what the host itself is built on: their Information is noise that Azure's host does not print.
QUIET = ("azure.functions", "azure.servicebus", "azure.identity", "aiohttp", "asyncio")


# What logging itself puts on a record, and on the record of a formatted exception.
_ATTRIBUTES = {*vars(logging.makeLogRecord({})), "message", "asctime"}


class LineFormatter(logging.Formatter):
    """`time [Level] source message {fields}`, where the source of a line that a function wrote is its invocation.

    Fields are what was put on the record besides what logging itself puts there: custom dimensions in Application Insights.
    """

    def format(self, record: logging.LogRecord) -> str:
        fields = ", ".join(f"{name}={value}" for name, value in vars(record).items() if name not in _ATTRIBUTES)
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        invocation = library.invocation_id_cv.get()
        source = f"{record.name} (Id={invocation})" if invocation and record.name != log.name else record.name
        line = f"{at} [{LEVELS.get(record.levelname, record.levelname)}] {source}: {record.getMessage()}" + (
            f" {{{fields}}}" if fields else ""
        )
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def log_to_stdout(level: str) -> None:
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(LineFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLevelName(level)))


def exit_now(status: int) -> NoReturn:
    """End the process although threads of the worker may still run a function: Python cannot stop those."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


class Host:
    """Runs the functions of the app. `function_timeout` in seconds, or None."""

    def __init__(self, function_timeout: float | None) -> None:
        self._timeout = function_timeout
        self._running: set[asyncio.Task[InvocationResult]] = set()
        self.stopping = asyncio.Event()

    async def invoke(
        self,
        function: Function,
        data: TypedData,
        metadata: Mapping[str, TypedData] | None = None,
        *,
        reason: str,
        trace: str | None = None,
    ) -> InvocationResult:
        """Run a function to its end, even if the caller goes away meanwhile (a client that hangs up, for example).

        `trace` is the traceparent of what it runs for: its trace goes on, or a new one begins.
        """
        task = asyncio.create_task(self._run(function, data, metadata or {}, reason, _span_of(trace)))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    async def _run(
        self, function: Function, data: TypedData, metadata: Mapping[str, TypedData], reason: str, trace: str
    ) -> InvocationResult:
        invocation_id = str(uuid.uuid4())
        name = f"'Functions.{function.name}'"
        log.info("Executing %s (Reason='%s', Id=%s)", name, reason, invocation_id)
        started = time.monotonic()
        running = asyncio.create_task(worker.invoke(function, invocation_id, data, metadata, trace))
        await asyncio.wait({running}, timeout=self._timeout)
        duration = f"Duration={(time.monotonic() - started) * 1000:.0f}ms"
        if not running.done():
            log.critical(
                "Timeout value of %.0f s exceeded by function %s (Id=%s, %s). The host stops.",
                self._timeout, name, invocation_id, duration,
            )  # fmt: skip
            exit_now(EXIT_FUNCTION_TIMEOUT)
        result = running.result()
        if result.succeeded:
            log.info("Executed %s (Succeeded, Id=%s, %s)", name, invocation_id, duration)
        else:
            log.error(
                "Executed %s (Failed, Id=%s, %s)\n%s\n%s",
                name, invocation_id, duration, result.error, result.stack_trace,
            )  # fmt: skip
        return result

    async def drain(self, grace: float) -> bool:
        """Wait until nothing runs any more, at most `grace` seconds; tell whether that was reached."""
        deadline = time.monotonic() + grace
        while self._running and (left := deadline - time.monotonic()) > 0:
            await asyncio.wait(self._running, timeout=left)
        return not self._running


def _span_of(trace: str | None) -> str:
    """The traceparent of an invocation, as the activity of Azure's host has it."""
    version, trace_id, _, flags = (trace or "").split("-") if (trace or "").count("-") == 3 else ("00", "", "", "01")
    return f"{version}-{trace_id or secrets.token_hex(16)}-{secrets.token_hex(8)}-{flags}"
