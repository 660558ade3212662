"""HTTP, for people and their tools: what was asked, how far it is, and what was refused. Read-only."""

import json
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import azure.functions as func
from pydantic import BaseModel

from core.archive import bundle_name
from core.ledger import EventOutcome, State
from core.ports import Archive

if TYPE_CHECKING:
    from core.adapters.ledger_storage import StorageLedger

DEFAULT_LIMIT, LARGEST_LIMIT = 200, 1000


def blueprint(ledger: Callable[[], "StorageLedger"], archive: Callable[[], Archive]) -> func.Blueprint:
    bp = func.Blueprint()  # type: ignore[no-untyped-call] # azure-functions leaves it bare

    @bp.function_name("list_promotions")
    @bp.route("promotions", methods=["GET"])
    def list_promotions(req: func.HttpRequest) -> func.HttpResponse:
        state = req.params.get("state")
        if state is not None and state not in set(State):
            return _problem(400, f"state must be one of {', '.join(State)}, not {state!r}")
        if problem := _version_alone(req):
            return problem
        rows = ledger().promotions(
            state=State(state) if state else None,
            model=req.params.get("model"),
            version=req.params.get("version"),
            endpoint=req.params.get("endpoint"),
            limit=_limit(req),
        )
        return _json({"promotions": _dump(rows)})

    @bp.function_name("show_promotion")
    @bp.route("promotions/{id}", methods=["GET"])
    def show_promotion(req: func.HttpRequest) -> func.HttpResponse:
        promotion_id = req.route_params["id"]
        row = ledger().promotion(promotion_id)
        if row is None:
            return _problem(404, f"there is no promotion {promotion_id!r}")
        steps = ledger().steps(promotion_id)
        return _json(_dump([row])[0] | {"steps": _dump(steps)})

    @bp.function_name("export_bundle")
    @bp.route("promotions/{id}/bundle", methods=["GET"])
    def export_bundle(req: func.HttpRequest) -> func.HttpResponse:
        row = ledger().promotion(req.route_params["id"])
        if row is None:
            return _problem(404, f"there is no promotion {req.route_params['id']!r}")
        attempt = req.params.get("attempt") or str(row.attempt)
        bundle = archive().fetch(bundle_name(row.id, int(attempt))) if attempt.isdecimal() else None
        if bundle is None:
            return _problem(
                404, f"promotion {row.id} has no bundle of attempt {attempt}: it is written when one succeeds"
            )
        name = f'attachment; filename="{row.id}-{attempt}.zip"'
        return func.HttpResponse(bundle, mimetype="application/zip", headers={"Content-Disposition": name})

    @bp.function_name("list_events")
    @bp.route("events", methods=["GET"])
    def list_events(req: func.HttpRequest) -> func.HttpResponse:
        outcome = req.params.get("outcome")
        if outcome is not None and outcome not in set(EventOutcome):
            return _problem(400, f"outcome must be one of {', '.join(EventOutcome)}, not {outcome!r}")
        if problem := _version_alone(req):
            return problem
        rows = ledger().events(
            outcome=outcome, model=req.params.get("model"), version=req.params.get("version"), limit=_limit(req)
        )
        return _json({"events": _dump(rows)})

    return bp


def _limit(req: func.HttpRequest) -> int:
    """How many rows are wanted, within bounds; the default for what is no number."""
    text = req.params.get("limit", "")
    return min(int(text), LARGEST_LIMIT) if text.isdecimal() and int(text) else DEFAULT_LIMIT


def _version_alone(req: func.HttpRequest) -> func.HttpResponse | None:
    if req.params.get("version") is None or req.params.get("model") is not None:
        return None
    return _problem(400, "version is that of a model: give model as well")


def _dump(records: Iterable[BaseModel]) -> list[dict[str, Any]]:
    return [record.model_dump(mode="json", exclude={"etag", "command"}) for record in records]


def _json(body: Any, status: int = 200, mimetype: str = "application/json") -> func.HttpResponse:
    return func.HttpResponse(json.dumps(body), status_code=status, mimetype=mimetype)


def _problem(status: int, detail: str) -> func.HttpResponse:
    """An error as problem details (RFC 9457)."""
    body = {"type": "about:blank", "status": status, "detail": detail}
    return _json(body, status, "application/problem+json")
