"""How a module of HTTP functions is made, so that what is documented is what runs.

A module has a function `routes(...) -> Routes` that makes a `Routes` and hangs its handlers on it; `function_app.py` lists
it in `API`, which registers its functions and documents them (`functions/openapi.py`):

    api = Routes(platform_authentication=platform_authentication)

    @api.post("promotions/{id}/cancel", "End a promotion that is under way.", takes=Why, answers=PromotionRow)
    def cancel_promotion(req: Request[Why]) -> Promotion:
        return orders().cancel(req.path["id"], req.caller, order_id=req.order_id, reason=req.given.reason)

The function's name is that of the handler. `takes` is what a GET reads from its query and a POST from its body, decoded
before the handler is called and 400 if it is wrong; `Nothing` if there is nothing to say. `answers` is the model of the answer, and what the handler returns is
written by it (a model, a mapping of its fields, or a whole `func.HttpResponse`); for other media types it is their name.
`core.errors` and `OrderRefused` become problem details. The meaning of path parameters is in `PATH_PARAMETERS`.
"""

import logging
import re
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Generic, Literal, TypeVar

import azure.functions as func
from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from core.callers import Caller
from core.errors import Conflict
from core.telemetry import span
from functions import http
from functions.http import DEFAULT_LIMIT, LARGEST_LIMIT, Body, Problem

log = logging.getLogger(__name__)

# A row that a delivery writes at the same moment is free again in the next.
CONFLICTS = 3
PATH_PARAMETERS = {
    "id": "Id of a promotion.",
    "target": "Name of one of the policy's targets.",
    "serve": "realtime or batch.",
    "name": "Name of an endpoint.",
    "sequence_number": "Sequence number of a dead letter.",
}
# What the Functions host itself reads from a query.
_OF_THE_HOST = ("code", "clientId")
Media = str


class Nothing(Body):
    """Takes nothing: no body, or an empty object."""


def _at_most(value: Any) -> Any:
    return min(int(value), LARGEST_LIMIT) if isinstance(value, str) and value.isdecimal() else value


Limit = Annotated[int, Field(ge=1, le=LARGEST_LIMIT, description="The most that is listed."), BeforeValidator(_at_most)]


class Page(Body):
    """Takes how many are wanted."""

    limit: Limit = DEFAULT_LIMIT


T = TypeVar("T", bound=Body)


class Request(Generic[T]):
    """What a handler needs to know of a request; `given` is its query or body."""

    def __init__(self, raw: func.HttpRequest, operation: "Operation", given: T, caller: Caller) -> None:
        self.raw = raw
        self.given = given
        self.caller = caller
        self.path: Mapping[str, str] = raw.route_params
        self._operation = operation

    @cached_property
    def order_id(self) -> str:
        """The same for the same request under the same `Idempotency-Key`: what it is about and its body are part of it."""
        about = (self._operation.name, *self.path.values(), self.given.model_dump_json())
        return http.order_id(self.raw, self.caller, *about)


Answer = BaseModel | Mapping[str, Any] | func.HttpResponse
Handler = Callable[[Request[T]], Answer]


@dataclass(frozen=True)
class Operation:
    """One route and method, as it is documented."""

    name: str
    method: Literal["GET", "POST"]
    route: str
    summary: str
    takes: type[Body] | Media
    answers: type[BaseModel] | Media
    status: int = 200

    @property
    def path_parameters(self) -> list[str]:
        return re.findall(r"\{(\w+)[^}]*\}", self.route)


class Routes:
    """The HTTP functions of one module."""

    def __init__(self, *, platform_authentication: bool = False) -> None:
        self.blueprint = func.Blueprint()  # type: ignore[no-untyped-call] # azure-functions leaves it bare
        self.operations: list[Operation] = []
        self._platform_authentication = platform_authentication

    def get(
        self,
        route: str,
        summary: str,
        *,
        answers: type[BaseModel] | Media,
        takes: type[T],
    ) -> Callable[[Handler[T]], Handler[T]]:
        return self._route("GET", route, summary, takes, answers, 200)

    def post(
        self,
        route: str,
        summary: str,
        *,
        answers: type[BaseModel] | Media,
        takes: type[T],
        status: int = 202,
    ) -> Callable[[Handler[T]], Handler[T]]:
        return self._route("POST", route, summary, takes, answers, status)

    def _route(
        self,
        method: Literal["GET", "POST"],
        route: str,
        summary: str,
        takes: type[T],
        answers: type[BaseModel] | Media,
        status: int,
    ) -> Callable[[Handler[T]], Handler[T]]:
        def registered(handler: Handler[T]) -> Handler[T]:
            operation = Operation(handler.__name__, method, route, summary, takes, answers, status)

            def run(req: func.HttpRequest, context: func.Context) -> func.HttpResponse:
                given = _query(req, takes) if method == "GET" else http.body(req, takes)
                caller = http.caller(req, platform_authentication=self._platform_authentication)
                # What is asked for is a part of the request's trace; looking is not worth a span.
                parent = context.trace_context.trace_parent
                with span(operation.name, parent) if method == "POST" else nullcontext():
                    return _written(_handled(handler, Request(req, operation, given, caller)), operation)

            trigger = self.blueprint.route(route, methods=[method])
            self.blueprint.function_name(operation.name)(trigger(http.answered(run)))
            self.document(operation)
            return handler

        return registered

    def document(self, operation: Operation) -> None:
        """For functions that are registered on `blueprint` by hand, such as one whose body is no JSON."""
        self.operations.append(operation)


def _handled(handler: Handler[T], request: Request[T]) -> Answer:
    """What the handler answers. Its order has one id however often it is tried, so a conflict is not the caller's to solve."""
    for _ in range(CONFLICTS):
        try:
            return handler(request)
        except Conflict as conflict:
            log.info("%s is tried again: %s", request.order_id, conflict)
    return handler(request)


def _query(req: func.HttpRequest, takes: type[T]) -> T:
    try:
        return takes.model_validate_strings(
            {name: value for name, value in req.params.items() if name not in _OF_THE_HOST}
        )
    except ValidationError as error:
        raise Problem(400, http.mistakes(error, "query")) from error


def _written(given: Answer, operation: Operation) -> func.HttpResponse:
    if isinstance(given, func.HttpResponse):
        return given
    assert not isinstance(operation.answers, str)  # noqa: S101 - a mistake of the handler
    content = operation.answers.model_validate(given, from_attributes=True)
    return http.answer(content.model_dump(mode="json"), operation.status)
