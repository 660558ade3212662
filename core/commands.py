"""What is put on the queue, and how: frozen message types with one codec, and the ids that make repeats harmless.

`PromoteModel` is a promotion under way, sent again from hop to hop. `EndpointCommand` is a word to an endpoint or to one of
its promotions, heeded in the endpoint's session, so that it never races with a delivery.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from core.errors import UndecodableMessage
from core.events import WorkspaceId
from core.origin import Origin
from core.policy import Trigger
from core.quality import Gates
from core.stages import BatchStage, Stage

# The command also stands in its ledger row, where a string has at most 32 Ki characters (Azure Table Storage);
# Service Bus Standard would take 256 KB.
MESSAGE_LIMIT = 30_000


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Generation(_Message):
    """Which of two promotions of one endpoint is newer: by time, then by id. Claimed in the endpoint's tags."""

    time: AwareDatetime
    promotion_id: str

    def __str__(self) -> str:
        return f"{self.time.isoformat()}|{self.promotion_id}"

    @classmethod
    def parse(cls, text: str) -> "Generation":
        time, _, promotion_id = text.partition("|")
        return cls(time=datetime.fromisoformat(time), promotion_id=promotion_id)

    def is_newer_than(self, other: "Generation") -> bool:
        return (self.time, self.promotion_id) > (other.time, other.promotion_id)


class Operation(_Message):
    """An Azure Resource Manager operation under way: its URL, and the seconds that the service asked us to wait."""

    url: str
    retry_after: float | None = None


class Phase(StrEnum):
    """What a promotion waits for. Each has its deadline in the policy."""

    ARTIFACTS = "artifacts"
    DEPLOY = "deploy"
    SMOKE = "smoke"
    TEST = "test"
    PARK = "park"
    APPROVAL = "approval"
    BAKE = "bake"
    FREEZE = "freeze"


class Verb(StrEnum):
    """What a person can ask of a promotion, an endpoint or a schedule; `repair` is what the service asks of itself."""

    PROMOTE = "promote"
    RETRY = "retry"
    REDEPLOY = "redeploy"
    ROLL_BACK = "roll_back"
    RETIRE = "retire"
    CANCEL = "cancel"
    HOLD = "hold"
    RELEASE = "release"
    WAKE = "wake"
    REPAIR = "repair"


class Order(_Message):
    """What somebody asked for. `id` makes a repeat harmless; `at` (UTC) is when it was accepted, stamped once."""

    id: str = Field(min_length=1, max_length=80)
    verb: Verb
    by: str
    at: AwareDatetime
    reason: str = ""
    overrides_hold: bool = Field(
        False, description="Goes on although the endpoint is on hold, and, with a reason, in a freeze."
    )
    replaces: str | None = Field(None, description="The promotion that a roll-back takes off the endpoint.")


class PromoteModel(_Message):
    """Bring one model version to life in one stage of its path.

    Everything that was decided is in it or referenced by digest, so that a policy that changes meanwhile changes nothing
    for a promotion under way. `hop` counts the deliveries that were sent on purpose, `attempt` the times somebody asked.
    """

    kind: Literal["promote_model"] = "promote_model"
    schema_version: Literal[1] = 1
    promotion_id: str
    source_name: str
    source: WorkspaceId
    model: str
    version: str
    model_created_at: AwareDatetime
    origin: Origin
    trigger: Trigger
    requested_by: str
    requested_at: AwareDatetime
    run_id: str | None = Field(None, description="The run that it was promoted from, when it completed.")
    rule: str
    policy_digest: str
    manifest_digest: str
    recipe_digest: str
    quality_digest: str | None = Field(None, description="What was known of the version when it was asked for.")
    gates: Gates | None = Field(None, description="Those of the rule; a stage may have more.")
    targets: Mapping[str, WorkspaceId]
    stages: tuple[Stage, ...] = Field(min_length=1)
    stage_number: int = Field(0, ge=0)
    fan_out: int = Field(1, ge=1, description="How many of the last stages begin together.")
    alone: bool = Field(False, description="Of those only the very last one was asked for.")
    attempt: int = Field(1, ge=1)
    hop: int = Field(0, ge=0)
    faults: int = Field(0, ge=0, description="Unknown exceptions in a row.")
    transients: int = Field(0, ge=0, description="Known transient faults in a row.")
    operation: Operation | None = Field(None, description="The long-running operation that this promotion waits for.")
    phase: Phase | None = Field(
        None, description="What it waits for, and `phase_since` when: deadlines count from there."
    )
    phase_since: AwareDatetime | None = None
    failing_since: AwareDatetime | None = Field(None, description="When the transient faults in a row began.")
    order: Order | None = Field(None, description="What a person asked for; None if the promotion began by itself.")
    goal: Literal["live", "retired"] = Field("live", description="retired: the endpoint and all that belongs to it go.")
    generation_time: AwareDatetime | None = Field(
        None, description="Of an order that wins over what is live; the model version's own creation time otherwise."
    )
    fresh: int = Field(0, ge=0, description="The attempt at which a deployment of its own was asked for.")
    cancel: Order | None = Field(None, description="Who wants it to end.")
    redeployed_from: str | None = Field(None, description="The promotion whose frozen recipe this one uses.")
    traceparent: str | None = Field(
        None, description="The trace that all its deliveries belong to (W3C Trace Context). No part of any id."
    )

    @property
    def stage(self) -> Stage:
        return self.stages[self.stage_number]

    @property
    def _ends(self) -> range:
        """The last stages that were asked for: they begin together."""
        return range(len(self.stages) - (1 if self.alone else self.fan_out), len(self.stages))

    @property
    def _fork(self) -> int:
        """Number of the first of the stages that begin together, asked for or not."""
        return len(self.stages) - self.fan_out

    @property
    def beginning(self) -> tuple[int, ...]:
        """The stages that the path begins with."""
        return tuple(self._ends) if self._fork == 0 else (0,)

    @property
    def later(self) -> tuple[int, ...]:
        """All stages that come after this one."""
        return (*range(self.stage_number + 1, self._fork), *self._ends) if self.stage_number < self._fork else ()

    @property
    def following(self) -> tuple[int, ...]:
        """The stages that begin once this one has succeeded."""
        return self.later if self.stage_number + 1 == self._fork else self.later[:1]

    @property
    def before(self) -> int | None:
        """The stage that must stand for this one to be worth anything."""
        number = min(self.stage_number, self._fork) - 1
        return number if number >= 0 else None

    def at_stage(self, number: int) -> "PromoteModel":
        """The same path at another of its stages."""
        path = self.promotion_id.rpartition("-")[0]
        return self.model_copy(update={"promotion_id": promotion_id(path, number), "stage_number": number})

    @property
    def is_batch(self) -> bool:
        return self.stage.serve == "batch"

    @property
    def target(self) -> WorkspaceId:
        return self.targets[self.stage.target]

    @property
    def endpoint(self) -> str:
        return self.stage.endpoint_for(self.model)

    @property
    def target_model_name(self) -> str:
        return self.stage.target_model_name or self.model

    @property
    def generation(self) -> Generation:
        return Generation(time=self.generation_time or self.model_created_at, promotion_id=self.promotion_id)

    @property
    def session_id(self) -> str:
        return session_id(self.target, "batch" if self.is_batch else "online", self.endpoint)

    @property
    def message_id(self) -> str:
        """Fresh for every hop; a new attempt begins to count hops anew."""
        return (
            f"{self.promotion_id}:{self.hop}" if self.attempt == 1 else f"{self.promotion_id}:{self.attempt}:{self.hop}"
        )

    @property
    def deployment(self) -> str:
        """Name of the deployment: from model, version, content and how it is served, so that a repeat finds itself.

        A deployment name has 3 to 32 letters, digits and hyphens, and starts with a letter.
        """
        fields = BATCH_FIELDS if isinstance(self.stage, BatchStage) else REALTIME_FIELDS
        serving = json.dumps(self.stage.model_dump(mode="json", include=fields), sort_keys=True)
        parts = [self.source.key, self.model, self.version, self.manifest_digest, self.recipe_digest, serving]
        parts += [f"fresh at attempt {self.fresh}"] if self.fresh else []
        digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]
        version = re.sub(r"[^a-z0-9]+", "-", self.version.lower()).strip("-")[:20].strip("-")
        return f"v{version}-{digest}"

    @property
    def component(self) -> str:
        """Name of the batch component, whose version is the deployment's name. It may hold no hyphens."""
        return self.endpoint.replace("-", "_")

    def encode(self) -> bytes:
        return self.model_dump_json(exclude_none=True).encode()


# What cannot be changed without a new deployment: a change of these gives it another name.
REALTIME_FIELDS = {
    "target_model_name",
    "instance_type",
    "instance_count",
    "request_settings",
    "environment_variables",
}
BATCH_FIELDS = {
    "target_model_name",
    "compute",
    "instance_count",
    "mini_batch_size",
    "max_concurrency_per_instance",
    "retry_settings",
    "error_threshold",
    "output_file_name",
    "overlap",
    "overlap_timeout",
}


class EndpointCommand(_Message):
    """A word to one endpoint (`hold`, `release`) or to one of its promotions (`wake`, `cancel`)."""

    kind: Literal["endpoint_command"] = "endpoint_command"
    schema_version: Literal[1] = 1
    order: Order
    target_name: str
    target: WorkspaceId
    serve: Literal["realtime", "batch"]
    endpoint: str
    promotion_id: str | None = None
    hop: int = Field(0, ge=0, description="How often it was sent again after a transient fault.")

    @property
    def session_id(self) -> str:
        return session_id(self.target, "batch" if self.serve == "batch" else "online", self.endpoint)

    @property
    def message_id(self) -> str:
        return f"{self.order.verb}:{self.order.id}:{self.hop}"

    def encode(self) -> bytes:
        return self.model_dump_json(exclude_none=True).encode()


Command = PromoteModel | EndpointCommand


def decode(body: bytes) -> Command:
    """The command in a message. Raises UndecodableMessage with what is wrong with it."""
    try:
        command: Command = _kind(body).model_validate_json(body)
    except ValidationError as error:
        found = "; ".join(
            f"{'.'.join(map(str, problem['loc'])) or 'body'}: {problem['msg']}"
            for problem in error.errors(include_url=False, include_input=False)[:5]
        )
        raise UndecodableMessage(f"no promotion command: {found}") from error
    if isinstance(command, EndpointCommand):
        return command
    if command.stage_number >= len(command.stages):
        raise UndecodableMessage(f"no promotion command: it has no stage number {command.stage_number}")
    if command.fan_out > len(command.stages):
        raise UndecodableMessage(f"no promotion command: it has not {command.fan_out} stages to begin together")
    if missing := sorted({stage.target for stage in command.stages} - command.targets.keys()):
        raise UndecodableMessage(f"no promotion command: it does not say where target {missing[0]!r} is")
    return command


def _kind(body: bytes) -> type[PromoteModel] | type[EndpointCommand]:
    """Which command it says to be; PromoteModel for what says nothing, so that it is told what is missing."""
    try:
        given = json.loads(body)
    except (ValueError, RecursionError):
        return PromoteModel
    kind = given.get("kind") if isinstance(given, dict) else None
    return EndpointCommand if kind == EndpointCommand.model_fields["kind"].default else PromoteModel


def session_id(target: WorkspaceId, kind: Literal["online", "batch"], endpoint: str) -> str:
    """One session for each endpoint, however its names are spelled: so one endpoint has one writer at a time."""
    return hashlib.sha256(f"{target.key}|{kind}|{endpoint.lower()}".encode()).hexdigest()[:40]


def path_id(source: WorkspaceId, model: str, version: str, rule: str) -> str:
    """The same for every event about this model version under this rule; readable, and safe as a table key."""
    digest = hashlib.sha256("\n".join((source.key, model, version, rule)).encode()).hexdigest()[:10]
    readable = re.sub(r"[^A-Za-z0-9._-]", "-", f"{model[:60]}-{version[:20]}")
    return f"{readable}-{digest}"


def promotion_id(path: str, stage_number: int) -> str:
    return f"{path}-{stage_number + 1}"
