"""What all HTTP functions share: bodies in, answers and problem details (RFC 9457) out, and who is asking."""

import functools
import json
import logging
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import azure.functions as func
from pydantic import BaseModel, ConfigDict, ValidationError

from core import callers, orders
from core.callers import Caller
from core.errors import Blocked, PromotionError, Refusal, Transient
from core.orders import OrderProblem, OrderRefused

log = logging.getLogger(__name__)

BODY_LIMIT = 64 * 1024
IDEMPOTENCY_KEY, IDEMPOTENCY_KEY_LIMIT = "idempotency-key", 200
DEFAULT_LIMIT, LARGEST_LIMIT = 200, 1000
_STATUS = {
    OrderProblem.NOT_FOUND: 404,
    OrderProblem.CONFLICT: 409,
    OrderProblem.FORBIDDEN: 403,
    OrderProblem.INVALID: 400,
}
Handler = Callable[..., func.HttpResponse]


class Body(BaseModel):
    """What a request may hold: what it may not hold is an error, so that a typing mistake is told."""

    model_config = ConfigDict(frozen=True, extra="forbid")


B = TypeVar("B", bound=Body)


class ProblemDetails(BaseModel):
    """An error (RFC 9457): `detail` says what to correct, `reason` is one of docs/contracts/promotions.md."""

    type: str
    status: int
    detail: str
    reason: str | None = None


class Problem(Exception):
    """An answer that is an error: its status, and what to correct."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


def answered(handler: Handler) -> Handler:
    """Turn what a handler raises into problem details."""

    @functools.wraps(handler)
    def answer(req: func.HttpRequest, **more: Any) -> func.HttpResponse:
        try:
            return handler(req, **more)
        except Problem as found:
            return problem(found.status, str(found))
        except OrderRefused as refused:
            return problem(_STATUS[refused.problem], str(refused))
        except Transient as fault:
            return problem(503, f"{fault}. Ask again in a moment.", headers={"Retry-After": "5"})
        except (Blocked, Refusal) as found:
            return problem(422, f"{found} {found.remedy}", reason=found.reason)
        except PromotionError as found:
            return problem(500, str(found))

    return answer


def body(req: func.HttpRequest, model: type[B]) -> B:
    """The request's JSON body; an empty one stands for `{}`."""
    raw = req.get_body() or b""
    if len(raw) > BODY_LIMIT:
        raise Problem(413, f"the body has {len(raw)} bytes; {BODY_LIMIT} are the most")
    try:
        return model.model_validate_json(raw.strip() or b"{}")
    except ValidationError as error:
        raise Problem(400, mistakes(error, "body")) from error


def mistakes(error: ValidationError, where: str) -> str:
    """The first few mistakes, each with its place in the body or query."""
    return "; ".join(
        f"{'.'.join(map(str, mistake['loc'])) or where}: {mistake['msg']}"
        for mistake in error.errors(include_url=False, include_input=False)[:5]
    )


def caller(req: func.HttpRequest, *, platform_authentication: bool) -> Caller:
    headers = {name.lower(): value for name, value in req.headers.items()}
    return callers.caller(headers, platform_authentication=platform_authentication)


def order_id(req: func.HttpRequest, who: Caller, *what: str) -> str:
    """From the header `Idempotency-Key`, so that a request that is sent again is one order; a new one without it."""
    key = req.headers.get(IDEMPOTENCY_KEY) or uuid.uuid4().hex
    if len(key) > IDEMPOTENCY_KEY_LIMIT:
        raise Problem(400, f"Idempotency-Key has more than {IDEMPOTENCY_KEY_LIMIT} characters")
    return orders.order_id(who, key, *what)


def limit(req: func.HttpRequest) -> int:
    """How many rows are wanted, within bounds; the default for what is no number."""
    text = req.params.get("limit", "")
    return min(int(text), LARGEST_LIMIT) if text.isdecimal() and int(text) else DEFAULT_LIMIT


def choice(req: func.HttpRequest, name: str, allowed: Iterable[str]) -> str | None:
    """A query parameter that has one of a few values, or is not there."""
    value: str | None = req.params.get(name)
    values = list(allowed)
    if value is not None and value not in values:
        raise Problem(400, f"{name} must be one of {', '.join(values)}, not {value!r}")
    return value


def dump(records: Iterable[BaseModel]) -> list[dict[str, Any]]:
    """As they are shown: without what is the service's own."""
    return [record.model_dump(mode="json", exclude={"etag", "command"}) for record in records]


def answer(content: Any, status: int = 200) -> func.HttpResponse:
    return func.HttpResponse(json.dumps(content), status_code=status, mimetype="application/json")


def problem(status: int, detail: str, *, headers: Mapping[str, str] | None = None, **more: str) -> func.HttpResponse:
    content = {"type": "about:blank", "status": status, "detail": detail} | more
    return func.HttpResponse(
        json.dumps(content), status_code=status, mimetype="application/problem+json", headers=dict(headers or {})
    )
