"""The custom roles, the table of docs/security.md and what the adapters ask for are the same."""

import ast
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from emulator import access
from emulator.access import Access
from emulator.permissions import Assignments, Permission, Role, needed
from emulator.request_log import Entry
from emulator.topology import DATA_SCIENTIST, DEV, PROD, PROMOTION_SERVICE, Topology

REPOSITORY = Path(__file__).parent.parent.parent
NAMES = {"s": "source", "t": "source-with-status-tags", "T": "target", "S": "target-subscription"}
OPERATION = re.compile(r"Microsoft\.[A-Za-z]+(?:/[A-Za-z]+)+/(?:read|write|delete|[A-Za-z]+/action)")
SUBSCRIPTION = "/subscriptions/11111111-1111-4111-8111-111111111111"
WORKSPACE = f"{SUBSCRIPTION}/resourceGroups/rg/providers/Microsoft.MachineLearningServices/workspaces/ws"
ARM = "management.azure.com"
STATUS = "/providers/Microsoft.MachineLearningServices/locations/westeurope/mfeOperationsStatus/1"
SHORT = {"ML/": "Microsoft.MachineLearningServices/", "Blob/": "Microsoft.Storage/storageAccounts/blobServices/"}


def definition(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((access.ROLES / f"{name}.json").read_text(encoding="utf-8"))
    return found


def rows() -> Iterator[tuple[str, str, bool, str]]:
    """Request, permission, whether it is one on data, and the letters of the roles."""
    for line in (REPOSITORY / "docs" / "security.md").read_text(encoding="utf-8").splitlines():
        found = re.fullmatch(r"\| (.+?) \| `(\S+)`( \(data\))? \| ([stTS ]+) \| .+ \|", line)
        if found:
            short = found[2]
            for begin, full in SHORT.items():
                short = re.sub(f"^{begin}", full, short)
            yield found[1].strip("`"), short, found[3] is not None, found[4]


ROWS = list(rows())


@pytest.mark.parametrize("name", NAMES.values())
def test_a_role_is_well_formed(name: str) -> None:
    """As Azure takes it, without wildcards, and every operation is one that Azure lists."""
    role = definition(name)
    text = (Path(__file__).parent / "operations.txt").read_text(encoding="utf-8")
    official = {line.lower() for line in text.splitlines() if not line.startswith("#")}

    assert {*role} == {
        "Name",
        "IsCustom",
        "Description",
        "Actions",
        "NotActions",
        "DataActions",
        "NotDataActions",
        "AssignableScopes",
    }
    operations = [*role["Actions"], *role["DataActions"]]
    assert [each for each in operations if not OPERATION.fullmatch(each)] == []
    assert {each.lower() for each in operations} <= official
    assert role["Actions"] == sorted({*role["Actions"]})
    assert role["DataActions"] == sorted({*role["DataActions"]})
    assert role["NotActions"] == role["NotDataActions"] == []


@pytest.mark.parametrize(("letter", "name"), NAMES.items())
def test_a_role_has_what_the_table_says_and_no_more(letter: str, name: str) -> None:
    role = definition(name)
    assert {*role["Actions"]} == {each for _, each, data, letters in ROWS if letter in letters and not data}
    assert {*role["DataActions"]} == {each for _, each, data, letters in ROWS if letter in letters and data}


def test_status_tags_only_add_to_the_source_s_role() -> None:
    source, tagging = definition("source"), definition("source-with-status-tags")
    assert {*source["Actions"]} < {*tagging["Actions"]}
    assert not [
        each for each in source["Actions"] + source["DataActions"] if not re.search(r"/read$|Key/action$", each)
    ]


@pytest.mark.parametrize(("request_", "operation", "is_data", "letters"), ROWS)
def test_each_request_of_the_table_needs_its_permission(
    request_: str, operation: str, is_data: bool, letters: str
) -> None:
    if request_ == "scoring with a token of Entra ID":
        return  # to the endpoint's own host, which does not tell its workspace
    method, url = request_.split(" ")
    url = url.replace("{subscription}", SUBSCRIPTION).replace("{workspace}", WORKSPACE)
    url = f"https://management.azure.com{WORKSPACE}{url.rstrip('/')}" if url.startswith("/") else url
    host, _, path = url.removeprefix("https://").partition("/")
    path, _, query = path.partition("?")

    found = needed(method, host, f"/{path}", dict(each.split("=") for each in query.split("&") if each))

    assert found is not None
    assert (found.operation, found.is_data) == (operation, is_data)


def test_the_table_has_every_path_of_the_adapters() -> None:
    """Paths below a workspace, as they are written in core/adapters; none that is not written there."""
    put_together = {
        "/",
        "/onlineEndpoints/{}/listKeys",
        "/onlineEndpoints/{}/token",
        "/providers/Microsoft.Authorization/permissions",
    }
    known = {re.sub(r"\{\w+\}", "{}", request.split(" ")[1]) for request, *_ in ROWS if " /" in request}
    found = {path for file in (REPOSITORY / "core" / "adapters").glob("*.py") for path in _paths(file)}
    assert found == known - put_together


def _paths(file: Path) -> Iterator[str]:
    kinds = "models|jobs|datastores|codes|environments|components|onlineEndpoints|batchEndpoints|schedules|computes"
    nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
    pieces = {id(piece) for node in nodes if isinstance(node, ast.JoinedStr) for piece in node.values}
    for node in nodes:
        if (
            id(node) not in pieces
            and isinstance(node, ast.JoinedStr | ast.Constant)
            and (found := re.fullmatch(rf"/(?:{kinds})(?:/.*)?", _template(node)))
        ):
            yield found[0]


def _template(node: ast.JoinedStr | ast.Constant) -> str:
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    return "".join(str(each.value) if isinstance(each, ast.Constant) else "{}" for each in node.values)


# ------------------------------------------------------------------------------------------------------------- enforcing


ROLE = Role("r", frozenset({"a/b/read"}), frozenset({"a/c/read"}))


@pytest.mark.parametrize(
    ("scope", "permission", "allowed"),
    [
        ("/subscriptions/1", Permission("A/b/READ", "/Subscriptions/1/resourceGroups/x"), True),
        ("/subscriptions/1", Permission("a/b/read", "/subscriptions/1"), True),
        ("/subscriptions/1", Permission("a/b/read", "/subscriptions/11"), False),
        ("/subscriptions/1", Permission("a/b/write", "/subscriptions/1"), False),
        ("/subscriptions/1", Permission("a/b/read", "/subscriptions/1", is_data=True), False),
        ("storage:st", Permission("a/c/read", "storage:st", is_data=True), True),
        ("storage:st", Permission("a/c/read", "storage:other", is_data=True), False),
    ],
)
def test_a_role_counts_at_its_scope_and_below(scope: str, permission: Permission, allowed: bool) -> None:
    assignments = Assignments()
    assignments.assign(scope, ROLE)
    assert assignments.allow(permission) is allowed


def _entry(method: str, host: str, path: str) -> Entry:
    service = "blob" if ".blob." in host else "arm"
    return Entry(number=1, at=datetime.now(UTC), service=service, method=method, host=host, path=path)


@pytest.mark.parametrize(
    ("method", "host", "path", "is_missing"),
    [
        ("PUT", ARM, f"{PROD.arm_id}/onlineEndpoints/e/deployments/d", False),
        ("PUT", ARM, f"{PROD.arm_id.lower()}/onlineEndpoints/e", False),
        ("PUT", ARM, f"{DEV.arm_id}/onlineEndpoints/e/deployments/d", True),
        ("DELETE", ARM, f"{PROD.arm_id}/models/m/versions/1", True),
        ("PUT", ARM, f"{DEV.arm_id}/models/m/versions/1", False),
        ("GET", ARM, f"/subscriptions/{PROD.subscription_id}{STATUS}", False),
        ("GET", ARM, f"/subscriptions/{DEV.subscription_id}{STATUS}", True),
        ("PUT", f"{PROD.storage_account}.blob.core.windows.net", "/c/b", False),
        ("PUT", f"{DEV.storage_account}.blob.core.windows.net", "/c/b", True),
        ("PUT", "stpromotion.blob.core.windows.net", "/promotion-archive/b", False),
    ],
)
def test_a_request_without_permission_is_refused_at_the_door(
    method: str, host: str, path: str, is_missing: bool
) -> None:
    """With the policy of the tests: dev is a source with status tags, prod a target."""
    held = Access.of(REPOSITORY / "tests" / "promotion.yaml", Topology())
    entry = _entry(method, host, path)

    refusal = held.refusal(entry, PROMOTION_SERVICE)

    assert (refusal is not None) is is_missing is (access.MISSING in entry.detail)
    assert held.refusal(_entry(method, host, path), DATA_SCIENTIST) is None
    assert held.refusal(_entry(method, host, path), None) is None


def test_refusals_are_worded_as_azures() -> None:
    held = Access.of(REPOSITORY / "tests" / "promotion.yaml", Topology())
    of_arm = held.refusal(_entry("DELETE", ARM, f"{PROD.arm_id}/models/m/versions/1"), PROMOTION_SERVICE)
    of_blobs = held.refusal(_entry("PUT", f"{DEV.storage_account}.blob.core.windows.net", "/c/b"), PROMOTION_SERVICE)

    assert of_arm is not None and of_blobs is not None
    assert (of_arm.status, json.loads(str(of_arm.text))["error"]["code"]) == (403, "AuthorizationFailed")
    assert "perform action 'Microsoft.MachineLearningServices/workspaces/models/versions/delete'" in str(of_arm.text)
    assert (of_blobs.status, of_blobs.headers["x-ms-error-code"]) == (403, "AuthorizationPermissionMismatch")


@pytest.mark.parametrize("text", ["", "sources: [", "sources: {dev: {}}\ntargets: {}"])
def test_what_is_no_policy_holds_nobody_to_anything(tmp_path: Path, text: str) -> None:
    """The app says what is wrong with it."""
    (tmp_path / "promotion.yaml").write_text(text, encoding="utf-8")
    held = Access.of(tmp_path / "promotion.yaml", Topology())
    assert held.refusal(_entry("DELETE", ARM, PROD.arm_id), PROMOTION_SERVICE) is None


@pytest.mark.parametrize(
    ("method", "query", "operation"),
    [
        ("PUT", {"comp": "block"}, "blobs/write"),
        ("PUT", {"comp": "metadata"}, "blobs/write"),
        ("PUT", {"restype": "container"}, "containers/write"),
    ],
)
def test_what_replaces_a_blob_is_more_than_creating_one(method: str, query: dict[str, str], operation: str) -> None:
    found = needed(method, "st.blob.core.windows.net", "/c/b", query)
    assert found is not None
    assert found.operation.endswith(operation)
