"""What clients ask of queues: each request is logged, and meets the faults in place before and after its effect."""

import asyncio
import uuid
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Protocol, TypeVar

from emulator.faults import Faults, Phase
from emulator.request_log import Entry, RequestLog
from emulator.service_bus.broker import Queue
from emulator.service_bus.entities import BrokerError, Consumer, Message

T = TypeVar("T")


class Client(Protocol):
    """Who asks: `gone` is done once its connection has broken; `abort` breaks it."""

    gone: asyncio.Future[None]

    def principal(self, queue: Queue) -> str | None: ...

    def abort(self) -> None: ...


class DroppedError(ConnectionError):
    """The client is gone: by a fault, or on its own while a fault held its request."""


class Operations:
    """All raise BrokerError for a refusal, and DroppedError if there is nobody left to answer."""

    def __init__(self, log: RequestLog, faults: Faults, host: Callable[[], str]) -> None:
        self._log = log
        self._faults = faults
        self._host = host

    async def send(self, client: Client, queue: Queue, encoded: Sequence[bytes]) -> list[int]:
        """Take messages in, all or none of them; their sequence numbers."""
        messages = [queue.parsed(raw) for raw in encoded]
        entries = [self._begin("SEND", client, queue, _sent(message)) for message in messages]

        def effect() -> list[int]:
            numbers = [queue.send(message) for message in messages]
            for entry, number in zip(entries, numbers, strict=True):
                entry.detail["duplicate"] = number == 0
            return numbers

        return await self._carry_out(client, entries, effect)

    async def settle(
        self,
        client: Client,
        queue: Queue,
        token: uuid.UUID,
        method: str,
        *,
        consumer: Consumer | None,
        reason: str | None = None,
        description: str | None = None,
    ) -> None:
        entry = self._begin(method, client, queue, _settled(queue.locked(token, consumer)))
        effects: dict[str, Callable[[], None]] = {
            "COMPLETE": lambda: queue.complete(token, consumer),
            "ABANDON": lambda: queue.abandon(token, consumer),
            "DEFER": lambda: queue.defer(token, consumer),
            "DEAD_LETTER": lambda: queue.dead_letter(token, reason, description, consumer),
        }
        await self._carry_out(client, [entry], effects[method])

    async def renew(self, client: Client, queue: Queue, token: uuid.UUID) -> datetime:
        entry = self._begin("RENEW", client, queue, _settled(queue.locked(token)))
        return await self._carry_out(client, [entry], lambda: queue.renew_lock(token))

    async def renew_session(self, client: Client, queue: Queue, consumer: Consumer | None) -> datetime:
        entry = self._begin("RENEW", client, queue, {"session_id": queue.held(consumer).id})
        return await self._carry_out(client, [entry], lambda: queue.renew_session(consumer))

    def _begin(self, method: str, client: Client, queue: Queue, detail: dict[str, Any]) -> Entry:
        return self._log.begin(
            service="service_bus",
            method=method,
            host=self._host(),
            path=queue.name,
            principal=client.principal(queue),
            detail=detail,
        )

    async def _carry_out(self, client: Client, entries: list[Entry], effect: Callable[[], T]) -> T:
        status = 0
        try:
            await self._meet_faults(client, entries, "before")
            result = effect()
            await self._meet_faults(client, entries, "after")
            status = 200
        except BrokerError as refused:
            status = refused.status
            raise
        finally:
            for entry in entries:
                self._log.end(entry, status)
        return result

    async def _meet_faults(self, client: Client, entries: list[Entry], phase: Phase) -> None:
        """Raises what a fault does to the request. A client that goes meanwhile has never asked, as far as we can tell."""
        for entry in entries:
            if not self._faults.all():
                return
            meeting = asyncio.ensure_future(self._faults.meet(entry, phase))
            try:
                await asyncio.wait((meeting, client.gone), return_when=asyncio.FIRST_COMPLETED)
                if not meeting.done():
                    raise DroppedError("the client has gone")
            finally:
                meeting.cancel()
            fault = meeting.result()
            if fault is None:
                continue
            entry.detail["fault"] = phase
            if fault.drop:
                client.abort()
                raise DroppedError("dropped by a fault")
            body = fault.body if isinstance(fault.body, dict) else {}
            condition = str(body.get("condition", "com.microsoft:server-busy"))
            raise BrokerError(condition, "This request met a fault that a test has planted.", fault.status)


def _sent(message: Message) -> dict[str, Any]:
    """What the request log tells of a message: its ids and its time, never its body."""
    due = message.scheduled_for
    return _ids(message) | {"scheduled_for": due.isoformat() if due else None}


def _settled(message: Message) -> dict[str, Any]:
    return _ids(message) | {"sequence_number": message.sequence, "delivery_count": message.delivery_count}


def _ids(message: Message) -> dict[str, Any]:
    message_id = message.message_id
    return {"message_id": None if message_id is None else str(message_id), "session_id": message.session_id}
