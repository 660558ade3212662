"""What tests and demos may see of the queues, and do to them."""

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from emulator.service_bus.broker import Queue
from emulator.service_bus.entities import ACTIVE, DEFERRED, SCHEDULED, Message

STATES = {ACTIVE: "active", DEFERRED: "deferred", SCHEDULED: "scheduled"}


def control_routes(queues: Mapping[str, Queue]) -> list[web.RouteDef]:
    """`queues` are by name in lower case."""
    control = Control(queues)
    return [
        web.get("/service-bus/queues", control.list_queues),
        web.get("/service-bus/queues/{name}/messages", control.list_messages),
        web.delete("/service-bus/queues/{name}/messages", control.purge),
    ]


class Control:
    def __init__(self, queues: Mapping[str, Queue]) -> None:
        self._queues = queues

    async def list_queues(self, _: web.Request) -> web.Response:
        """`{"queues": {name: {active, scheduled, deferred, in_flight, dead_letter: int, locked_sessions: [id]}}}`.

        Messages in flight are those under a lock; they are active or deferred as well.
        """
        return web.json_response({"queues": {queue.spec.name: _counts(queue) for queue in self._queues.values()}})

    async def list_messages(self, request: web.Request) -> web.Response:
        """`{"messages": [...]}` of a queue, by sequence number; with `sub_queue=dead_letter`, of its dead-letter queue."""
        return web.json_response({"messages": [_shown(message) for message in self._chosen(request)]})

    async def purge(self, request: web.Request) -> web.Response:
        """Remove all messages, locked ones too, of a queue or with `sub_queue=dead_letter` of its dead-letter queue.

        Answers `{"purged": how many}`. Message ids stay known to duplicate detection.
        """
        return web.json_response({"purged": self._chosen(request).purge()})

    def _chosen(self, request: web.Request) -> Queue:
        name, sub_queue = request.match_info["name"], request.query.get("sub_queue")
        if (queue := self._queues.get(name.lower())) is None:
            raise web.HTTPNotFound(text=f"there is no queue {name}")
        if sub_queue not in (None, "dead_letter"):
            raise web.HTTPBadRequest(text=f"there is no sub-queue {sub_queue}: leave it out, or ask for dead_letter")
        return queue.dead_letters if sub_queue and queue.dead_letters is not None else queue


def _counts(queue: Queue) -> dict[str, Any]:
    messages = list(queue)
    states = [message.state for message in messages]
    return {
        **{name: states.count(state) for state, name in STATES.items()},
        "in_flight": sum(message.lock is not None for message in messages),
        "dead_letter": len(list(queue.dead_letters or ())),
        "locked_sessions": queue.locked_sessions(),
    }


def _shown(message: Message) -> dict[str, Any]:
    return {
        "sequence_number": message.sequence,
        "message_id": None if message.message_id is None else str(message.message_id),
        "session_id": message.session_id,
        "state": STATES[message.state],
        "delivery_count": message.delivery_count,
        "enqueued_at": message.enqueued_at.isoformat(),
        "expires_at": message.expires_at.isoformat() if message.expires_at else None,
        "scheduled_for": message.scheduled_for.isoformat() if message.scheduled_for else None,
        "locked_until": message.lock.ends_at.isoformat() if message.lock else None,
        "headers": {str(key): _plain(value) for key, value in message.application_properties.items()},
        "dead_letter_reason": message.dead_letter.get("DeadLetterReason"),
        "dead_letter_description": message.dead_letter.get("DeadLetterErrorDescription"),
        "body": message.text,
    }


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float | None) else str(value)
