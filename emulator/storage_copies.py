"""Server-side copies: a source that Azurite accepts, and copies that take their time.

Azurite accepts a copy between accounts only if the source has the host of the request, so both get Azurite's own address.
It also ends every copy before it answers; in Azure a copy may be pending for long, and may fail. The control API
therefore makes copies *slow*: answers show them as Azure would until the clock has passed their end.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.utils import format_datetime
from typing import Literal, get_args
from urllib.parse import urlsplit
from xml.etree import ElementTree

from aiohttp import web

from emulator.clock import Clock
from emulator.control import json_object, refusal

Outcome = Literal["success", "failed"]
FAILURE = '500 InternalError "Copy failed."'


@dataclass(frozen=True)
class _SlowCopy:
    began: datetime
    ends: datetime
    outcome: Outcome

    def status(self, now: datetime) -> str:
        return "pending" if now < self.ends else self.outcome

    def copied(self, now: datetime, total: int) -> int:
        """The bytes that are said to be there: all that Azure promises is that they grow."""
        if self.outcome == "failed":
            return 0
        return int(total * min((now - self.began) / (self.ends - self.began), 1.0)) if self.ends > self.began else total


class Copies:
    """How clients see the copies of all accounts. Slow ones are known by their copy id."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._next: tuple[timedelta, Outcome] | None = None
        self._slow: dict[str, _SlowCopy] = {}

    def control_routes(self) -> list[web.RouteDef]:
        return [web.post("/storage/copies", self._set_pace)]

    async def _set_pace(self, request: web.Request) -> web.Response:
        """From now on copies are pending for `pending_seconds`, then show `outcome`; null ends that."""
        body = await json_object(request)
        seconds, outcome = body.get("pending_seconds"), body.get("outcome", "success")
        if unknown := body.keys() - {"pending_seconds", "outcome"}:
            raise refusal(f"there is no field {', '.join(sorted(unknown))}")
        if not (seconds is None or (isinstance(seconds, int | float) and seconds >= 0)):
            raise refusal("pending_seconds is a number of seconds, or null for copies that end at once")
        if outcome not in get_args(Outcome):
            raise refusal(f"outcome is one of {', '.join(get_args(Outcome))}")
        self._next = None if seconds is None else (timedelta(seconds=seconds), outcome)
        return web.json_response({"pending_seconds": seconds, "outcome": outcome})

    def started(self, headers: Mapping[str, str]) -> None:
        """A copy was accepted with these headers of the answer."""
        if self._next is not None:
            duration, outcome = self._next
            now = self._clock.now()
            self._slow[headers["x-ms-copy-id"]] = _SlowCopy(now, now + duration, outcome)

    def in_blob(self, headers: dict[str, str]) -> dict[str, str]:
        """The headers of an answer about one blob, as Azure would show them at this time."""
        copy = self._slow.get(headers.get("x-ms-copy-id", ""))
        if copy is None:
            return headers
        if "x-ms-copy-progress" not in headers:  # the answer to the start of the copy has the status alone
            return headers | {"x-ms-copy-status": copy.status(self._clock.now())}
        shown = self._shown(copy, headers["x-ms-copy-progress"])
        found = {name: value for name, value in headers.items() if name.lower() not in _COPY_HEADERS}
        return found | {name: shown[field] for name, field in _COPY_HEADERS.items() if field in shown}

    def is_empty(self, headers: Mapping[str, str]) -> bool:
        """Whether the blob of this answer has no content: Azure commits that last, and never after a failure."""
        copy = self._slow.get(headers.get("x-ms-copy-id", ""))
        return copy is not None and copy.status(self._clock.now()) != "success"

    def in_listing(self, content: bytes) -> bytes:
        """The same, for a listing of blobs."""
        if not self._slow or b"<CopyId>" not in content:
            return content
        root = ElementTree.fromstring(content.removeprefix(b"\xef\xbb\xbf"))  # noqa: S314 - Azurite's own
        for properties in root.iter("Properties"):
            copy = self._slow.get(properties.findtext("CopyId", ""))
            if copy is not None:
                shown = self._shown(copy, properties.findtext("CopyProgress", ""))
                if copy.status(self._clock.now()) != "success":
                    shown["Content-Length"] = "0"
                _show(properties, shown)
        listing: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
        return listing

    def _shown(self, copy: _SlowCopy, progress: str) -> dict[str, str]:
        now, total = self._clock.now(), int(progress.rpartition("/")[2] or 0)
        status = copy.status(now)
        shown = {"CopyStatus": status, "CopyProgress": f"{copy.copied(now, total)}/{total}"}
        if status != "pending":
            shown["CopyCompletionTime"] = format_datetime(copy.ends, usegmt=True)
        if status == "failed":
            shown["CopyStatusDescription"] = FAILURE
        return shown


_COPY_HEADERS = {
    "x-ms-copy-status": "CopyStatus",
    "x-ms-copy-progress": "CopyProgress",
    "x-ms-copy-completion-time": "CopyCompletionTime",
    "x-ms-copy-status-description": "CopyStatusDescription",
}


def _show(properties: ElementTree.Element, shown: Mapping[str, str]) -> None:
    for field in (*_COPY_HEADERS.values(), "Content-Length"):
        element = properties.find(field)
        if field in shown:
            element = ElementTree.SubElement(properties, field) if element is None else element
            element.text = shown[field]
        elif element is not None and field != "Content-Length":
            properties.remove(element)


def local_source(source: str, base: str) -> str:
    """The source of a copy as Azurite itself knows it; a signature does not cover the host and stays valid."""
    parts = urlsplit(source)
    query = f"?{parts.query}" if parts.query else ""
    return f"{base}/{parts.netloc.partition('.')[0]}{parts.path}{query}"


def product_source(text: str, base: str) -> str:
    """The way back, for answers that name the source: what the client called it, without its signature."""
    return re.sub(rf"{re.escape(base)}/([a-z0-9]+)(/[^?<]*)(\?[^<]*)?", r"https://\1.blob.core.windows.net\2", text)
