"""One logged request and its answer: where faults meet it, and answers that are passed on while they arrive."""

import logging
from collections.abc import Awaitable, Callable, Mapping

from aiohttp import ClientResponse, web

from emulator.faults import Fault, Faults, Phase
from emulator.mounts import error_body
from emulator.request_log import Entry, RequestLog

logger = logging.getLogger(__name__)

CHUNK = 256 * 1024


class RelayedAnswer(web.StreamResponse):
    """The answer of a server behind us. Its body flows only while it is sent, so an answer may still be replaced."""

    def __init__(self, behind: ClientResponse, headers: Mapping[str, str]) -> None:
        super().__init__(status=behind.status, headers=headers)
        self._behind = behind

    async def write_eof(self, data: bytes = b"") -> None:
        try:
            async for chunk in self._behind.content.iter_chunked(CHUNK):
                await self.write(chunk)
        finally:
            self.discard()
        await super().write_eof(data)

    def discard(self) -> None:
        """Give the connection back: nobody will read this answer."""
        self._behind.release()


async def answer(
    request: web.Request,
    entry: Entry,
    log: RequestLog,
    faults: Faults,
    respond: Callable[[], Awaitable[web.StreamResponse]],
) -> web.StreamResponse:
    """What `respond` answers, unless a fault replaces it; a failure of ours is a 500. Sets the entry's status."""
    response = await _answer(request, entry, faults, respond)
    log.end(entry, response.status if entry.status is None else entry.status)
    return response


async def _answer(
    request: web.Request, entry: Entry, faults: Faults, respond: Callable[[], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    if fault := await faults.meet(entry, "before"):
        return _suffer(fault, request, entry, "before")
    try:
        response = await respond()
    except Exception:
        if request.transport is None or request.transport.is_closing():
            entry.status = 0  # the client has gone in the middle of its request; there is nobody to answer
            return web.Response(status=499)
        logger.exception("%s %s %s failed", entry.service, entry.method, entry.path)
        return web.json_response(error_body("InternalServerError", "see the log of the local Azure"), status=500)
    if fault := await faults.meet(entry, "after"):
        entry.detail["status_lost"] = response.status
        if isinstance(response, RelayedAnswer):
            response.discard()
        return _suffer(fault, request, entry, "after")
    return response


def _suffer(fault: Fault, request: web.Request, entry: Entry, phase: Phase) -> web.Response:
    entry.detail["fault"] = phase
    if fault.drop:
        entry.status = 0
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=499)  # never seen: the connection is gone
    body = fault.body if fault.body is not None else error_body("InjectedFault", "a fault was injected here")
    return web.json_response(body, status=fault.status or 500, headers=fault.headers)
