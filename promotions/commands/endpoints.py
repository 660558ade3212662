"""Seeing endpoints and schedules, and giving orders about them; and the audit."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from promotions import references
from promotions.command import Session, command, group
from promotions.commands.arguments import Endpoint, Limit, NeededReason, Reason, Stay, Watch, Yes
from promotions.commands.promotions import accepted
from promotions.exits import Exit, Failure
from promotions.render import Column, field
from promotions.text import clean, local_time, utc

app = group()

_RECORD = [
    field("at"),
    field("actor", "who"),
    field("action"),
    field("promotion_id", "promotion"),
    field("reason", wraps=True),
    Column("before", lambda record: _version(record.get("before")), wraps=True),
    Column("after", lambda record: _version(record.get("after")), wraps=True),
]
_WHERE = Column("endpoint", lambda record: f"{record['target']}/{record['serve']}/{record['endpoint']}")


@command(app, "endpoint", example="endpoint prod/realtime/churn")
def show_endpoint(session: Session, endpoint: Endpoint) -> None:
    """What is live on an endpoint, and its hold."""
    found = session.ask.get(*references.endpoint(endpoint).path).content
    if session.output.printed(found):
        return
    session.output.facts([("endpoint", f"{found['target']}/{found['serve']}/{found['endpoint']}")])
    hold = found["hold"]
    session.output.outline({"live": found["live"] or "nothing that was promoted"})
    session.output.outline({"hold": hold["order"] if hold else "none: automatic promotions may go there"})


@command(app, "history", example="history prod/realtime/churn --at 2026-03-04T12:00")
def history(
    session: Session,
    endpoint: Endpoint,
    *,
    at: Annotated[
        str | None,
        typer.Option("--at", help="What was live then: an ISO time, local unless it has an offset."),
    ] = None,
    limit: Limit = None,
) -> None:
    """Who did what to an endpoint, and what was live."""
    found = session.ask.get(*references.endpoint(endpoint).path, "history", at=_time(at), limit=limit).content
    if session.output.printed(found):
        return
    if at is not None:
        when = local_time(_time(at))
        session.output.outline({f"live at {when}": found["live"] or "nothing that was promoted"})
        session.output.say("")
    session.output.table(found["history"], _RECORD, none="Nothing has happened there.")


@command(app, "audit", example="audit --limit 50")
def audit(session: Session, *, limit: Limit = None) -> None:
    """Who did what to all endpoints."""
    found = session.ask.get("audit", limit=limit).content
    if not session.output.printed(found):
        session.output.table(found["audit"], [_WHERE, *_RECORD], none="Nothing has happened yet.")


@command(app, "rollback", example="rollback prod/realtime/churn --reason 'wrong predictions' --watch", orders=True)
def rollback(
    session: Session,
    endpoint: Endpoint,
    *,
    reason: NeededReason,
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="ID", help="To this promotion; without it, the one that was live before."),
    ] = None,
    watch: Watch = False,
    stay: Stay = False,
) -> Exit | None:
    """Bring the last verified version back.

    Fast while its deployment is still there. The endpoint is put on hold until it is released.
    """
    row = session.order(*references.endpoint(endpoint).path, "rollback", reason=reason, to=to)
    if not session.output.as_json:
        session.output.note("The endpoint is put on hold: `release` lets automatic promotions in again.")
    return accepted(session, row, watch, stay)


@command(app, "hold", example="hold prod/realtime/churn --reason 'audit until Friday'", orders=True)
def hold(session: Session, endpoint: Endpoint, *, reason: NeededReason) -> None:
    """Keep automatic promotions away from an endpoint.

    Until it is released.
    """
    found = session.order(*references.endpoint(endpoint).path, "hold", reason=reason)
    _said(session, found, f"{clean(endpoint)}: accepted; automatic promotions stay away until it is released.")


@command(app, "release", example="release prod/realtime/churn --reason 'audit is over'", orders=True)
def release(session: Session, endpoint: Endpoint, *, reason: Reason = "") -> None:
    """End the hold of an endpoint.

    Automatic promotions may go there again.
    """
    found = session.order(*references.endpoint(endpoint).path, "release", reason=reason)
    _said(session, found, f"{clean(endpoint)}: accepted; automatic promotions may go there again.")


@command(app, "retire", example="retire prod/realtime/churn --reason 'replaced by churn-eu'", orders=True)
def retire(
    session: Session,
    endpoint: Endpoint,
    *,
    reason: Reason = "",
    yes: Yes = False,
    watch: Watch = False,
    stay: Stay = False,
) -> Exit | None:
    """Delete an endpoint or schedule.

    With all that belongs to it. Asks to type the endpoint's name.
    """
    named = references.endpoint(endpoint)
    if not yes:
        question = f"This deletes {clean(endpoint)} and its deployments. Type {clean(named.name)} to go on:"
        session.confirm(question, named.name)
    return accepted(session, session.order(*named.path, "retire", reason=reason), watch, stay)


def _said(session: Session, found: Any, sentence: str) -> None:
    if not session.output.printed(found):
        session.output.say(sentence)


def _time(text: str | None) -> str | None:
    try:
        return utc(text) if text is not None else None
    except (ValueError, OverflowError):
        raise Failure(
            f"{clean(text)!r} is no time.", "Write it like 2026-03-04T12:00 or 2026-03-04T12:00:00Z."
        ) from None


def _version(change: Mapping[str, Any] | None) -> Any:
    """`churn:3` where that is what changed, otherwise all of it."""
    if change and "model" in change and "version" in change:
        return f"{change['model']}:{change['version']}"
    return change
