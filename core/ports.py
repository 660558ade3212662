"""What the decisions need of the outside, as Protocols and values; `core/adapters` has them for Azure.

Every method may raise Transient (look again later), Blocked (somebody must do something) or Refusal (never).
"""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol, Self

from pydantic import BaseModel, ConfigDict, Field

from core.commands import Command, Operation
from core.environments import Environment
from core.errors import Reason
from core.events import WorkspaceId
from core.ledger import Approval, AuditRecord, EventRecord, Hold, Memo, Promotion, StepRecord
from core.origin import Run
from core.packaging import Code, Manifest
from core.stages import BatchStage


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


class SourceRun(_Value):
    """A run as its workspace shows it. `status` is Azure ML's own word, `outputs` are types by name."""

    run: Run
    status: str
    experiment: str
    outputs: Mapping[str, str] = Field(default_factory=dict)
    created_at: datetime
    ended_at: datetime | None
    created_by: str


class Training(_Value):
    """What a run has logged: the last value of each metric, which may be no finite number."""

    run_id: str
    metrics: Mapping[str, float] = Field(default_factory=dict)
    ended_at: datetime | None = None
    is_running: bool = False


class ListedVersion(_Value):
    """A model version as a listing shows it; times in UTC."""

    name: str
    version: str
    tags: Mapping[str, str]
    created_at: datetime
    modified_at: datetime
    modified_by: str


class Listings(Protocol):
    """Listing what a source has. `requests` counts what it has cost so far."""

    requests: int

    def model_names(self, workspace: WorkspaceId) -> tuple[str, ...]: ...

    def versions(self, workspace: WorkspaceId, name: str) -> tuple[ListedVersion, ...]:
        """The versions that are not archived; none for a name that is not there."""
        ...


class Source(Protocol):
    """Reading from source workspaces. Nothing is written there but by `register`, which the policy must allow."""

    def model(self, workspace: WorkspaceId, name: str, version: str) -> SourceModel: ...

    def runs(self, workspace: WorkspaceId, run_id: str) -> tuple[Run, ...]:
        """This run, its parent, and so on up to the root; empty if the workspace no longer has it."""
        ...

    def manifest(self, workspace: WorkspaceId, uri: str) -> Manifest: ...

    def run_folder(self, workspace: WorkspaceId, run_id: str, path: str) -> Manifest | None:
        """A folder among the artifacts of a run, such as `outputs`, or all of them (``); None if it has no files."""
        ...

    def run(self, workspace: WorkspaceId, run_id: str) -> SourceRun:
        """Refusal if the workspace no longer has it."""
        ...

    def training(self, workspace: WorkspaceId, run_id: str) -> Training | None:
        """None if the workspace no longer has the run."""
        ...

    def steps(self, workspace: WorkspaceId, run_id: str) -> tuple[Run, ...]:
        """The runs directly below a run."""
        ...

    def register(self, workspace: WorkspaceId, model: SourceModel, *, flavors: Mapping[str, Any]) -> SourceModel:
        """Register this version unless it is there; the version as it then stands, whosever it is."""
        ...

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

    @property
    def is_settled(self) -> bool:
        """Whether Azure is not busy with it."""
        return self in (Provisioning.SUCCEEDED, Provisioning.FAILED)


class Endpoint(_Value):
    """An endpoint. `body` is the whole resource as read: updates are whole-body PUTs that must lose nothing.

    `traffic` is in per cent; a batch endpoint has it all at its default deployment. `auth_mode` is an online endpoint's.
    """

    name: str
    tags: Mapping[str, str]
    traffic: Mapping[str, int]
    provisioning: Provisioning
    scoring_uri: str | None
    auth_mode: str = ""
    body: Mapping[str, Any]


class Deployment(_Value):
    """A deployment of an endpoint."""

    name: str
    tags: Mapping[str, str]
    provisioning: Provisioning


class DeploymentSpec(_Value):
    """What a new online deployment shall be. Ids are ARM ids in the target; without `code_id` it is a no-code one."""

    endpoint: str
    name: str
    model_id: str
    code_id: str | None = None
    scoring_script: str | None = None
    environment_id: str | None = None
    instance_type: str
    instance_count: int
    request_timeout_ms: int | None = None
    max_concurrent_requests_per_instance: int | None = None
    environment_variables: Mapping[str, str] = Field(default_factory=dict)
    tags: Mapping[str, str]


class ComponentSpec(_Value):
    """The pipeline component that scores with one model version, pinned in it; and the steps that it is made of."""

    name: str
    version: str
    model_id: str
    model_type: str
    code_id: str
    environment_id: str
    stage: BatchStage
    tags: Mapping[str, str]


class BatchJobSpec(_Value):
    """A run of a component: from `input` to `output`, both paths in a datastore."""

    name: str
    component_id: str
    compute: str
    experiment: str
    input: str
    output: str
    state: str
    tags: Mapping[str, str]


class ScheduleSpec(_Value):
    """A schedule that runs `job`; the name of that is made by Azure for each run."""

    name: str
    job: BatchJobSpec
    stage: BatchStage
    enabled: bool
    tags: Mapping[str, str]


class Schedule(_Value):
    """A schedule. `body` is the whole resource as read."""

    name: str
    tags: Mapping[str, str]
    enabled: bool
    provisioning: Provisioning
    body: Mapping[str, Any]


class JobStatus(StrEnum):
    """Azure ML's job states, folded to what matters here."""

    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"


class Job(_Value):
    """A job; `detail` is Azure ML's own word for its state."""

    name: str
    status: JobStatus
    detail: str


class TargetAsset(_Value):
    """A version of a model, environment, code or component in the target: its ARM id."""

    id: str
    tags: Mapping[str, str] = Field(default_factory=dict)
    archived: bool = False


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


class TestSummary(_Value):
    """What a test job counted, on the data at a path. As a tag: `files|failed files|rows|data`."""

    __test__ = False  # no test, whatever its name says to pytest

    files: int
    failed_files: int
    rows: int
    data: str

    def __str__(self) -> str:
        return f"{self.files}|{self.failed_files}|{self.rows}|{self.data}"

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """None for what is no such text."""
        try:
            files, failed, rows, data = text.split("|", 3)
            return cls(files=int(files), failed_files=int(failed), rows=int(rows), data=data)
        except ValueError:
            return None


class Metrics(_Value):
    """What a deployment's requests came to: `failed` ended with 408, 424, 429 or 5xx; `latency` in milliseconds."""

    requests: float
    failed: float
    latency: float | None = None

    @property
    def error_rate(self) -> float:
        """In per cent."""
        return 100 * self.failed / self.requests if self.requests else 0.0


class InstanceType(_Value):
    """A VM size of the target's region, and the family whose quota it takes."""

    name: str
    family: str
    vcpus: int


class Quota(_Value):
    """A limit on dedicated vCPUs, of a VM family (`name`) or of all together. `limit` is None where there is none."""

    name: str
    label: str
    used: int
    limit: int | None


class Grant(_Value):
    """What one role assignment lets the service do, in patterns such as `Microsoft.MachineLearningServices/*/read`."""

    actions: tuple[str, ...]
    not_actions: tuple[str, ...] = ()


class Compute(_Value):
    """A compute of the target. `kind` and `state` are Azure ML's own words; `max_nodes` is a cluster's."""

    name: str
    kind: str
    state: str
    max_nodes: int | None = None


class Preflight(Protocol):
    """What can be asked before anything is done. Each of these may be more than the service's identity may read."""

    def instance_type(self, name: str) -> InstanceType | None:
        """None if the target's region does not have it."""
        ...

    def quotas(self) -> tuple[Quota, ...]:
        """The limits that deployments of the target have to stay within."""
        ...

    def grants(self) -> tuple[Grant, ...]:
        """What the service's identity may do in the target."""
        ...

    def compute(self, name: str) -> Compute | None: ...


class Endpoints(Protocol):
    """The endpoints of one kind. Writes return as soon as Azure has accepted them: nothing here waits."""

    def endpoint(self, name: str) -> Endpoint | None: ...

    def deployments(self, endpoint: str) -> tuple[Deployment, ...]: ...

    def create_endpoint(self, name: str, *, auth_mode: str, tags: Mapping[str, str]) -> Operation | None: ...

    def update_endpoint(
        self, endpoint: Endpoint, *, tags: Mapping[str, str], traffic: Mapping[str, int]
    ) -> Operation | None:
        """PUT the whole endpoint as read, with these tags and this traffic."""
        ...

    def delete_deployment(self, endpoint: str, name: str) -> Operation | None: ...

    def delete_endpoint(self, name: str) -> Operation | None:
        """Delete the endpoint with all its deployments."""
        ...


class OnlineEndpoints(Endpoints, Protocol):
    """Managed online endpoints."""

    def create_deployment(self, spec: DeploymentSpec) -> Operation | None: ...

    def deployment_log(self, endpoint: str, name: str) -> str: ...

    def score(self, endpoint: Endpoint, deployment: str, body: Any) -> ScoringAnswer:
        """One scoring request to this very deployment, whatever its share of the traffic."""
        ...

    def metrics(self, endpoint: str, deployment: str, *, since: datetime, percentile: int | None) -> Metrics:
        """What Azure Monitor has of a deployment's requests, with the latency at this percentile if one is wanted."""
        ...


class BatchEndpoints(Endpoints, Protocol):
    """Batch endpoints, with the components that they run, and the jobs and schedules that run the same components."""

    def component(self, name: str, version: str) -> TargetAsset | None: ...

    def create_component(self, spec: ComponentSpec) -> None: ...

    def create_deployment(
        self, endpoint: str, name: str, *, component_id: str, compute: str, tags: Mapping[str, str]
    ) -> Operation | None: ...

    def job(self, name: str) -> Job | None: ...

    def start_job(self, spec: BatchJobSpec) -> None: ...

    def job_log(self, name: str) -> str:
        """The end of the log of the step that failed."""
        ...

    def schedule(self, name: str) -> Schedule | None: ...

    def write_schedule(self, spec: ScheduleSpec) -> Operation | None: ...

    def pause_schedule(self, schedule: Schedule) -> Operation | None: ...

    def delete_schedule(self, name: str) -> Operation | None:
        """Delete a schedule; Azure ML takes only a paused one."""
        ...

    def cancel_job(self, name: str) -> None:
        """Ask for the end of a job; one that has ended is left as it is."""
        ...


class Target(Protocol):
    """One target workspace: the assets that deployments share, and its endpoints."""

    @property
    def online(self) -> OnlineEndpoints: ...

    @property
    def batch(self) -> BatchEndpoints: ...

    @property
    def preflight(self) -> Preflight: ...

    def model(self, name: str, version: str) -> TargetAsset | None: ...

    def code(self, code: Code) -> TargetAsset | None: ...

    def environment(self, environment: Environment) -> TargetAsset | None: ...

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

    def create_code(self, code: Code) -> None: ...

    def create_environment(self, environment: Environment, *, tags: Mapping[str, str]) -> None: ...

    def put_text(self, path: str, content: bytes) -> str:
        """A small file of ours in the default datastore, created if absent; its path as `azureml://` URI."""
        ...

    def read_text(self, path: str, limit: int) -> bytes | None:
        """A small file in the default datastore; None if there is none. Raises Refusal for one that is larger."""
        ...

    def read_copy(self, manifest: Manifest, path: str, limit: int) -> bytes | None:
        """As `read_text`, a file of the model that was copied."""
        ...

    def violation(self, schema: Mapping[str, Any], answer: Any) -> str | None:
        """Where an answer does not satisfy a JSON Schema; None if it does. Raises Refusal for what is no schema."""
        ...

    def default_path(self, path: str) -> str:
        """A path in the default datastore, as `azureml://` URI."""
        ...

    def operation_error(self, operation: Operation) -> str | None:
        """Azure's error of a failed operation, as `code: message`; None if it names none or is forgotten."""
        ...


# -------------------------------------------------------------------------------------------------------------- engine


class CommandQueue(Protocol):
    """The queue of commands, with sessions."""

    def send(self, command: Command, *, not_before: datetime | None = None) -> None: ...


class Ledger(Protocol):
    """What was wanted, decided and done. Repeating a call changes nothing."""

    def parked(self, session_id: str, reason: Reason) -> tuple[Promotion, ...]:
        """The promotions of an endpoint that are parked for this reason."""
        ...

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

    def hold(self, session_id: str) -> Hold | None: ...

    def set_hold(self, hold: Hold) -> None: ...

    def release_hold(self, session_id: str) -> None: ...

    def decide(self, approval: Approval) -> Approval:
        """Write down a decision unless there is one about this attempt; the one that stands."""
        ...

    def approvals(self, promotion_id: str) -> tuple[Approval, ...]:
        """All decisions about a promotion, by attempt."""
        ...

    def audit(self, record: AuditRecord) -> None: ...

    def trail(self, session_id: str, *, limit: int = 1000) -> tuple[AuditRecord, ...]:
        """What was done to an endpoint, newest first."""
        ...

    def memo(self, kind: str, key: str) -> Memo | None: ...

    def save_memo(self, memo: Memo) -> Memo:
        """Insert (no `etag`) or replace what was read; Transient if somebody else changed it since."""
        ...


class News(Protocol):
    """Whoever wants to know where a promotion stands."""

    def tell(self, promotion: Promotion, source: WorkspaceId) -> None:
        """Told after each change that was written down, at least once. What goes wrong here stops no promotion."""
        ...


class Archive(Protocol):
    """Bundles of what was deployed, written once. Repeating a call changes nothing."""

    def store(self, name: str, files: Mapping[str, str]) -> None: ...

    def fetch(self, name: str) -> bytes | None:
        """The bundle as a zip file; None if there is none."""
        ...
