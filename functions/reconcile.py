"""A timer, and two routes about it: what no event tells (tags, lost events, overdue promotions) is found by looking."""

from collections.abc import Callable

import azure.functions as func
from pydantic import Field

from core.drift import Drift
from core.drift_watch import DriftWatch
from core.reconcile import BackfillRow, Reconciler, Tick
from core.settings import RECONCILE_SCHEDULE
from functions.http import Body
from functions.routes import Limit, Nothing, Request, Routes


def blueprint(reconciler: Callable[[], Reconciler]) -> func.Blueprint:
    bp = func.Blueprint()  # type: ignore[no-untyped-call] # azure-functions leaves it bare

    @bp.function_name("reconcile")
    @bp.timer_trigger(arg_name="timer", schedule=f"%{RECONCILE_SCHEDULE}%", run_on_startup=False)
    def reconcile(timer: func.TimerRequest) -> None:
        reconciler().tick()

    return bp


class Ticks(Body):
    """The last passes of the timer, newest first."""

    ticks: tuple[Tick, ...]


class Drifts(Body):
    """What is live by the ledger and not as it was promoted, longest first, as of the last pass that looked there."""

    drifts: tuple[Drift, ...]


class Backfill(Body):
    """Which rule's older models are meant; a plan unless `dry_run` is false."""

    rule: str = Field(max_length=100)
    dry_run: bool = True
    limit: Limit = 100


class Backfilled(Body):
    """`plan` is what would be promoted, `sent` what was handed to intake."""

    plan: tuple[BackfillRow, ...] = ()
    sent: tuple[BackfillRow, ...] = ()


def routes(
    reconciler: Callable[[], Reconciler], drift: Callable[[], DriftWatch], *, platform_authentication: bool
) -> Routes:
    api = Routes(platform_authentication=platform_authentication)

    @api.get("reconcile", "The last passes of the timer, and what they cost.", takes=Nothing, answers=Ticks)
    def show_reconcile(req: Request[Nothing]) -> Ticks:
        return Ticks(ticks=reconciler().ticks())

    @api.get("drift", "Endpoints that do not show what was promoted to them.", takes=Nothing, answers=Drifts)
    def show_drift(req: Request[Nothing]) -> Drifts:
        return Drifts(drifts=drift().drifts())

    @api.post(
        "backfill",
        "Promote what was registered before a rule was there.",
        takes=Backfill,
        answers=Backfilled,
        status=200,
    )
    def backfill(req: Request[Backfill]) -> Backfilled:
        asked = req.given
        found = reconciler().backfill(asked.rule, dry_run=asked.dry_run, limit=asked.limit)
        return Backfilled(plan=found) if asked.dry_run else Backfilled(sent=found)

    return api
