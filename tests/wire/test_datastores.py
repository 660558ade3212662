"""Where the files of a model are, asked of a workspace over the wire."""

import pytest
from azure.identity import ManagedIdentityCredential

from core.adapters.arm import Arm
from core.adapters.datastores import BlobPath, resolve
from core.errors import Reason, Refusal
from core.events import WorkspaceId
from emulator.topology import DEV, PROD, WorkspaceSpec
from tests.wire.azure_ml_clients import Azure, azure

__all__ = ["azure"]

WORKSPACE = WorkspaceId.parse(DEV.arm_id)
ACCOUNT = f"https://{DEV.storage_account}.blob.core.windows.net"
CONTAINER = f"azureml-blobstore-{DEV.workspace_guid}"
LONG = f"azureml://subscriptions/{DEV.subscription_id}/resourcegroups/{DEV.resource_group}/workspaces/{DEV.name}"


def https(spec: WorkspaceSpec, container: str, path: str) -> str:
    return f"https://{spec.storage_account}.blob.core.windows.net/{container}/{path}"


@pytest.fixture
def arm(azure: Azure) -> Arm:
    return Arm(ManagedIdentityCredential(), WORKSPACE)


@pytest.mark.parametrize(
    ("uri", "container", "path"),
    [
        (https(DEV, CONTAINER, "models/m/1/"), CONTAINER, "models/m/1"),
        (https(DEV, "azureml", "ExperimentRun/dcid.r/model"), "azureml", "ExperimentRun/dcid.r/model"),
        (f"{LONG}/datastores/workspaceblobstore/paths/models/m", CONTAINER, "models/m"),
        ("azureml://datastores/workspaceartifactstore/paths/a/b/", "azureml", "a/b"),
        ("azureml://jobs/run/outputs/artifacts/paths/model/", "azureml", "ExperimentRun/dcid.run/model"),
    ],
)
def test_a_path_of_the_workspace_is_found(arm: Arm, uri: str, container: str, path: str) -> None:
    assert resolve(arm, WORKSPACE, uri) == BlobPath(ACCOUNT, container, path)


def test_all_pages_of_datastores_are_read(azure: Azure, arm: Arm) -> None:
    """The first page has one datastore of another type; the link to the second is followed by its token alone."""
    first = {
        "value": [{"name": "files", "properties": {"datastoreType": "AzureFile", "accountName": DEV.storage_account}}],
        "nextLink": "https://elsewhere.example/datastores?$skip=0",
    }
    azure.control("POST", "/faults", {"path": "/datastores$", "status": 200, "body": first})
    uri = https(DEV, CONTAINER, "models/m/1")
    assert resolve(arm, WORKSPACE, uri) == BlobPath(ACCOUNT, CONTAINER, "models/m/1")


@pytest.mark.parametrize(
    "uri",
    [
        https(PROD, f"azureml-blobstore-{PROD.workspace_guid}", "models/m/1"),  # another workspace's storage
        https(PROD, CONTAINER, "models/m/1"),  # the container's name, but in another account
        https(DEV, "promotion-documents", "recipe"),  # the account, but a container that is no datastore
        https(DEV, CONTAINER, "models/../secret"),
        https(DEV, CONTAINER, "models//m"),
        https(DEV, CONTAINER, "./models"),
        "https://stmldev.blob.core.windows.net.evil.example/c/p",
        "azureml://datastores/workspaceblobstore/paths/models/../secret",
        "azureml://datastores/workspaceblobstore/paths/models//m",
        "azureml://jobs/run/outputs/artifacts/paths/../../other",
    ],
)
def test_a_path_outside_of_the_workspace_is_refused(arm: Arm, uri: str) -> None:
    with pytest.raises(Refusal) as refusal:
        resolve(arm, WORKSPACE, uri)
    assert refusal.value.reason is Reason.MODEL_PATH_UNSUPPORTED
    assert "source workspace" in refusal.value.remedy
