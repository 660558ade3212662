"""Arguments and options that several commands take."""

from enum import StrEnum
from typing import Annotated

import typer

Id = Annotated[str, typer.Argument(metavar="ID", help="The promotion's id, as `list` shows it.")]
Version = Annotated[str, typer.Argument(metavar="MODEL:VERSION", help="A registered model version, such as churn:3.")]
Endpoint = Annotated[
    str,
    typer.Argument(metavar="TARGET/SERVE/ENDPOINT", help="An endpoint or schedule, such as prod/realtime/churn."),
]
Source = Annotated[
    str,
    typer.Option(
        "--source", envvar="PROMOTIONS_SOURCE", help="The source workspace, by its name in the policy, such as dev."
    ),
]
MaybeSource = Annotated[
    str | None,
    typer.Option("--source", envvar="PROMOTIONS_SOURCE", help="The source workspace, if the policy has more than one."),
]
Rule = Annotated[
    str | None, typer.Option("--rule", help="The policy's rule that is expected to decide: another one is an error.")
]
Reason = Annotated[str, typer.Option("--reason", help="Why. It stands in the audit record.")]
NeededReason = Annotated[str, typer.Option("--reason", help="Why (needed). It stands in the audit record.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, max=1000, help="How many at the most.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
OverridesHold = Annotated[
    bool,
    typer.Option("--overrides-hold", help="Go on in spite of a hold or a freeze; needs --reason and the role for it."),
]
Watch = Annotated[
    bool,
    typer.Option("--watch", "-w", help="Show each step as it happens, until it ends or waits for a person."),
]
Stay = Annotated[bool, typer.Option("--stay", help="With --watch: go on watching while it waits for a person.")]


class State(StrEnum):
    """As docs/contracts/promotions.md has them."""

    REQUESTED = "requested"
    RUNNING = "running"
    WAITING = "waiting"
    PARKED = "parked"
    SUCCEEDED = "succeeded"
    REFUSED = "refused"
    SUPERSEDED = "superseded"
    CANCELLED = "cancelled"
    ROLLED_BACK = "rolled_back"
    RETIRED = "retired"
