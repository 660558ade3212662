"""The vocabulary of a delivery: what it has seen of the target, what it can look at next, and what it can do."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import Enum, auto
from typing import Final, TypeVar

from core.commands import Operation, Phase, PromoteModel
from core.ledger import Approval, Hold
from core.outcomes import Outcome, Waiting
from core.packaging import Manifest, Recipe, Serving
from core.ports import (
    Compute,
    CopyState,
    Deployment,
    Endpoint,
    Grant,
    InstanceType,
    Job,
    Metrics,
    Quota,
    Schedule,
    ScoringAnswer,
    TargetAsset,
    TestSummary,
)
from core.said import Said
from core.stages import BatchStage
from core.verification import Verdict


class Unseen(Enum):
    """Not looked at yet in this delivery: not the same as absent."""

    UNSEEN = auto()


UNSEEN: Final = Unseen.UNSEEN
NEVER: Final = datetime.min.replace(tzinfo=UTC)
T = TypeVar("T")


class Unknown(Enum):
    """Looked at in vain: that can be done without, and nothing follows from it."""

    UNKNOWN = auto()


UNKNOWN: Final = Unknown.UNKNOWN


@dataclass(frozen=True)
class Seen:
    """What this delivery has looked at. An effect makes what it touched unseen again.

    `has_copied` says that this delivery has started copies already: what is wrong with them then is for the next one.
    `unchecked` names the checks of the pre-flight that could not be made, until somebody was told.
    """

    endpoint: Endpoint | Unseen | None = UNSEEN
    deployments: tuple[Deployment, ...] | Unseen = UNSEEN
    copies: tuple[CopyState, ...] | Unseen = UNSEEN
    model: TargetAsset | Unseen | None = UNSEEN
    code: TargetAsset | Unseen | None = UNSEEN
    environment: TargetAsset | Unseen | None = UNSEEN
    component: TargetAsset | Unseen | None = UNSEEN
    smoke: ScoringAnswer | Unseen = UNSEEN
    verdict: Verdict | Unseen = UNSEEN
    test_job: Job | Unseen | None = UNSEEN
    summary: TestSummary | Unseen | None = UNSEEN
    schedule: Schedule | Unseen | None = UNSEEN
    metrics: Metrics | Unseen = UNSEEN
    log: str | Unseen = UNSEEN
    instance_type: InstanceType | Unknown | Unseen | None = UNSEEN
    quotas: tuple[Quota, ...] | Unknown | Unseen = UNSEEN
    grants: tuple[Grant, ...] | Unknown | Unseen = UNSEEN
    compute: Compute | Unknown | Unseen | None = UNSEEN
    unchecked: tuple[str, ...] = ()
    operation: Operation | None = None
    has_copied: bool = False


class Look(Enum):
    """Something to look at before the next decision."""

    ENDPOINT = "look at the endpoint"
    DEPLOYMENTS = "look at its deployments"
    COPIES = "look at the copied artifacts"
    MODEL = "look at the model in the target"
    CODE = "look at the scoring code in the target"
    ENVIRONMENT = "look at the environment in the target"
    COMPONENT = "look at the batch component"
    TEST_JOB = "look at the test job"
    SUMMARY = "look at what the test job counted"
    SCHEDULE = "look at the schedule"
    METRICS = "look at the metrics of the deployment"
    INSTANCE_TYPE = "look at the instance types of the region"
    QUOTAS = "look at the quota of the region"
    GRANTS = "look at the permissions of the service"
    COMPUTE = "look at the compute of the batch stage"


class Effect(Enum):
    """Something to do to the target."""

    COPY = "copy artifacts"
    REGISTER_MODEL = "register model"
    CREATE_CODE = "create scoring code"
    CREATE_ENVIRONMENT = "create environment"
    CREATE_COMPONENT = "create batch component"
    CREATE_ENDPOINT = "create endpoint"
    CLAIM_ENDPOINT = "claim endpoint"
    CREATE_DEPLOYMENT = "create deployment"
    DELETE_FAILED_DEPLOYMENT = "delete failed deployment"
    SMOKE = "smoke request"
    VERIFY = "verification requests"
    START_TEST_JOB = "start test job"
    SHIFT_TRAFFIC = "move traffic"
    TAKE_TRAFFIC_BACK = "take traffic back"
    KEEP_LOG = "keep log"
    WRITE_SCHEDULE = "write schedule"
    PAUSE_SCHEDULE = "pause schedule"
    RETIRE = "retire old deployment"
    CLEAN_UP = "delete unused deployment"
    CANCEL_TEST_JOB = "cancel test job"
    DELETE_SCHEDULE = "delete schedule"
    DELETE_ENDPOINT = "delete endpoint"


@dataclass(frozen=True)
class Do:
    """An effect, and the name of what it is done to where that is not plain.

    `share` is the per cent of the live traffic that SHIFT_TRAFFIC gives, `why` the reason of TAKE_TRAFFIC_BACK.
    """

    effect: Effect
    name: str = ""
    share: int = 100
    why: str = ""


Step = Look | Do | Outcome


@dataclass(frozen=True)
class Wanted:
    """What the command asks for, with its documents, and the time (UTC) at which it is looked at."""

    command: PromoteModel
    manifest: Manifest
    recipe: Recipe
    hold: Hold | None = None
    approvals: tuple[Approval, ...] = ()
    now: datetime = NEVER
    said: Said = field(default_factory=Said)

    def decision(self, question: str) -> Approval | None:
        """What somebody has said to a question of this attempt, about the content that it has."""
        command = self.command
        asked = (command.attempt, question, command.manifest_digest, command.recipe_digest)
        given = (each for each in self.approvals if asked == _asked(each))
        return next(given, None)

    @property
    def batch_stage(self) -> BatchStage:
        if not isinstance(self.command.stage, BatchStage):
            raise TypeError(f"{self.command.promotion_id} is no batch promotion")
        return self.command.stage

    @property
    def serving(self) -> Serving:
        """How the model runs in the serving mode of the stage. Intake made it, or refused the promotion."""
        found = self.recipe.batch if self.command.is_batch else self.recipe.realtime
        if found is None:
            raise TypeError(f"the recipe of {self.command.promotion_id} has nothing for {self.command.stage.serve}")
        return found


def _asked(approval: Approval) -> tuple[int, str, str, str]:
    return approval.attempt, approval.question, approval.manifest_digest, approval.recipe_digest


@dataclass(frozen=True)
class Performed:
    """What is known after a step, and what an operator shall read about it."""

    seen: Seen
    detail: str = ""


def wait(phase: Phase, why: str, seen: Seen) -> Waiting:
    """Wait for the operation that is under way, as long as the service says."""
    operation = seen.operation
    return Waiting(phase, why, operation=operation, retry_after=operation.retry_after if operation else None)


def changed(seen: Seen, operation: Operation | None) -> Seen:
    """After a write to the endpoint or one of its deployments: `operation` is what Azure is busy with now."""
    return replace(seen, endpoint=UNSEEN, deployments=UNSEEN, operation=operation)


def known(value: T | Unseen | None) -> T:
    """An effect is only decided on after a look; anything else is a mistake in `decide`."""
    if value is None or isinstance(value, Unseen):
        raise TypeError("decided on an effect before looking at what it changes")
    return value
