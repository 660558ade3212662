"""What the decisions need of the outside, as Protocols and values; `core/adapters` has them for Azure.

Every method may raise Transient (look again later), Blocked (somebody must do something) or Refusal (never).
"""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, Field

from core.commands import Operation, PromoteModel
from core.events import WorkspaceId
from core.ledger import EventRecord, Promotion, StepRecord
from core.origin import Run
from core.packaging import Manifest


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True)


# -------------------------------------------------------------------------------------------------------------- source


class SourceModel(_Value):
    """A registered model version as its workspace shows it."""

    name: str
    version: str
    model_type: str
    uri: str
    tags: Mapping[str, str]
    properties: Mapping[str, str]
    job_name: str | None
    archived: bool
    created_at: datetime
    created_by: str


class Source(Protocol):
    """Reading from source workspaces; no method writes."""

    def model(self, workspace: WorkspaceId, name: str, version: str) -> SourceModel: ...

    def root_run(self, workspace: WorkspaceId, run_id: str) -> Run | None:
        """The run at the root of this run's tree; None if the workspace no longer has it."""
        ...

    def manifest(self, workspace: WorkspaceId, uri: str) -> Manifest: ...

    def read(self, manifest: Manifest, path: str) -> bytes:
        """A small text file of the model; at most `packaging.READABLE_LIMIT` bytes."""
        ...


# -------------------------------------------------------------------------------------------------------------- target


class Provisioning(StrEnum):
    """Azure ML's provisioning states, folded to what matters here: settled well, settled badly, or changing."""

    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    CHANGING = "Changing"
    DELETING = "Deleting"


class Endpoint(_Value):
    """An online endpoint. `body` is the whole resource as read: updates are whole-body PUTs that must lose nothing."""

    name: str
    tags: Mapping[str, str]
    traffic: Mapping[str, int]
    provisioning: Provisioning
    scoring_uri: str | None
    auth_mode: str
    body: Mapping[str, Any]


class Deployment(_Value):
    """An online deployment."""

    name: str
    tags: Mapping[str, str]
    provisioning: Provisioning


class DeploymentSpec(_Value):
    """What a new online deployment shall be. `model_id` is the ARM id of the registered model in the target."""

    endpoint: str
    name: str
    model_id: str
    instance_type: str
    instance_count: int
    request_timeout_ms: int | None = None
    max_concurrent_requests_per_instance: int | None = None
    environment_variables: Mapping[str, str] = Field(default_factory=dict)
    tags: Mapping[str, str]


class TargetModel(_Value):
    """A model version in the target workspace."""

    id: str
    tags: Mapping[str, str]


class CopyStatus(StrEnum):
    MISSING = "missing"
    PENDING = "pending"
    FAILED = "failed"
    COPIED = "copied"


class CopyState(_Value):
    """How far the copy of one file is. `md5` (base64) and `size` are those of the copy; `etag` serves to replace it."""

    path: str
    status: CopyStatus
    size: int | None = None
    bytes_copied: int | None = None
    md5: str | None = None
    etag: str | None = None
    why: str | None = None


class ScoringAnswer(_Value):
    """What a scoring request got: HTTP status (None if nothing answered), body or error in words, seconds."""

    status: int | None
    text: str
    seconds: float


class Target(Protocol):
    """One target workspace. Writes return as soon as Azure has accepted them: nothing here waits for an operation."""

    def endpoint(self, name: str) -> Endpoint | None: ...

    def deployments(self, endpoint: str) -> tuple[Deployment, ...]: ...

    def model(self, name: str, version: str) -> TargetModel | None: ...

    def copy_states(self, manifest: Manifest) -> tuple[CopyState, ...]: ...

    def start_copy(self, manifest: Manifest, state: CopyState) -> None:
        """Start the server-side copy of one file, pinned to the manifest's ETag; never overwrites a good copy."""
        ...

    def register_model(
        self,
        manifest: Manifest,
        *,
        name: str,
        version: str,
        model_type: str,
        flavors: Mapping[str, Any],
        tags: Mapping[str, str],
    ) -> None: ...

    def create_endpoint(self, name: str, *, auth_mode: str, tags: Mapping[str, str]) -> Operation | None: ...

    def update_endpoint(
        self, endpoint: Endpoint, *, tags: Mapping[str, str], traffic: Mapping[str, int]
    ) -> Operation | None:
        """PUT the whole endpoint as read, with these tags and this traffic."""
        ...

    def create_deployment(self, spec: DeploymentSpec) -> Operation | None: ...

    def delete_deployment(self, endpoint: str, name: str) -> Operation | None: ...

    def deployment_log(self, endpoint: str, name: str) -> str: ...

    def operation_error(self, operation: Operation) -> str | None:
        """Azure's error of a failed operation, as `code: message`; None if it names none or is forgotten."""
        ...

    def score(self, endpoint: Endpoint, deployment: str, body: Mapping[str, Any]) -> ScoringAnswer:
        """One scoring request to this very deployment, whatever its share of the traffic."""
        ...


# -------------------------------------------------------------------------------------------------------------- engine


class CommandQueue(Protocol):
    """The queue of commands, with sessions."""

    def send(self, command: PromoteModel, *, not_before: datetime | None = None) -> None: ...


class Ledger(Protocol):
    """What was wanted, decided and done. Repeating a call changes nothing."""

    def open(self, promotion: Promotion) -> Promotion:
        """Insert the row unless it is there; the row as it then stands."""
        ...

    def promotion(self, promotion_id: str) -> Promotion | None: ...

    def save(self, promotion: Promotion) -> Promotion:
        """Replace the row that was read; Transient if somebody else changed it since. The row as it now stands."""
        ...

    def note(self, step: StepRecord) -> None: ...

    def steps(self, promotion_id: str) -> tuple[StepRecord, ...]: ...

    def record_event(self, event: EventRecord) -> None: ...

    def keep(self, kind: str, digest: str, content: str) -> None:
        """Keep an immutable document (manifest, recipe) under its digest; a second time does nothing."""
        ...

    def kept(self, kind: str, digest: str) -> str: ...
