"""Failed work: dead letters and refused promotions, seen together and sent again."""

from typing import Annotated, Any

import typer

from promotions.command import Session, command, group
from promotions.commands.arguments import Limit, NeededReason, Reason, Yes
from promotions.exits import Exit, Failure
from promotions.render import field
from promotions.text import clean

app = group()
failed = group("failed", help="Everything that failed: dead letters and refused promotions in one view.", parent=app)
letters = group("dead-letters", help="Messages that could not be worked on.", parent=app)

Number = Annotated[
    int, typer.Argument(metavar="NUMBER", min=0, help="Its sequence number, as `dead-letters list` shows it.")
]
_FAILED = [
    field("id"),
    field("kind"),
    field("endpoint"),
    field("target"),
    field("reason"),
    field("at"),
    field("why", wraps=True),
    field("remedy", wraps=True),
]


_LETTER = [
    field("sequence_number", "number"),
    field("enqueued_at", "since"),
    field("reason"),
    field("promotion_id", "promotion"),
    field("state"),
    field("why", wraps=True),
    field("remedy", wraps=True),
]


@command(failed, "list", example="failed list --group")
def list_failed(
    session: Session,
    *,
    group: Annotated[bool, typer.Option("--group", help="Only how many there are for each reason.")] = False,
    limit: Limit = None,
) -> None:
    """What failed and what to do about each."""
    found = session.ask.get("failed", group="reason" if group else None, limit=limit).content
    if session.output.printed(found):
        return
    if group:
        session.output.table(found["groups"], [field("reason"), field("count")], none="Nothing has failed.")
    else:
        session.output.table(found["failed"], _FAILED, none="Nothing has failed.")


@command(failed, "retry", example="failed retry --reason permission_missing --note 'role was assigned'", orders=True)
def retry(
    session: Session,
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="[ID]...", help="These, as `failed list` shows them.")
    ] = None,
    *,
    reason: Annotated[str | None, typer.Option("--reason", help="All that failed for this reason.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that failed.")] = False,
    per_minute: Annotated[int, typer.Option("--per-minute", min=1, help="How fast.")] = 60,
    note: Annotated[str, typer.Option("--note", help="Why. It stands in the audit record.")] = "",
) -> Exit | None:
    """Send failed work again: some, a group, or all. Exit code 1 if some of it could not be sent."""
    if [bool(ids), reason is not None, everything].count(True) != 1:
        raise Failure("Say what to retry: ids, or --reason, or --all.", "Give one of the three.")
    body = {"ids": ids or None, "reason": reason, "all": everything, "per_minute": per_minute, "note": note}
    found = session.order("failed", "retry", **body)
    if not session.output.printed(found):
        session.output.say(f"Sent again: {len(found['retried'])}.")
        if found["remaining"]:
            session.output.say(f"Left for another time: {clean(found['remaining'])}. Run it again for those.")
        if found["failed"]:
            session.output.table(found["failed"], [field("id"), field("why", wraps=True)], none="")
    return Exit.REFUSED if found["failed"] else None


@command(letters, "list", example="dead-letters list")
def list_letters(session: Session, *, limit: Limit = None) -> None:
    """The messages on the dead-letter queue, and why each is there."""
    found = session.ask.get("dead-letters", limit=limit).content
    if not session.output.printed(found):
        session.output.table(found["dead_letters"], _LETTER, none="No dead letters.")


@command(letters, "show", example="dead-letters show 42")
def show(session: Session, number: Number) -> None:
    """One of them, with its content."""
    found = session.ask.get("dead-letters", str(number)).content
    if not session.output.printed(found):
        session.output.outline(found)


@command(letters, "resubmit", example="dead-letters resubmit 42 --reason 'fixed in the last release'", orders=True)
def resubmit(session: Session, number: Number, *, reason: Reason = "") -> None:
    """Send one of them again. It leaves the dead-letter queue only after that."""
    _done(session, session.order("dead-letters", str(number), "resubmit", reason=reason), number, "sent again")


@command(letters, "drop", example="dead-letters drop 42 --reason 'not one of our messages'", orders=True)
def drop(session: Session, number: Number, *, reason: NeededReason, yes: Yes = False) -> None:
    """Delete one of them for good. Asks for confirmation."""
    if not yes:
        session.confirm(f"This deletes dead letter {number} for good. Go on? [y/N]")
    _done(session, session.order("dead-letters", str(number), "drop", reason=reason), number, "dropped")


def _done(session: Session, found: Any, number: int, what: str) -> None:
    if not session.output.printed(found):
        session.output.say(f"Dead letter {number}: {what}.")
