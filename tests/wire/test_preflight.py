"""What can be asked of a target in advance, over the wire; and what Azure does about those who did not ask."""

from collections.abc import Iterator
from typing import Any

import pytest
from azure.ai.ml.entities import ManagedOnlineDeployment, Model
from azure.core.exceptions import HttpResponseError
from azure.identity import ManagedIdentityCredential

from core.adapters.arm import Arm
from core.adapters.azure_ml_preflight import AzureMLPreflight
from core.adapters.azure_ml_target import AzureMLTarget
from core.adapters.blobs import Blobs
from core.effects import look
from core.errors import Blocked, Reason, Refusal
from core.events import WorkspaceId
from core.outcomes import Parked
from core.ports import Compute, DeploymentSpec, Grant, InstanceType, Quota
from core.preflight import preflight
from core.steps import UNKNOWN, Look, Seen, Wanted
from emulator.topology import DATA_SCIENTIST, DEV, PROD
from tests.unit.builders import a_batch_command, a_batch_recipe, a_command, a_wanted
from tests.wire.azure_ml_clients import Azure, azure

__all__ = ["azure"]

WORKSPACE = WorkspaceId.parse(PROD.arm_id)
ML = "Microsoft.MachineLearningServices"
FAMILY = "standardDSv2Family"


@pytest.fixture
def asked(azure: Azure) -> Iterator[AzureMLPreflight]:
    yield AzureMLPreflight(Arm(ManagedIdentityCredential(), WORKSPACE), WORKSPACE)
    azure.control("PUT", "/azure-ml/prod/quota", {FAMILY: None, "TotalDedicatedCores": None})
    azure.control("PUT", "/azure-ml/prod/permissions", {"identity": DATA_SCIENTIST.name, "actions": []})
    azure.control("PUT", "/azure-ml/prod/vm-sizes", {"Standard_Huge": None})
    azure.control_answer("DELETE", "/faults")


@pytest.fixture
def target(azure: Azure) -> AzureMLTarget:
    credential = ManagedIdentityCredential()
    return AzureMLTarget(credential, WORKSPACE, Blobs(credential))


def take(azure: Azure, *actions: str) -> None:
    azure.control("PUT", "/azure-ml/prod/permissions", {"identity": DATA_SCIENTIST.name, "actions": list(actions)})


def dedicated(found: tuple[Quota, ...], name: str = FAMILY) -> Quota:
    (only,) = (quota for quota in found if quota.name == name)
    return only


def a_deployment_of(azure: Azure, endpoint: str, name: str = "blue", instances: int = 1) -> ManagedOnlineDeployment:
    """Of a model whose files are not there: it fails in the end, and has its quota like any other."""
    client = azure.client(PROD)
    path = "azureml://datastores/workspaceblobstore/paths/nothing/at/all"
    model = client.models.create_or_update(Model(name="nothing", version="1", path=path, type="mlflow_model"))
    return ManagedOnlineDeployment(
        name=name,
        endpoint_name=endpoint,
        model=model.id,
        instance_type="Standard_DS3_v2",
        instance_count=instances,
    )


# ------------------------------------------------------------------------------------------------------------ asking


def test_an_instance_type_is_found_however_it_is_written(azure: Azure, asked: AzureMLPreflight) -> None:
    found = InstanceType(name="Standard_DS3_v2", family=FAMILY, vcpus=4)
    assert (asked.instance_type("Standard_DS3_v2"), asked.instance_type("STANDARD_DS3_V2")) == (found, found)
    assert asked.instance_type("Standard_Huge") is None
    azure.control("PUT", "/azure-ml/prod/vm-sizes", {"Standard_Huge": {"family": "hugeFamily", "vCPUs": 999}})
    assert asked.instance_type("standard_huge") == InstanceType(name="Standard_Huge", family="hugeFamily", vcpus=999)


def test_only_dedicated_vcpus_count_and_minus_one_is_no_limit(azure: Azure, asked: AzureMLPreflight) -> None:
    azure.control("PUT", "/azure-ml/prod/quota", {FAMILY: 20, "TotalDedicatedCores": -1})
    found = asked.quotas()
    assert (dedicated(found).used, dedicated(found).limit) == (0, 20)
    assert dedicated(found, "TotalDedicatedCores").limit is None
    assert [quota for quota in found if "low" in quota.name.lower()] == []


def test_limits_of_other_workspaces_are_not_ours(azure: Azure, asked: AzureMLPreflight) -> None:
    """And all pages are read; one that is linked elsewhere is not: the token is for Resource Manager alone."""
    asked.quotas()  # the region is known from here on

    def row(place: str, limit: int, kind: str = f"{ML}/workspaces/vmFamily/dedicatedCores/usages") -> dict[str, Any]:
        name = {"value": FAMILY, "localizedValue": f"limit {limit}"}
        return {"id": f"{place}/usages/x", "type": kind, "name": name, "currentValue": 1, "limit": limit}

    base = f"/subscriptions/{PROD.subscription_id}/resourceGroups/rg/providers/{ML}/workspaces"
    following = f"https://management.azure.com/subscriptions/{PROD.subscription_id}/second-page"
    first = {"value": [row(f"{base}/other", 1), row(f"{base}/{PROD.name.upper()}", 2)], "nextLink": following}
    second = {"value": [row("/subscriptions/x", 3)], "nextLink": "https://elsewhere.example/third-page"}
    azure.control("POST", "/faults", {"path": "/usages$", "status": 200, "body": first})
    azure.control("POST", "/faults", {"path": "/second-page$", "status": 200, "body": second})
    assert asked.quotas() == tuple(Quota(name=FAMILY, label=f"limit {n}", used=1, limit=n) for n in (2, 3))


def test_what_the_identity_may_do(azure: Azure, asked: AzureMLPreflight) -> None:
    assert asked.grants() == (Grant(actions=("*",)),)
    take(azure, f"{ML}/workspaces/onlineEndpoints/*")
    assert asked.grants() == (Grant(actions=("*",), not_actions=(f"{ML}/workspaces/onlineEndpoints/*",)),)


def test_a_compute(asked: AzureMLPreflight) -> None:
    assert asked.compute("cpu-cluster") == Compute(
        name="cpu-cluster", kind="AmlCompute", state="Succeeded", max_nodes=2
    )
    assert asked.compute("gpu-cluster") is None


# ------------------------------------------------------------------------------------------- through the whole of it


def asks(target: AzureMLTarget, wanted: Wanted) -> tuple[Seen, object]:
    seen = Seen(endpoint=None)
    while isinstance(step := preflight(wanted, seen), Look):
        seen = look(target, wanted, seen, step)
    return seen, step


def test_it_costs_three_requests_at_most(azure: Azure, asked: AzureMLPreflight, target: AzureMLTarget) -> None:
    """The region of a target is asked for once in the life of a process, and its creations need it as well."""
    _ = target._arm.location

    def requests_of(wanted: Wanted) -> list[str]:
        since = max(entry["number"] for entry in azure.control("GET", "/requests")["requests"])
        assert asks(target, wanted)[1] is None
        entries = azure.control("GET", f"/requests?since={since}&service=arm")["requests"]
        return [entry["path"].rpartition("/")[2] for entry in entries]

    assert sorted(requests_of(a_wanted())) == ["permissions", "usages", "vmSizes"]
    batch = a_wanted(a_batch_command(), a_batch_recipe())
    assert sorted(requests_of(batch)) == ["cpu-cluster", "permissions"]


@pytest.mark.parametrize("status", [403, 404, 400, 429, 503])
def test_what_cannot_be_asked_is_noted_and_keeps_nothing(
    azure: Azure, asked: AzureMLPreflight, target: AzureMLTarget, status: int
) -> None:
    _ = target._arm.location
    body = {"error": {"code": "Nope", "message": "not for you"}}
    azure.control(
        "POST", "/faults", {"path": "/(usages|vmSizes|permissions)$", "status": status, "body": body, "times": 3}
    )
    seen, step = asks(target, a_wanted())
    assert step is None
    assert (seen.grants, seen.instance_type, seen.quotas) == (UNKNOWN, UNKNOWN, UNKNOWN)
    assert len(seen.unchecked) == 3
    assert all("not for you" in note for note in seen.unchecked)


def test_a_right_that_is_missing_is_seen_before_it_is_missed(
    azure: Azure, asked: AzureMLPreflight, target: AzureMLTarget
) -> None:
    take(azure, f"{ML}/locations/usages/read", f"{ML}/workspaces/onlineEndpoints/deployments/write")
    seen, step = asks(target, a_wanted(a_command()))
    assert isinstance(step, Parked)
    assert (step.reason, "onlineEndpoints/deployments/write" in step.why) == (Reason.PERMISSION_MISSING, True)
    assert (seen.quotas, "AuthorizationFailed" in seen.unchecked[0]) == (UNKNOWN, True)


# ------------------------------------------------------------------------------------------ what the local Azure does


def test_an_action_that_was_taken_away_is_refused_as_azure_does(azure: Azure, asked: AzureMLPreflight) -> None:
    take(azure, f"{ML}/workspaces/onlineEndpoints/write", f"{ML}/workspaces/datastores/listSecrets/*")
    client = azure.client(PROD)
    assert list(client.online_endpoints.list()) == []
    for method, path, action in (
        ("PUT", "/onlineEndpoints/nobody", "onlineEndpoints/write"),
        ("POST", "/datastores/workspaceblobstore/listSecrets", "datastores/listSecrets/action"),
    ):
        refused = azure.arm(method, f"{PROD.arm_id}{path}", json={})
        assert refused.status_code == 403
        error = refused.json()["error"]
        assert error["code"] == "AuthorizationFailed"
        assert f"'{ML}/workspaces/{action}' over scope '{PROD.arm_id}" in error["message"]
        assert DATA_SCIENTIST.object_id in error["message"]
    assert azure.arm("PUT", f"{DEV.arm_id}/onlineEndpoints/nobody", json={}).status_code == 400, "elsewhere it may"
    take(azure)
    assert azure.arm("PUT", f"{PROD.arm_id}/onlineEndpoints/nobody", json={}).status_code == 400


def test_deployments_take_quota_and_give_it_back(azure: Azure, asked: AzureMLPreflight) -> None:
    azure.control("PUT", "/azure-ml/prod/quota", {FAMILY: 20})
    endpoint, client = azure.new_endpoint(PROD), azure.client(PROD)
    first = client.online_deployments.begin_create_or_update(a_deployment_of(azure, endpoint))
    assert dedicated(asked.quotas()).used == 8
    with pytest.raises(HttpResponseError):
        first.result()
    with pytest.raises(HttpResponseError) as refused:
        client.online_deployments.begin_create_or_update(a_deployment_of(azure, endpoint, "green", instances=3))
    assert refused.value.status_code == 400
    assert "Not enough quota available for Standard_DS3_v2" in str(refused.value)
    assert "Current usage/limit: 8/20. Additional needed: 16" in str(refused.value)
    assert [each.name for each in client.online_deployments.list(endpoint)] == ["blue"]
    client.online_deployments.begin_delete("blue", endpoint).result()
    assert dedicated(asked.quotas()).used == 0
    assert azure.control("GET", "/azure-ml/prod/quota")[FAMILY] == {"used": 0, "limit": 20}


def test_what_azure_refuses_for_its_quota_waits_for_more(
    azure: Azure, asked: AzureMLPreflight, target: AzureMLTarget
) -> None:
    """Whoever could not ask in advance, or was overtaken, is told by the creation itself."""
    endpoint = azure.new_endpoint(PROD)
    model = str(a_deployment_of(azure, endpoint).model)
    spec = DeploymentSpec(
        endpoint=endpoint, name="v1-1234", model_id=model, instance_type="Standard_DS3_v2", instance_count=2, tags={}
    )
    azure.control("PUT", "/azure-ml/prod/quota", {FAMILY: 11})
    with pytest.raises(Blocked) as blocked:
        target.online.create_deployment(spec)
    assert (blocked.value.reason, "Additional needed: 12" in str(blocked.value)) == (Reason.QUOTA_EXCEEDED, True)
    with pytest.raises(Refusal) as refused:
        target.online.create_deployment(spec.model_copy(update={"instance_type": "Standard_Huge"}))
    assert (refused.value.reason, "Standard_Huge is not supported" in str(refused.value)) == (
        Reason.REQUEST_REJECTED,
        True,
    )
    azure.control("PUT", "/azure-ml/prod/quota", {FAMILY: 12})
    assert target.online.create_deployment(spec) is not None
    assert dedicated(asked.quotas()).used == 12


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("quota", {FAMILY: "many"}),
        ("quota", {FAMILY: -2}),
        ("vm-sizes", {"Standard_X": {"vCPUs": 4}}),
        ("vm-sizes", {"Standard_X": 4}),
        ("permissions", {"actions": "all"}),
        ("permissions", {"action": []}),
    ],
)
def test_what_the_control_api_does_not_understand_is_refused(azure: Azure, path: str, body: dict[str, Any]) -> None:
    refused = azure.control_answer("PUT", f"/azure-ml/prod/{path}", body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "BadRequest")
