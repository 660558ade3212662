"""Where the files of a model are: Azure ML's many ways to write a path, resolved to a container and a prefix."""

import re
from contextlib import suppress
from dataclasses import dataclass

from core.adapters.arm import Arm
from core.adapters.azure_ml_bodies import pages
from core.errors import Reason, Refusal
from core.events import WorkspaceId

ARTIFACT_STORE = "workspaceartifactstore"
BLOB_STORE = "workspaceblobstore"

_LONG = re.compile(
    r"azureml://subscriptions/(?P<subscription_id>[^/]+)/resourcegroups/(?P<resource_group>[^/]+)"
    r"(?:/providers/Microsoft\.MachineLearningServices)?/workspaces/(?P<workspace>[^/]+)"
    r"/datastores/(?P<datastore>[^/]+)/paths/(?P<path>.+)",
    re.IGNORECASE,
)
_SHORT = re.compile(r"azureml://datastores/(?P<datastore>[^/]+)/paths/(?P<path>.+)", re.IGNORECASE)
_JOB = re.compile(r"azureml://jobs/(?P<job>[^/]+)/outputs/(?P<output>[^/]+)(?:/paths/(?P<path>.*))?/?", re.IGNORECASE)
_BLOB = re.compile(
    r"https://(?P<account>[a-z0-9]{3,24})\.blob\.(?P<suffix>[a-z0-9.]+)/(?P<container>[^/?]+)/(?P<path>[^?]+)"
)
# Our token for storage goes to Azure's own hosts only: paths and datastores are written by those who register models.
STORAGE_SUFFIXES = frozenset({"core.windows.net", "core.chinacloudapi.cn", "core.usgovcloudapi.net"})


@dataclass(frozen=True)
class BlobPath:
    """A container of a storage account, and a path in it without slashes at its ends."""

    account_url: str
    container: str
    path: str


@dataclass(frozen=True)
class DatastorePath:
    datastore: str
    path: str


def resolve(arm: Arm, workspace: WorkspaceId, uri: str) -> BlobPath:
    """The blobs behind a model's `modelUri`.

    Raises Refusal for a path that is outside of this workspace or of a kind that cannot be copied.
    """
    if found := _BLOB.fullmatch(uri):
        account, container, path = account_url(found["account"], found["suffix"]), found["container"], found["path"]
        if not _has_datastore(arm, account, container):
            raise _unsupported(uri)
    else:
        place = _datastore_path(arm, workspace, uri)
        account, container = datastore_container(arm.get(f"/datastores/{place.datastore}"))
        path = place.path
    path = path.strip("/")
    if not is_plain(path):
        raise _unsupported(uri)
    return BlobPath(account, container, path)


def is_plain(path: str) -> bool:
    """Whether a path means what it says: HTTP clients leave out `.` and `..` and so reach other blobs than named."""
    return not {"", ".", ".."} & set(path.split("/"))


def _has_datastore(arm: Arm, account_url: str, container: str) -> bool:
    """Whether a datastore of the workspace is this container: else whoever may register models chose what we read."""
    for datastore in pages(arm, "/datastores"):
        with suppress(Refusal):  # one of another type
            if datastore_container(datastore) == (account_url, container):
                return True
    return False


def _datastore_path(arm: Arm, workspace: WorkspaceId, uri: str) -> DatastorePath:
    if found := _LONG.fullmatch(uri):
        named = WorkspaceId(**{key: found[key] for key in ("subscription_id", "resource_group", "workspace")})
        if named.key != workspace.key:
            raise _unsupported(uri)
        return DatastorePath(found["datastore"], found["path"])
    if found := _SHORT.fullmatch(uri):
        return DatastorePath(found["datastore"], found["path"])
    if found := _JOB.fullmatch(uri):
        return _job_output(arm, workspace, found["job"], found["output"], found["path"] or "")
    raise _unsupported(uri)


def _job_output(arm: Arm, workspace: WorkspaceId, job: str, output: str, path: str) -> DatastorePath:
    """`artifacts` is the run's artifact folder; other outputs are where the job says, else at Azure ML's default place."""
    if output == "artifacts":
        return DatastorePath(ARTIFACT_STORE, f"ExperimentRun/dcid.{job}/{path}")
    properties = (arm.find(f"/jobs/{job}") or {}).get("properties") or {}
    uri = ((properties.get("outputs") or {}).get(output) or {}).get("uri")
    if not uri or _JOB.fullmatch(uri):
        return DatastorePath(BLOB_STORE, f"azureml/{job}/{output}/{path}")
    base = _datastore_path(arm, workspace, uri.replace("${{name}}", job))
    return DatastorePath(base.datastore, f"{base.path.rstrip('/')}/{path}")


def account_url(account: str, suffix: str) -> str:
    if suffix not in STORAGE_SUFFIXES:
        raise _unsupported(f"https://{account}.blob.{suffix}")
    return f"https://{account}.blob.{suffix}"


def datastore_container(datastore: object) -> tuple[str, str]:
    """The account URL and the container of a datastore as Resource Manager answers it."""
    properties = datastore.get("properties", {}) if isinstance(datastore, dict) else {}
    if properties.get("datastoreType") not in ("AzureBlob", "AzureDataLakeGen2"):
        raise Refusal(
            Reason.MODEL_PATH_UNSUPPORTED,
            f"its files are in a datastore of type {properties.get('datastoreType')}",
            remedy="Register the model from a blob datastore.",
        )
    account, container = properties.get("accountName"), properties.get("containerName") or properties.get("filesystem")
    if not account or not container:
        raise Refusal(
            Reason.MODEL_PATH_UNSUPPORTED,
            "its files are in a datastore that names no storage account or no container",
            remedy="Correct the datastore, or register the model from another one.",
        )
    return account_url(str(account), properties.get("endpoint") or "core.windows.net"), str(container)


def _unsupported(uri: str) -> Refusal:
    return Refusal(
        Reason.MODEL_PATH_UNSUPPORTED,
        f"its path {uri[:300]!r} is none in a datastore or job of its own workspace",
        remedy="Register the model from a datastore or a job of the source workspace.",
    )
