"""Why, and what would happen: explain, plan, events, the policy, backfill."""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from promotions import references
from promotions.command import Session, command, group
from promotions.commands.arguments import Limit, Rule
from promotions.exits import Exit, Failure
from promotions.render import Column, field, generic
from promotions.text import clean

app = group()
policy = group("policy", help="The promotion policy.", parent=app)

POLICY_LIMIT = 256 * 1024


class EventOutcome(StrEnum):
    """As docs/contracts/http.md has them."""

    ACCEPTED = "accepted"
    IGNORED = "ignored"
    REFUSED = "refused"


_EVENT = [
    field("received_at", "received"),
    Column("event", lambda event: str(event["event_type"]).rpartition(".")[2]),
    field("source"),
    field("subject"),
    field("outcome"),
    field("promotion_id", "promotion"),
    Column("why", lambda event: event["why"] or event["reason"], wraps=True),
]
MaybeSource = Annotated[
    str | None,
    typer.Option("--source", envvar="PROMOTIONS_SOURCE", help="The source workspace, by its name in the policy."),
]


@command(app, "events", example="events --outcome refused")
def events(
    session: Session,
    *,
    outcome: Annotated[EventOutcome | None, typer.Option("--outcome", help="Only those that came to this.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="Only of this model, or MODEL:VERSION.")] = None,
    limit: Limit = None,
) -> None:
    """Events received, and what came of each."""
    asked = references.model_version(model) if model and ":" in model else None
    query = {"model": asked.model if asked else model, "version": asked.version if asked else None}
    found = session.ask.get("events", outcome=outcome, **query, limit=limit).content
    if not session.output.printed(found):
        session.output.table(found["events"], _EVENT, none="No events.")


@command(app, "explain", example="explain churn:3 --source dev")
def explain(
    session: Session,
    version: Annotated[str, typer.Argument(metavar="MODEL:VERSION", help="A model version, such as churn:3.")],
    *,
    source: MaybeSource = None,
) -> None:
    """Why a model version was or was not promoted.

    Events, origin, each rule and why it matched or not, steps, outcome.
    """
    asked = references.model_version(version)
    found = session.ask.get("explain", source=source, model=asked.model, version=asked.version).content
    if not session.output.printed(found):
        session.output.outline(found)


@command(app, "plan", example="plan churn:3 --source dev")
def plan(
    session: Session,
    version: Annotated[
        str | None, typer.Argument(metavar="[MODEL:VERSION]", help="A registered model version, such as churn:3.")
    ] = None,
    *,
    promotion: Annotated[
        str | None, typer.Option("--promotion", metavar="ID", help="An existing promotion instead.")
    ] = None,
    source: MaybeSource = None,
    rule: Rule = None,
) -> Exit | None:
    """What a promotion would do now.

    Step by step, with what would differ. Nothing is written.

    The exit code is 0 if there is nothing to do, 10 if something would change, 1 if it would be refused.
    """
    found = _planned(session, version, promotion, source, rule)
    if not session.output.printed(found):
        session.output.outline(found)
    return verdict(found)


@command(app, "backfill", example="backfill churn-to-prod --send", orders=True)
def backfill(
    session: Session,
    rule: Annotated[str, typer.Argument(metavar="RULE", help="A rule of the policy.")],
    *,
    send: Annotated[bool, typer.Option("--send", help="Promote them; without it they are only listed.")] = False,
    limit: Limit = None,
) -> None:
    """Promote what is older than a rule.

    Shows which versions those are; promotes them with --send.
    """
    body: dict[str, Any] = {"rule": rule, "dry_run": not send} | ({"limit": limit} if limit else {})
    found = session.order("backfill", **body)
    if session.output.printed(found):
        return
    _listed(session, found["plan"], none="No version is left to promote.")
    if send:
        session.output.say(f"Sent: {len(found['sent'])}.")
    elif found["plan"]:
        session.output.note("Nothing was sent: --send does it.")


@command(policy, "check", example="policy check promotion.yaml")
def check(
    session: Session,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A policy, such as promotion.yaml.")],
) -> Exit | None:
    """Check a policy before it is rolled out.

    Mistakes by line and field, and which of the known models each rule matches.

    Mistakes are printed as FILE:LINE: field: message, and the exit code is 1.
    """
    found = session.ask.post_text("policy", "validate", text=_read(file), content_type="application/yaml").content
    if not session.output.printed(found):
        for line in mistakes(file, found["mistakes"]):
            session.output.say(line)
        if found["valid"]:
            session.output.say(f"{clean(file)} is a valid policy.")
        for each in found["rules"]:
            models = [f"{m['source']}/{m['model']}:{m['version']}" for m in each["matches"]]
            session.output.outline({f"rule {each['rule']} matches": models or "none of the known models"})
    return None if found["valid"] else Exit.REFUSED


def mistakes(file: Path, found: Iterable[Mapping[str, Any]]) -> list[str]:
    """As compilers and editors know it: FILE:LINE: field: message. Pure."""
    lines = []
    for each in found:
        where = f"{file}:{each['line']}" if each.get("line") else f"{file}"
        what = f"{each['field']}: {each['message']}" if each.get("field") else each["message"]
        lines.append(clean(f"{where}: {what}"))
    return lines


def verdict(plan: Mapping[str, Any]) -> Exit:
    """0 nothing to do, 10 something would change, 1 it would be refused. Pure."""
    raise NotImplementedError


def _planned(session: Session, version: str | None, promotion: str | None, source: str | None, rule: str | None) -> Any:
    if (version is None) == (promotion is None):
        raise Failure("Say what to plan: MODEL:VERSION, or --promotion ID.", "Give one of the two.")
    if promotion is not None:
        return session.ask.get("promotions", promotion, "plan").content
    asked = references.model_version(str(version))
    if source is None:
        raise Failure("It is not said from which source.", "Give --source, the workspace's name in the policy.")
    body = {"source": source, "model": asked.model, "version": asked.version, "rule": rule}
    return session.ask.post("plan", body=body).content


def _listed(session: Session, records: list[Any], *, none: str) -> None:
    rows = [record if isinstance(record, dict) else {"version": record} for record in records]
    session.output.table(rows, generic(rows), none=none)


def _read(file: Path) -> bytes:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise Failure(f"{clean(file)} cannot be read: {error.strerror}.") from None
    if len(content) > POLICY_LIMIT:
        raise Failure(f"{clean(file)} has {len(content)} bytes; {POLICY_LIMIT} are the most.")
    return content
