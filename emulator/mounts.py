"""How an emulated HTTP service is reached: the hosts that it answers for, and the handler behind them."""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web

from emulator.request_log import Entry
from emulator.topology import Identity

# `caller` is None only on mounts without an audience, whose services check keys or signatures themselves.
Handler = Callable[[web.Request, Identity | None, Entry], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Mount:
    """A service behind the gateway.

    `hosts` is matched against the whole lower-case host name, without port. With `audiences`, the gateway answers 401
    itself unless the request bears a token of this local Azure for one of them.
    """

    service: str
    hosts: re.Pattern[str]
    handler: Handler
    audiences: tuple[str, ...] = ()


def error_body(code: str, message: str) -> dict[str, object]:
    """An error as Azure Resource Manager words it."""
    return {"error": {"code": code, "message": message}}
