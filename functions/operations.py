"""HTTP, for people and their tools: what was asked, how far it is, and orders. Decoded here, decided in core."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self

import azure.functions as func
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from core.approvals import Approvals
from core.archive import bundle_name
from core.commands import Order, Verb
from core.errors import Reason
from core.intake import Intake
from core.ledger import (
    LIVE,
    Approval,
    AuditRecord,
    Decision,
    EventOutcome,
    EventRecord,
    Hold,
    Promotion,
    State,
    StepRecord,
)
from core.orders import Orders, check_override, row_of
from core.ports import Archive
from functions.http import Body, Problem
from functions.routes import Nothing, Page, Request, Routes

if TYPE_CHECKING:
    from core.adapters.ledger_storage import StorageLedger

REASON_LIMIT = 1000

# ------------------------------------------------------------------------------------------------------- what is taken


class _OfModel(Page):
    model: str | None = None
    version: str | None = Field(None, description="One of the versions of `model`, which must be given as well.")

    @model_validator(mode="after")
    def _version_is_that_of_a_model(self) -> Self:
        if self.version is not None and self.model is None:
            raise ValueError("version is that of a model: give model as well")
        return self


class PromotionsWanted(_OfModel):
    """Which promotions: what is given must all hold."""

    state: State | None = None
    endpoint: str | None = None
    target: str | None = None
    reason: Reason | None = None
    continuation: str | None = Field(
        None, pattern=r"^[0-9]{20}[0-9a-f]{40}$", description="From the page before, which ends where this begins."
    )


class EventsWanted(_OfModel):
    """Which events: what is given must all hold."""

    outcome: EventOutcome | None = None


class BundleWanted(Body):
    """The bundle of which attempt; the last one by default."""

    attempt: int | None = Field(None, ge=1)


class HistoryWanted(Page):
    """What was done, up to `at` if given (ISO 8601 with its offset)."""

    at: AwareDatetime | None = None


class Why(Body):
    """Why somebody asks."""

    reason: str = Field("", max_length=REASON_LIMIT)


class _MayOverride(Why):
    """An order that can go on although the endpoint is on hold or its target frozen; then it says why."""

    overrides_hold: bool = Field(
        False, description="Goes on in spite of a hold or a freeze; needs a reason and the role Promotion.Operator."
    )


class NewPromotion(_MayOverride):
    """A registered model version that somebody wants promoted; `rule` is the one that is expected to decide."""

    source: str
    model: str
    version: str
    rule: str | None = None


class HoldReason(Body):
    """Why automatic promotions shall stay away."""

    reason: str = Field(min_length=1, max_length=REASON_LIMIT)


class Shown(Body):
    """What was looked at, by its digests, and what there is to say about it."""

    manifest_digest: str
    recipe_digest: str
    comment: str = Field("", max_length=REASON_LIMIT)


class Redeployment(_MayOverride):
    """Where to and how a past promotion is deployed again."""

    target: str | None = None
    fresh: bool = False


class RollBack(Why):
    """What comes back: the version that was live before, or that of promotion `to`."""

    to: str | None = None


# ----------------------------------------------------------------------------------------------------- what is answered


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True)


class PromotionRow(Promotion):
    """A promotion as it is shown: without what is the service's own."""

    command: str | None = Field(None, exclude=True)
    etag: str | None = Field(None, exclude=True)


class PromotionDetail(PromotionRow):
    """A promotion with what it did and what was decided about it."""

    steps: tuple[StepRecord, ...]
    approvals: tuple[Approval, ...]


class Promotions(_Answer):
    """A page; `continuation` asks for the next one, and is null on the last."""

    promotions: tuple[PromotionRow, ...]
    continuation: str | None


class Events(_Answer):
    events: tuple[EventRecord, ...]


class Audit(_Answer):
    audit: tuple[AuditRecord, ...]


class EndpointName(_Answer):
    target: str
    serve: str
    endpoint: str


class EndpointState(EndpointName):
    """What is live on an endpoint, as the last promotion left it, and whether it is on hold."""

    live: dict[str, Any] | None
    hold: Hold | None


class History(_Answer):
    """What was done to an endpoint, newest first; `live` is what was live at the time that was asked for."""

    history: tuple[AuditRecord, ...]
    live: dict[str, Any] | None = None


# --------------------------------------------------------------------------------------------------------------- routes


def routes(
    ledger: Callable[[], "StorageLedger"],
    archive: Callable[[], Archive],
    intake: Callable[[], Intake],
    orders: Callable[[], Orders],
    approvals: Callable[[], Approvals],
    *,
    platform_authentication: bool,
) -> Routes:
    """Each of the callables is asked for at the first request that needs it."""
    api = Routes(platform_authentication=platform_authentication)
    _reading(api, ledger, archive)
    _promotion_orders(api, intake, orders)
    _decisions(api, approvals)
    _endpoint_views(api, ledger, orders)
    _endpoint_orders(api, orders)
    return api


def _reading(api: Routes, ledger: Callable[[], "StorageLedger"], archive: Callable[[], Archive]) -> None:
    @api.get(
        "promotions",
        "The promotions that were asked for last, newest first.",
        takes=PromotionsWanted,
        answers=Promotions,
    )
    def list_promotions(req: Request[PromotionsWanted]) -> Any:
        from core.adapters.ledger_storage import position

        wanted = req.given.model_dump(exclude={"continuation"})
        rows = ledger().promotions(**wanted, after=req.given.continuation)
        is_full = len(rows) == req.given.limit
        return {"promotions": rows, "continuation": position(rows[-1]) if is_full else None}

    @api.get("promotions/{id}", "One promotion, its steps and decisions.", takes=Nothing, answers=PromotionDetail)
    def show_promotion(req: Request[Nothing]) -> Any:
        row = row_of(ledger(), req.path["id"])
        return dict(row) | {"steps": ledger().steps(row.id), "approvals": ledger().approvals(row.id)}

    @api.get(
        "promotions/{id}/bundle",
        "What was deployed, as a zip file with one folder to commit.",
        takes=BundleWanted,
        answers="application/zip",
    )
    def export_bundle(req: Request[BundleWanted]) -> func.HttpResponse:
        row = row_of(ledger(), req.path["id"])
        attempt = req.given.attempt or row.attempt
        bundle = archive().fetch(bundle_name(row.id, attempt))
        if bundle is None:
            raise Problem(
                404, f"promotion {row.id} has no bundle of attempt {attempt}: it is written when one succeeds"
            )
        name = f'attachment; filename="{row.id}-{attempt}.zip"'
        return func.HttpResponse(bundle, mimetype="application/zip", headers={"Content-Disposition": name})

    @api.get("events", "The events that were received last, newest first.", takes=EventsWanted, answers=Events)
    def list_events(req: Request[EventsWanted]) -> Any:
        return {"events": ledger().events(**req.given.model_dump())}

    @api.get("audit", "What was done to all endpoints, newest first.", takes=Page, answers=Audit)
    def list_audit(req: Request[Page]) -> Any:
        return {"audit": ledger().trail(limit=req.given.limit)}


def _promotion_orders(api: Routes, intake: Callable[[], Intake], orders: Callable[[], Orders]) -> None:
    @api.post("promotions", "Promote a registered model version.", takes=NewPromotion, answers=PromotionRow)
    def promote(req: Request[NewPromotion]) -> Promotion:
        asked = req.given
        check_override(req.caller, asked.overrides_hold, asked.reason)
        order = Order(
            id=req.order_id,
            verb=Verb.PROMOTE,
            by=req.caller.name,
            at=datetime.now(UTC),
            reason=asked.reason,
            overrides_hold=asked.overrides_hold,
        )
        return intake().request(asked.source, asked.model, asked.version, order, asked.rule)

    @api.post("promotions/{id}/cancel", "End a promotion that is under way.", takes=Why, answers=PromotionRow)
    def cancel_promotion(req: Request[Why]) -> Promotion:
        return orders().cancel(req.path["id"], req.caller, order_id=req.order_id, reason=req.given.reason)

    @api.post("promotions/{id}/retry", "Try again what has failed.", takes=Why, answers=PromotionRow)
    def retry_promotion(req: Request[Why]) -> Promotion:
        return orders().retry(req.path["id"], req.caller, order_id=req.order_id, reason=req.given.reason)

    @api.post(
        "promotions/{id}/redeploy",
        "Deploy a past promotion again, from its frozen recipe.",
        takes=Redeployment,
        answers=PromotionRow,
    )
    def redeploy_promotion(req: Request[Redeployment]) -> Promotion:
        return orders().redeploy(req.path["id"], req.caller, order_id=req.order_id, **req.given.model_dump())

    @api.post("promotions/{id}/wake", "Look at a waiting promotion now.", takes=Nothing, answers=PromotionRow)
    def wake_promotion(req: Request[Nothing]) -> Promotion:
        return orders().wake(req.path["id"], req.caller, order_id=req.order_id)


def _decisions(api: Routes, approvals: Callable[[], Approvals]) -> None:
    def decided(req: Request[Shown], decision: Decision) -> Approval:
        return approvals().decide(req.path["id"], req.caller, decision, **req.given.model_dump())

    @api.post("promotions/{id}/approve", "Approve what was shown.", takes=Shown, answers=Approval, status=200)
    def approve_promotion(req: Request[Shown]) -> Approval:
        return decided(req, Decision.APPROVED)

    @api.post("promotions/{id}/reject", "Reject what was shown.", takes=Shown, answers=Approval, status=200)
    def reject_promotion(req: Request[Shown]) -> Approval:
        return decided(req, Decision.REJECTED)


def _endpoint_views(api: Routes, ledger: Callable[[], "StorageLedger"], orders: Callable[[], Orders]) -> None:
    @api.get(
        "endpoints/{target}/{serve}/{name}",
        "What is live on an endpoint, and whether it is on hold.",
        takes=Nothing,
        answers=EndpointState,
    )
    def show_endpoint(req: Request[Nothing]) -> Any:
        session = orders().session(*_endpoint(req))
        live, hold = _live(ledger().trail(session)), ledger().hold(session)
        return _named(req) | {"live": live, "hold": hold}

    @api.get(
        "endpoints/{target}/{serve}/{name}/history",
        "What was done to an endpoint, and what was live at a time.",
        takes=HistoryWanted,
        answers=History,
    )
    def show_history(req: Request[HistoryWanted]) -> Any:
        trail = ledger().trail(orders().session(*_endpoint(req)), at=req.given.at)
        return {"history": trail[: req.given.limit], "live": _live(trail) if req.given.at else None}


def _endpoint_orders(api: Routes, orders: Callable[[], Orders]) -> None:
    place = "endpoints/{target}/{serve}/{name}"

    @api.post(f"{place}/hold", "Keep automatic promotions away.", takes=HoldReason, answers=Hold)
    def hold_endpoint(req: Request[HoldReason]) -> Hold:
        return orders().hold(*_endpoint(req), req.caller, order_id=req.order_id, reason=req.given.reason)

    @api.post(f"{place}/release", "Let automatic promotions come again.", takes=Why, answers=EndpointName)
    def release_endpoint(req: Request[Why]) -> Any:
        orders().release(*_endpoint(req), req.caller, order_id=req.order_id, reason=req.given.reason)
        return _named(req)

    @api.post(
        f"{place}/rollback",
        "Bring a version back that was live before, and put a hold on the endpoint.",
        takes=RollBack,
        answers=PromotionRow,
    )
    def roll_back_endpoint(req: Request[RollBack]) -> Promotion:
        return orders().roll_back(*_endpoint(req), req.caller, order_id=req.order_id, **req.given.model_dump())

    @api.post(
        f"{place}/retire",
        "Delete an endpoint or schedule with all that belongs to it, and put a hold on its name.",
        takes=Why,
        answers=PromotionRow,
    )
    def retire_endpoint(req: Request[Why]) -> Promotion:
        return orders().retire(*_endpoint(req), req.caller, order_id=req.order_id, reason=req.given.reason)


def _endpoint(req: Request[Any]) -> tuple[str, str, str]:
    return req.path["target"], req.path["serve"], req.path["name"]


def _named(req: Request[Any]) -> dict[str, Any]:
    target, serve, name = _endpoint(req)
    return {"target": target, "serve": serve, "endpoint": name.lower()}


def _live(trail: tuple[AuditRecord, ...]) -> Any:
    """What the newest record of it says is live; None if nothing is."""
    return next((found.after for found in trail if found.action == LIVE), None)
