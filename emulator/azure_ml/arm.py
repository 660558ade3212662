"""What all of Azure Resource Manager's answers share: routes, errors, pages, system data."""

import json
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from aiohttp import web

from emulator.mounts import error_body
from emulator.request_log import Entry
from emulator.topology import PROMOTION_SERVICE, Identity, WorkspaceSpec

PAGE_SIZE = 100
PROVIDER = "Microsoft.MachineLearningServices"
WORKSPACE = f"/subscriptions/{{subscription}}/resourceGroups/{{group}}/providers/{PROVIDER}/workspaces/{{workspace}}"


class ArmError(Exception):
    """A refusal: an HTTP status, one of Azure's error codes, and a sentence that says what to do."""

    def __init__(self, status: int, code: str, message: str, details: Sequence[dict[str, str]] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.details = details

    def answer(self) -> web.Response:
        body: dict[str, Any] = error_body(self.code, self.message)
        if self.details:
            body["error"] |= {"details": list(self.details)}
        return web.json_response(body, status=self.status)


def not_found(resource_type: str, name: str, group: str) -> ArmError:
    """The 404 of a tracked resource, in ARM's words."""
    return ArmError(
        404,
        "ResourceNotFound",
        f"The Resource '{PROVIDER}/{resource_type}/{name}' under resource group '{group}' was not found. For more "
        "details please go to https://aka.ms/ARMResourceNotFoundFix",
    )


def bad_request(message: str) -> ArmError:
    return ArmError(400, "BadRequest", message)


def conflict(message: str) -> ArmError:
    return ArmError(409, "Conflict", message)


@dataclass
class Call:
    """One request, with the parameters of its path."""

    request: web.Request
    caller: Identity  # on the mount without an audience: nobody in particular
    entry: Entry
    parameters: dict[str, str]

    def __getitem__(self, parameter: str) -> str:
        return self.parameters[parameter]

    async def body(self) -> dict[str, Any]:
        """The JSON object in the body; an empty one if there is no body."""
        text = await self.request.text()
        try:
            body = json.loads(text) if text else {}
        except ValueError as error:
            raise ArmError(400, "InvalidRequestContent", f"The request content was invalid JSON: {error}") from None
        if not isinstance(body, dict):
            raise ArmError(400, "InvalidRequestContent", "The request content must be a JSON object.")
        return body


Respond = Callable[[Call], Awaitable[web.StreamResponse]]


class Routes:
    """Paths with parameters in braces, matched as ARM does: without regard to case, whatever the api-version."""

    def __init__(self) -> None:
        self._routes: list[tuple[str, re.Pattern[str], Respond]] = []

    def add(self, method: str, template: str, respond: Respond) -> None:
        pattern = re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", re.escape(template))
        self._routes.append((method, re.compile(pattern + "/?", re.IGNORECASE), respond))

    async def respond(self, request: web.Request, caller: Identity, entry: Entry) -> web.StreamResponse:
        known_path = False
        for method, pattern, respond in self._routes:
            if match := pattern.fullmatch(request.path):
                known_path = True
                if method == request.method:
                    try:
                        return await respond(Call(request, caller, entry, match.groupdict()))
                    except ArmError as error:
                        return error.answer()
        if known_path:
            return ArmError(405, "MethodNotAllowed", f"{request.method} is not allowed on {request.path}").answer()
        message = f"The local Azure has nothing at {request.method} {request.path}"
        return ArmError(404, "NotFound", message).answer()


def iso(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


class SystemData:
    """Who created a resource and who changed it last."""

    def __init__(self, caller: Identity, now: datetime) -> None:
        self.created_at = now
        self._created = self._mark("created", caller, now)
        self._modified = self._mark("lastModified", caller, now)

    def modify(self, caller: Identity, now: datetime) -> None:
        self._modified = self._mark("lastModified", caller, now)

    def as_json(self) -> dict[str, str]:
        return self._created | self._modified

    @staticmethod
    def _mark(what: str, caller: Identity, now: datetime) -> dict[str, str]:
        kind = "Application" if caller == PROMOTION_SERVICE else "User"
        return {f"{what}At": iso(now), f"{what}By": caller.name, f"{what}ByType": kind}


def resource(spec: WorkspaceSpec, *path: str) -> dict[str, str]:
    """The id, name and type of a resource below a workspace, `path` alternating types and names."""
    kind = "/".join((f"{PROVIDER}/workspaces", *path[::2]))
    return {"id": "/".join((spec.arm_id, *path)), "name": path[-1], "type": kind}


def page(call: Call, items: Sequence[dict[str, Any]]) -> web.Response:
    """One page of a list, with a link to the next. `$top` and `count` bound it, `$skip` says where it begins."""
    query = call.request.query
    try:
        start = int(query.get("$skip", 0))
        size = min(int(query.get("$top") or query.get("count") or PAGE_SIZE), PAGE_SIZE)
    except ValueError:
        raise bad_request("$skip, $top and count must be whole numbers.") from None
    answer: dict[str, Any] = {"value": list(items[start : start + size])}
    if start + size < len(items):
        following = call.request.url.update_query({"$skip": str(start + size)})
        answer["nextLink"] = str(following.with_scheme("https"))
    return web.json_response(answer)


def listed(call: Call, archived: bool) -> bool:
    """Whether `listViewType` shows a resource of this state."""
    view = call.request.query.get("listViewType", "ActiveOnly").lower()
    return view == "all" or archived == (view == "archivedonly")
