"""Why, and what would happen: events, explain, plan, and what the timer found."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any

import typer

from promotions import references
from promotions.command import Session, command, group
from promotions.commands.arguments import Limit, MaybeSource, Rule
from promotions.exits import Exit, Failure
from promotions.render import Column, Output, field
from promotions.text import clean

app = group()


class EventOutcome(StrEnum):
    """As docs/contracts/http.md has them."""

    ACCEPTED = "accepted"
    IGNORED = "ignored"
    REFUSED = "refused"


_EVENT = [
    field("received_at", "received"),
    Column("event", lambda event: str(event["event_type"]).rpartition(".")[2]),
    field("subject"),
    field("outcome"),
    field("promotion_id", "promotion"),
    Column("why", lambda event: event["why"] or event["reason"], wraps=True),
]
_DRIFT = [
    Column("endpoint", lambda drift: f"{drift['target']}/{drift['serve']}/{drift['endpoint']}"),
    Column("model", lambda drift: f"{drift['model']}:{drift['version']}"),
    field("since"),
    Column("found", lambda drift: "; ".join(each["what"] for each in drift["findings"]), wraps=True),
    Column("to do", lambda drift: drift["repair"] or drift["findings"][0]["remedy"], wraps=True),
]
_RULE = [
    field("rule"),
    Column(
        "verdict", lambda rule: "decides" if rule["decides"] else "matches" if rule["matches"] else "does not match"
    ),
    field("why", wraps=True),
]
_STEP = [field("at"), field("step"), field("detail", wraps=True)]
_DIFFERENCE = [field("what"), field("shown", "is", wraps=True), field("wanted", "would be", wraps=True)]
_TICK = [
    field("at"),
    *(field(name) for name in ("names", "versions", "requests", "asked", "recovered", "woken", "seconds")),
    Column("problems", lambda tick: "; ".join(tick["problems"]), wraps=True),
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
        session.output.table(found["events"], [field("source"), *_EVENT], none="No events.")


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
        _explained(session.output, found)


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

    The exit code is 0 if there is nothing to do, 10 if something would change, 1 if it would be refused, 3 if somebody has
    to do something before anything can.
    """
    found = _planned(session, version, promotion, source, rule)
    if not session.output.printed(found):
        _shown(session.output, found)
    return verdict(found)


@command(app, "reconcile", example="reconcile")
def reconcile(session: Session) -> None:
    """What the timer found lately, and its cost.

    It looks for tags that ask for a promotion, for events that were lost, and for promotions that are overdue.
    """
    found = session.ask.get("reconcile").content
    if not session.output.printed(found):
        session.output.table(found["ticks"], _TICK, none="The timer has not run yet.")


@command(app, "drift", example="drift")
def drift(session: Session) -> Exit | None:
    """Endpoints that do not show what was promoted to them.

    As the timer saw them last: deployments that are gone, traffic that was moved, schedules that were disabled.

    The exit code is 0 if there are none, 10 otherwise.
    """
    found = session.ask.get("drift").content
    if not session.output.printed(found):
        session.output.table(found["drifts"], _DRIFT, none="All that is live is as it was promoted.")
    return Exit.CHANGES if found["drifts"] else None


def verdict(plan: Mapping[str, Any]) -> Exit:
    """What a plan comes to. What is parked with steps behind its gate would change something. Pure."""
    if plan["outcome"] == "nothing_to_do":
        return Exit.OK
    if plan["outcome"] in ("refused", "superseded"):
        return Exit.REFUSED
    return Exit.PARKED if plan["outcome"] == "parked" and not plan["changes"] else Exit.CHANGES


def _planned(session: Session, version: str | None, promotion: str | None, source: str | None, rule: str | None) -> Any:
    if (version is None) == (promotion is None):
        raise Failure("Say what to plan: MODEL:VERSION, or --promotion ID.", "Give one of the two.")
    if promotion is not None:
        return session.ask.get("promotions", promotion, "plan").content
    asked = references.model_version(str(version))
    body = {"source": source, "model": asked.model, "version": asked.version, "rule": rule}
    return session.ask.post("plan", body=body).content


def _shown(output: Output, plan: Mapping[str, Any]) -> None:
    output.facts(
        [
            ("model", f"{plan['model']}:{plan['version']}"),
            ("endpoint", f"{plan['target']}/{plan['serve']}/{plan['endpoint']}"),
            ("plan of", plan["about"]),
            ("outcome", str(plan["outcome"]).replace("_", " ")),
            *((name, plan[name]) for name in ("why", "reason", "remedy")),
        ]
    )
    for number, step in enumerate(plan["steps"], 1):
        output.say(f"{number:>3}. {clean(step['step'])} {clean(step['detail'])}".rstrip())
    if then := plan["then"]:
        output.say(clean(f"Then {then['outcome'].replace('_', ' ')}: {then['why']}").rstrip(": "))
    if plan["differences"]:
        output.say("")
        output.table(plan["differences"], _DIFFERENCE, none="")
    for beside in plan["beside"]:
        output.say(f"At the same time {clean(beside)}.")
    for later in plan["later"]:
        output.say(f"Then {clean(later)}.")


def _explained(output: Output, found: Mapping[str, Any]) -> None:
    output.facts(
        [
            ("model", f"{found['model']}:{found['version']}"),
            ("answer", found["answer"]),
            ("remedy", found["remedy"]),
            ("source", found["source"]),
            ("in the source", found["in_source"]),
            ("origin", found["origin"]),
            ("evidence", found["evidence"]),
        ]
    )
    for records, columns in ((found["events"], _EVENT), (found["rules"], _RULE)):
        if records:
            output.say("")
            output.table(records, columns, none="")
    for told in found["promotions"]:
        row = told["promotion"]
        output.say("")
        output.facts(
            [
                ("promotion", row["id"]),
                ("endpoint", f"{row['target']}/{row['serve']}/{row['endpoint']}"),
                *((name, row[name]) for name in ("state", "why", "remedy")),
                *((given["decision"], f"by {given['by']} {given['comment']}") for given in told["approvals"]),
            ]
        )
        output.table(told["steps"], _STEP, none="No steps yet.")
