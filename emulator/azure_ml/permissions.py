"""What identities may do with Azure ML's resources: what their roles allow, but for actions that were taken away from them."""

from fnmatch import fnmatchcase

from aiohttp import web

from emulator.access import Access, refusal_text
from emulator.azure_ml.arm import WORKSPACE, ArmError, Call, Routes
from emulator.azure_ml.workspaces import Workspace, Workspaces
from emulator.topology import Identity

_VERBS = {"GET": "read", "HEAD": "read", "PUT": "write", "PATCH": "write", "DELETE": "delete", "POST": "action"}


class Permissions:
    """Checks every request to Resource Manager, and answers who asks what is allowed."""

    def __init__(self, workspaces: Workspaces, access: Access) -> None:
        self._workspaces = workspaces
        self._access = access
        self._taken: dict[tuple[str, str], tuple[str, ...]] = {}  # by identity and the ARM id of a workspace

    def add_routes(self, routes: Routes) -> None:
        routes.add("GET", WORKSPACE + "/providers/Microsoft.Authorization/permissions", self._list)

    def take(self, identity: Identity, workspace: Workspace, actions: tuple[str, ...]) -> None:
        """These actions, patterns as in role definitions, are what the identity may not do from now on."""
        self._taken[identity.name, workspace.spec.arm_id.lower()] = actions

    def taken(self, identity: Identity, workspace: Workspace) -> tuple[str, ...]:
        return self._taken.get((identity.name, workspace.spec.arm_id.lower()), ())

    def check(self, request: web.Request, caller: Identity) -> None:
        """Raise Resource Manager's refusal of a request that the caller may not make."""
        action = action_of(request.method, request.path)
        if action is None:
            return
        for workspace in self._concerned(request.path):
            if any(fnmatchcase(action.lower(), pattern.lower()) for pattern in self.taken(caller, workspace)):
                raise ArmError(
                    403,
                    "AuthorizationFailed",
                    refusal_text(caller, action, request.path),
                )

    def _concerned(self, path: str) -> list[Workspace]:
        """The workspace of a path; for what is of a whole region, those of the subscription."""
        below = self._workspaces.of_arm_id(f"{path.rstrip('/')}/")
        if below is not None:
            return [below]
        subscription = path.split("/")[2].lower() if path.count("/") > 1 else ""
        return [each for each in self._workspaces.all if each.spec.subscription_id.lower() == subscription]

    async def _list(self, call: Call) -> web.Response:
        workspace = self._workspaces.of(call)
        roles = self._access.roles(call.caller, workspace.spec.arm_id)
        given = [["*"]] if roles is None else [sorted(role.actions) for role in roles]
        more = {"notActions": list(self.taken(call.caller, workspace)), "dataActions": [], "notDataActions": []}
        return web.json_response({"value": [{"actions": actions, **more} for actions in given]})


def action_of(method: str, path: str) -> str | None:
    """The action of a request, as role definitions name it; None for what is no resource of a provider."""
    _, found, rest = path.rpartition("/providers/")
    if not found or method not in _VERBS:
        return None
    provider, *segments = rest.strip("/").split("/")
    return "/".join((provider, *segments[::2], _VERBS[method]))
