"""Seeing promotions and giving orders about them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from promotions import references
from promotions.bundles import unpack
from promotions.client import Answer
from promotions.command import PROGRAM, Session, command, group
from promotions.commands.arguments import (
    Id,
    Limit,
    OverridesHold,
    Reason,
    Rule,
    Source,
    State,
    Stay,
    Version,
    Watch,
    Yes,
)
from promotions.exits import Exit, Failure
from promotions.render import Column, Output, field
from promotions.text import clean, local_time
from promotions.watching import show_end, watch_list, watch_promotion

app = group()

COLUMNS = [
    field("id", "promotion"),
    Column("model", lambda row: f"{row['model']}:{row['version']}"),
    Column("endpoint", lambda row: f"{row['target']}/{row['serve']}/{row['endpoint']}"),
    field("state"),
    field("updated_at", "updated"),
    Column("why", lambda row: row["why"] or row["reason"], wraps=True),
]
_NONE = "No promotions."


@command(app, "list", example="list --state parked --target prod")
def list_promotions(
    session: Session,
    *,
    state: Annotated[State | None, typer.Option("--state", help="Only those in this state.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="Only of this model, or MODEL:VERSION.")] = None,
    endpoint: Annotated[str | None, typer.Option("--endpoint", help="Only on endpoints of this name.")] = None,
    target: Annotated[str | None, typer.Option("--target", help="Only to this target of the policy.")] = None,
    reason: Annotated[str | None, typer.Option("--reason", help="Only with this code, such as on_hold.")] = None,
    limit: Limit = None,
    everything: Annotated[bool, typer.Option("--all", help="All pages, not only the first.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Redraw until none of them is open any more, or Ctrl-C.")
    ] = False,
) -> None:
    """Promotions, the newest first.

    Where each goes, how far it is, and why.
    """
    query: dict[str, Any] = {"state": state, "endpoint": endpoint, "target": target, "reason": reason}
    query |= _model(model) | {"limit": limit}

    def look() -> Answer:
        return pages(session, query) if everything else session.ask.get("promotions", **query)

    if watch:
        watch_list(session, look, COLUMNS, none=_NONE)
        return
    found = look().content
    if session.output.printed(found):
        return
    session.output.table(found["promotions"], COLUMNS, none=_NONE)
    if found.get("continuation"):
        session.output.note("There are more: --all shows them.")


@command(app, "show", example="show churn-3-85a7c13200-1 --watch")
def show(session: Session, promotion: Id, *, watch: Watch = False, stay: Stay = False) -> Exit | None:
    """One promotion, with each step.

    Where it stands, what to do about it, who decided.
    With --watch the exit code tells how it ended: 0 it succeeded, 1 it was refused, cancelled or superseded, 3 it waits
    for a person.
    """
    if watch:
        return watch_promotion(session, promotion, stay=stay)
    row = session.ask.get("promotions", promotion).content
    if not session.output.printed(row):
        _show(session.output, row)
    return None


@command(app, "promote", example="promote churn:3 --source dev --reason 'needed for the pilot' --watch", orders=True)
def promote(
    session: Session,
    version: Version,
    *,
    source: Source,
    rule: Rule = None,
    reason: Reason = "",
    overrides_hold: OverridesHold = False,
    watch: Watch = False,
    stay: Stay = False,
) -> Exit | None:
    """Promote a registered model version.

    The policy must have a rule for it.
    """
    asked = references.model_version(version)
    body = {"source": source, "model": asked.model, "version": asked.version, "rule": rule, "reason": reason}
    return accepted(session, session.order("promotions", **body, overrides_hold=overrides_hold), watch, stay)


@command(app, "approve", example="approve churn-3-85a7c13200-2 --comment 'checked with the risk team'", orders=True)
def approve(
    session: Session,
    promotion: Id,
    *,
    comment: Annotated[str, typer.Option("--comment", help="Stands in the record of the approval.")] = "",
    yes: Yes = False,
) -> None:
    """Approve a promotion that waits for it.

    Shows what is approved, asks, and approves exactly what was shown: if the content changes meanwhile, nothing is.
    """
    _decide(session, promotion, "approve", comment, yes=yes)


@command(app, "reject", example="reject churn-3-85a7c13200-2 --comment 'wrong training data'", orders=True)
def reject(
    session: Session,
    promotion: Id,
    *,
    comment: Annotated[str, typer.Option("--comment", help="Why; whoever asked for it sees it.")] = "",
    yes: Yes = False,
) -> None:
    """Reject a promotion that waits for approval.

    That ends it; a retry asks again.
    """
    _decide(session, promotion, "reject", comment, yes=yes)


@command(app, "cancel", example="cancel churn-3-85a7c13200-1 --reason 'wrong version'", orders=True)
def cancel(session: Session, promotion: Id, *, reason: Reason = "") -> Exit | None:
    """End a promotion that is under way.

    What it has made is taken away.
    """
    return accepted(session, session.order("promotions", promotion, "cancel", reason=reason))


@command(app, "retry", example="retry churn-3-85a7c13200-1 --reason 'quota was raised' --watch", orders=True)
def retry(
    session: Session, promotion: Id, *, reason: Reason = "", watch: Watch = False, stay: Stay = False
) -> Exit | None:
    """Try again what was refused, cancelled or superseded."""
    return accepted(session, session.order("promotions", promotion, "retry", reason=reason), watch, stay)


@command(app, "redeploy", example="redeploy churn-3-85a7c13200-1 --target prod-eu --watch", orders=True)
def redeploy(
    session: Session,
    promotion: Id,
    *,
    target: Annotated[str | None, typer.Option("--target", help="Another target of the policy.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="A new deployment, though one like it is there.")] = False,
    overrides_hold: OverridesHold = False,
    reason: Reason = "",
    watch: Watch = False,
    stay: Stay = False,
) -> Exit | None:
    """Deploy a past promotion again.

    Exactly as it was, from its frozen recipe: it wins over what is live now.
    """
    body = {"reason": reason, "target": target, "fresh": fresh, "overrides_hold": overrides_hold}
    return accepted(session, session.order("promotions", promotion, "redeploy", **body), watch, stay)


@command(app, "wake", example="wake churn-3-85a7c13200-1", orders=True)
def wake(session: Session, promotion: Id) -> Exit | None:
    """Look at a waiting promotion now.

    The service does that by itself when it is due.
    """
    return accepted(session, session.order("promotions", promotion, "wake"))


@command(app, "bundle", example="bundle churn-3-85a7c13200-1 --output deployed/churn")
def bundle(
    session: Session,
    promotion: Id,
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="A folder, new or empty.")],
    attempt: Annotated[int | None, typer.Option("--attempt", min=1, help="Not of the last attempt.")] = None,
) -> None:
    """Fetch what was deployed, as a folder.

    Scripts, environment, manifest and provenance, to be committed.
    """
    files = unpack(session.ask.download("promotions", promotion, "bundle", attempt=attempt), output)
    if session.output.printed({"output": str(output), "files": files}):
        return
    for name in files:
        session.output.say(clean(output / name))


def pages(session: Session, query: Mapping[str, Any]) -> Answer:
    """All pages of the list as one answer."""
    rows: list[Any] = []
    seen: set[str] = set()
    continuation: str | None = None
    while True:
        answer = session.ask.get("promotions", **query, continuation=continuation)
        rows += answer.content["promotions"]
        continuation = answer.content.get("continuation")
        if not continuation:
            return Answer({"promotions": rows, "continuation": None}, answer.at)
        if continuation in seen:
            raise Failure("The service sends the same page again and again.")
        seen.add(continuation)


def accepted(session: Session, row: Mapping[str, Any], watch: bool = False, stay: bool = False) -> Exit | None:
    """Tell that an order was accepted, or watch what comes of it."""
    if watch:
        return watch_promotion(session, row["id"], stay=stay)
    if session.output.printed(row):
        return None
    session.output.say(f"{clean(row['id'])}: accepted; it is {clean(row['state'])}.")
    session.output.note(f"Watch it: {PROGRAM} show {clean(row['id'])} --watch")
    return None


def _model(text: str | None) -> dict[str, str | None]:
    if text is None or ":" not in text:
        return {"model": text}
    found = references.model_version(text)
    return {"model": found.model, "version": found.version}


def _show(output: Output, row: Mapping[str, Any]) -> None:
    order = row.get("order") or {}
    output.facts(
        [
            ("promotion", row["id"]),
            *_what(row),
            ("trigger", row["trigger"]),
            ("attempt", row["attempt"]),
            ("redeployed from", row.get("redeployed_from")),
            ("ordered by", f"{order['by']} ({order['verb']}) {order['reason']}".rstrip() if order else None),
            ("updated", row["updated_at"]),
            ("looked at next", row.get("due") if row["state"] in ("waiting", "parked") else None),
        ]
    )
    show_end(output, row)
    if row.get("approvals"):
        output.say("")
        columns = [field("at"), field("decision"), field("by"), field("attempt"), field("comment", wraps=True)]
        output.table(row["approvals"], columns, none="")
    output.say("")
    output.table(
        row.get("steps") or [], [field("at"), field("step"), field("detail", wraps=True)], none="No steps yet."
    )
    if row.get("result"):
        output.say("")
        output.outline({"result": row["result"]})


def _what(row: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """What is promoted and where to: also what an approval is about."""
    return [
        ("model", f"{row['model']}:{row['version']}"),
        ("source", row["source"]),
        ("origin", row["origin"]),
        ("target", row["target"]),
        ("stage", f"{row['serve']} endpoint {row['endpoint']}, rule {row['rule']}"),
        ("evidence", row["evidence"]),
        ("manifest digest", row["manifest_digest"]),
        ("recipe digest", row["recipe_digest"]),
        ("policy digest", row["policy_digest"]),
        ("asked for by", row["requested_by"]),
        ("asked for at", row["requested_at"]),
    ]


def _decide(session: Session, promotion: str, verb: str, comment: str, *, yes: bool) -> None:
    """Send the digests that the user has just seen: the service refuses if the content is another by then."""
    row = session.ask.get("promotions", promotion).content
    aside = session.output.asked() if session.output.as_json else session.output
    aside.facts([("promotion", row["id"]), *_what(row), ("state", row["state"]), ("why", row["why"])])
    digests = {name: row.get(name) for name in ("manifest_digest", "recipe_digest")}
    if not all(digests.values()):
        raise Failure(f"Promotion {clean(row['id'])} has no content to decide about.", code=Exit.REFUSED)
    if not yes:
        session.confirm(f"{verb.capitalize()} {clean(row['id'])}, to {clean(row['target'])}? [y/N]")
    given = session.order("promotions", promotion, verb, **digests, comment=comment)
    if not session.output.printed(given):
        what = f"{clean(given['decision'])} by {clean(given['by'])} at {local_time(given['at'])}"
        session.output.say(f"{clean(given['promotion_id'])}: {what}.")
