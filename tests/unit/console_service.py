"""The service as the console client meets it: answers on a socket, in the shapes that the ledger's own models dump."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from pydantic import BaseModel

from core.ledger import Approval, AuditRecord, Decision, Promotion, StepRecord
from tests.unit.builders import NOON, a_command

KEY = "fk-0123456789-never-shown"
NO_ANSWER = object()
"""Instead of an answer: the request is taken, and the connection closed."""


@dataclass(frozen=True)
class Reply:
    """What is answered: JSON, or bytes as they are."""

    content: Any
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Asked:
    """A request as it arrived; header names in lower case."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Service:
    """Answers each route with what stands for it, one after the other; the last one stays."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[Asked] = []
        self._answers: dict[tuple[str, str], list[Any]] = {}

    def answers(self, route: str, *replies: Any) -> None:
        """`route` is `GET promotions/7`; a reply that is no Reply is JSON with status 200."""
        method, _, path = route.partition(" ")
        self._answers[method, f"/api/{path}"] = list(replies)

    def reply(self, asked: Asked) -> Any:
        self.asked.append(asked)
        if asked.headers.get("x-functions-key") != KEY and "authorization" not in asked.headers:
            return Reply(b"", 401)
        waiting = self._answers.get((asked.method, asked.path))
        if waiting is None:
            return Reply(b"", 404)
        return waiting.pop(0) if len(waiting) > 1 else waiting[0]

    def of(self, route: str) -> list[Asked]:
        """The requests that were made to a route."""
        method, _, path = route.partition(" ")
        return [asked for asked in self.asked if (asked.method, asked.path) == (method, f"/api/{path}")]

    def the(self, route: str) -> Asked:
        (asked,) = self.of(route)
        return asked


@contextmanager
def served() -> Iterator[Service]:
    """A service on loopback, for as long as the block lasts."""
    service = Service()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # an answer in one piece: in two, it would wait for an acknowledgement in between

        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer()

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def _answer(self) -> None:
            parts = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            asked = Asked(self.command, parts.path, dict(parse_qsl(parts.query)), headers, body)
            reply = service.reply(asked)
            if reply is NO_ANSWER:
                self.close_connection = True
                return
            if not isinstance(reply, Reply):
                reply = Reply(reply)
            content = reply.content if isinstance(reply.content, bytes) else json.dumps(reply.content).encode()
            kind = "application/problem+json" if reply.status >= 400 and content else "application/json"
            self.send_response_only(reply.status)
            for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **reply.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    service.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield service
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def problem(status: int, detail: str, *, headers: dict[str, str] | None = None, **more: str) -> Reply:
    """Problem details, as functions/http.py writes them."""
    return Reply({"type": "about:blank", "status": status, "detail": detail} | more, status, headers or {})


def dumped(record: BaseModel) -> dict[str, Any]:
    """As functions/http.py shows records."""
    return record.model_dump(mode="json", exclude={"etag", "command"})


def a_row(**changes: Any) -> dict[str, Any]:
    """The row of churn:3 on its way to prod."""
    row = dumped(Promotion.requested(a_command(), now=NOON, evidence="notebook (files: an MLflow model)"))
    return row | changes


def a_detail(*steps: str, **changes: Any) -> dict[str, Any]:
    """The same with these steps, and no decisions unless they are given."""
    row = a_row(**changes)
    records = [
        StepRecord(promotion_id=row["id"], hop=hop, number=1, step=step, detail="done", at=NOON)
        for hop, step in enumerate(steps)
    ]
    return {"approvals": []} | row | {"steps": [dumped(record) for record in records]} | changes


def an_approval(row: dict[str, Any], decision: Decision = Decision.APPROVED) -> dict[str, Any]:
    return dumped(
        Approval(
            promotion_id=row["id"],
            attempt=row["attempt"],
            decision=decision,
            by="Ada",
            at=NOON,
            comment="looks right",
            manifest_digest=row["manifest_digest"],
            recipe_digest=row["recipe_digest"],
        )
    )


def an_audit_record(**changes: Any) -> dict[str, Any]:
    row = Promotion.requested(a_command(), now=NOON)
    record = dumped(AuditRecord.requested(row))
    return record | {"action": "live", "after": {"model": "churn", "version": "3"}} | changes
