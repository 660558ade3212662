"""The OpenAPI 3.1 document of the HTTP API: made from the operations that the functions were registered with.

Nothing is described twice: routes, methods, bodies, queries and answers are those of `functions/routes.py`, which says how
a module brings its own.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, Literal

import azure.functions as func
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from functions import http
from functions.http import ProblemDetails
from functions.routes import PATH_PARAMETERS, Nothing, Operation, Routes

JSON, PROBLEM = "application/json", "application/problem+json"
TEMPLATE = "#/components/schemas/{model}"
_TYPES = {"int": "integer", "long": "integer", "bool": "boolean", "decimal": "number", "double": "number"}
_ERRORS = (
    "400 a wrong body or query; 403 the caller may not; 404 not there; 409 not in this state; 413 too large a body; "
    "422 refused, with its `reason`; 503 ask again in a moment"
)


def routes(api: Sequence[Routes]) -> Routes:
    """The document of all modules in `api` at the first request, this one among them."""
    own = Routes()
    written = cache(lambda: document(operation for each in api for operation in each.operations))

    @own.blueprint.function_name("show_openapi")
    @own.blueprint.route("openapi.json", methods=["GET"])
    def show_openapi(req: func.HttpRequest) -> func.HttpResponse:
        return http.answer(written())

    own.document(Operation("show_openapi", "GET", "openapi.json", "This document (OpenAPI 3.1).", Nothing, JSON))
    return own


def document(operations: Iterable[Operation]) -> dict[str, Any]:
    found = list(operations)
    references, components = _schemas(found)
    paths: dict[str, Any] = {}
    for operation in found:
        described = paths.setdefault(f"/{_plain(operation.route)}", {})
        described[operation.method.lower()] = _described(operation, references)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Model promotion service",
            "version": "1",
            "description": "What was asked for, how far it is, and orders. See docs/contracts/http.md.",
        },
        "servers": [{"url": "/api"}],
        "security": [{"functionKey": []}, {"functionKeyInQuery": []}, {"functionKey": [], "signIn": []}],
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": _SECURITY},
    }


_SECURITY = {
    "functionKey": {"type": "apiKey", "in": "header", "name": "x-functions-key"},
    "functionKeyInQuery": {"type": "apiKey", "in": "query", "name": "code"},
    "signIn": {
        "type": "http",
        "scheme": "bearer",
        "description": "A token for the app registration of App Service authentication: it says who is asking.",
    },
}
Mode = Literal["validation", "serialization"]
References = Mapping[Any, dict[str, Any]]  # by model and mode


def _schemas(operations: list[Operation]) -> tuple[References, dict[str, Any]]:
    """What is taken as it is read, with its defaults; what is answered as it is written."""
    wanted: dict[tuple[type[BaseModel], Mode], None] = {(ProblemDetails, "serialization"): None}
    for operation in operations:
        if operation.method == "POST" and not isinstance(operation.takes, str):
            wanted[operation.takes, "validation"] = None
        if not isinstance(operation.answers, str):
            wanted[operation.answers, "serialization"] = None
    references, definitions = models_json_schema(list(wanted), ref_template=TEMPLATE)
    return references, definitions.get("$defs", {})


def _described(operation: Operation, references: References) -> dict[str, Any]:
    parameters = [_path_parameter(operation.route, name) for name in operation.path_parameters]
    more: dict[str, Any] = {}
    if operation.method == "POST":
        parameters.append(_IDEMPOTENCY_KEY)
        more["requestBody"] = _body(operation, references)
    elif not isinstance(operation.takes, str):
        parameters += _query_parameters(operation.takes)
    media = operation.answers if isinstance(operation.answers, str) else JSON
    answer = {} if isinstance(operation.answers, str) else references[operation.answers, "serialization"]
    problem = references[ProblemDetails, "serialization"]
    return {
        "operationId": operation.name,
        "summary": operation.summary,
        "tags": [operation.route.partition("/")[0]],
        "parameters": parameters,
        **more,
        "responses": {
            str(operation.status): {"description": "Done, or accepted.", "content": {media: {"schema": answer}}},
            "401": {"description": "The function key is missing or wrong; no body."},
            "default": {"description": _ERRORS, "content": {PROBLEM: {"schema": problem}}},
        },
    }


_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "The same request under the same key is one order, however often it is sent.",
    "schema": {"type": "string", "maxLength": http.IDEMPOTENCY_KEY_LIMIT},
}


def _plain(route: str) -> str:
    """Without constraints: `{number:int}` is `{number}`."""
    return re.sub(r"\{(\w+)[^}]*\}", r"{\1}", route)


def _path_parameter(route: str, name: str) -> dict[str, Any]:
    constraint = re.search(rf"\{{{name}:(\w+)", route)
    kind = _TYPES.get(constraint[1], "string") if constraint else "string"
    schema = {"type": kind} | ({"enum": ["realtime", "batch"]} if name == "serve" else {})
    return {"name": name, "in": "path", "required": True, "description": PATH_PARAMETERS[name], "schema": schema}


def _query_parameters(takes: type[BaseModel]) -> list[dict[str, Any]]:
    schema = takes.model_json_schema(ref_template=TEMPLATE)
    definitions = schema.get("$defs", {})
    return [
        {
            "name": name,
            "in": "query",
            "required": name in schema.get("required", ()),
            "schema": _inlined(described, definitions),
        }
        for name, described in schema.get("properties", {}).items()
    ]


def _inlined(schema: Any, definitions: Mapping[str, Any]) -> Any:
    """Without references, and without null, which a query cannot say."""
    if isinstance(schema, list):
        return [_inlined(each, definitions) for each in schema if each != {"type": "null"}]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    inlined = {key: _inlined(value, definitions) for key, value in schema.items() if (key, value) != ("default", None)}
    (only,) = inlined.pop("anyOf") if len(inlined.get("anyOf", ())) == 1 else ({},)
    return inlined | only


def _body(operation: Operation, references: References) -> dict[str, Any]:
    if isinstance(operation.takes, str):
        return {"required": True, "content": {operation.takes: {"schema": {"type": "string"}}}}
    is_required = any(field.is_required() for field in operation.takes.model_fields.values())
    return {"required": is_required, "content": {JSON: {"schema": references[operation.takes, "validation"]}}}
