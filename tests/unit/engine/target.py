"""A target workspace: endpoints whose changes take their time, the assets below them, and what must never happen to them."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, ClassVar

from core import tags
from core.commands import Operation
from core.environments import Environment
from core.errors import Blocked, Reason, Refusal, Transient
from core.packaging import Code, Manifest
from core.ports import (
    BatchJobSpec,
    ComponentSpec,
    Compute,
    CopyState,
    CopyStatus,
    Deployment,
    DeploymentSpec,
    Endpoint,
    Grant,
    InstanceType,
    Job,
    JobStatus,
    Metrics,
    Provisioning,
    Quota,
    Schedule,
    ScheduleSpec,
    ScoringAnswer,
    TargetAsset,
)
from tests.unit.engine.source import Nature
from tests.unit.engine.wire import Wire, reads, writes

BUSY = (Provisioning.CHANGING, Provisioning.DELETING)
GOOD, FAILED = Provisioning.SUCCEEDED, Provisioning.FAILED
OPERATION = Operation(url="https://management.azure.com/operations/1", retry_after=5.0)
ENDPOINT_TAKES, DEPLOYMENT_TAKES, DELETION_TAKES = timedelta(seconds=20), timedelta(minutes=5), timedelta(minutes=1)
COPY_TAKES, JOB_TAKES = timedelta(minutes=1), timedelta(minutes=10)
NatureOf = Callable[[Mapping[str, str]], Nature]


@dataclass
class EndpointsModel:
    """`core.ports.Endpoints`. `may_go` says whether somebody asked for the end of an endpoint."""

    wire: Wire
    nature_of: NatureOf
    may_go: Callable[[str], bool]
    endpoints: dict[str, Endpoint] = field(default_factory=dict)
    below: dict[str, dict[str, Deployment]] = field(default_factory=dict)
    was_live: set[str] = field(default_factory=set)
    must_not_be_live: ClassVar[tuple[Nature, ...]] = (Nature.DOES_NOT_START,)
    fails_next: bool = False
    has_a_namesake: bool = False
    _ready: dict[tuple[str, str], datetime] = field(default_factory=dict)
    _revision: int = 0

    # ----------------------------------------------------------------------------------------------------------- reads

    @reads
    def endpoint(self, name: str) -> Endpoint | None:
        self.settle()
        return self.endpoints.get(name)

    @reads
    def deployments(self, endpoint: str) -> tuple[Deployment, ...]:
        self.settle()
        if endpoint not in self.endpoints:
            raise Transient("the endpoint went away while its deployments were listed")
        return tuple(self.below[endpoint].values())

    # ---------------------------------------------------------------------------------------------------------- writes

    @writes
    def create_endpoint(self, name: str, *, auth_mode: str, tags: Mapping[str, str]) -> Operation | None:
        self.settle()
        if name in self.endpoints:
            self.wire.never(f"endpoint {name} is there and was created once more")
            raise Transient("HTTP 409")
        if self.has_a_namesake:
            raise Blocked(Reason.ENDPOINT_NAME_TAKEN, f"{name} is taken (HTTP 409)", remedy="Set another `endpoint`.")
        self._write(name, tags=tags, traffic={}, scoring_uri=f"https://{name}/score", auth_mode=auth_mode)
        self.below[name] = {}
        return OPERATION

    @writes
    def update_endpoint(
        self, endpoint: Endpoint, *, tags: Mapping[str, str], traffic: Mapping[str, int]
    ) -> Operation | None:
        there = self._settled(endpoint.name)
        if there.body != endpoint.body:
            self.wire.never(f"endpoint {there.name} was written from what somebody had read before another change")
        self._check_owner(there, tags)
        self._check_traffic(there, traffic)
        self._write(there.name, tags=tags, traffic=traffic, scoring_uri=there.scoring_uri, auth_mode=there.auth_mode)
        return OPERATION

    def _create(self, endpoint: str, name: str, marks: Mapping[str, str]) -> Operation:
        there = self._settled(endpoint)
        if name in self.below[endpoint]:
            self.wire.never(f"deployment {name} is there and was created once more")
        if there.tags.get(tags.PROMOTION) != marks[tags.PROMOTION]:
            self.wire.never(
                f"{marks[tags.PROMOTION]} deploys to {endpoint}, which {there.tags.get(tags.PROMOTION)} has"
            )
        self.below[endpoint][name] = Deployment(name=name, tags=marks, provisioning=Provisioning.CHANGING)
        self._ready[endpoint, name] = self.wire.now + DEPLOYMENT_TAKES
        return OPERATION

    @writes
    def delete_deployment(self, endpoint: str, name: str) -> Operation | None:
        found = self.below.get(endpoint, {}).get(name)
        if found is None:
            return None
        there = self._settled(endpoint)
        if there.traffic.get(name) or there.tags.get(tags.STABLE) == name:
            self.wire.never(f"deployment {name} of {endpoint} was deleted with {there.traffic.get(name)} % of traffic")
        if found.provisioning in BUSY:
            raise Transient(f"deployment {name} is being changed (HTTP 409)")
        self.below[endpoint][name] = found.model_copy(update={"provisioning": Provisioning.DELETING})
        self._ready[endpoint, name] = self.wire.now + DELETION_TAKES
        return OPERATION

    @writes
    def delete_endpoint(self, name: str) -> Operation | None:
        self.settle()
        if name not in self.endpoints:
            return None
        there = self._settled(name)
        if (there.traffic or tags.STABLE in there.tags or self.below[name]) and not self.may_go(name):
            self.wire.never(f"endpoint {name} was deleted with its traffic, and nobody asked for it")
        self.endpoints[name] = there.model_copy(update={"provisioning": Provisioning.DELETING})
        self._ready[name, ""] = self.wire.now + DELETION_TAKES
        return OPERATION

    # ---------------------------------------------------------------------------------------------------------- checks

    def _check_owner(self, there: Endpoint, written: Mapping[str, str]) -> None:
        """Who has an endpoint keeps it until somebody newer comes."""
        before, after = tags.generation(there.tags), tags.generation(written)
        if before is not None and (after is None or before.is_newer_than(after)):
            self.wire.never(f"endpoint {there.name} went from {before} back to {after}")

    def _check_traffic(self, there: Endpoint, traffic: Mapping[str, int]) -> None:
        if sum(traffic.values()) not in (0, 100) or any(share < 0 for share in traffic.values()):
            self.wire.never(f"the traffic of {there.name} is {dict(traffic)}")
        if there.traffic and not any(traffic.values()):
            self.wire.never(f"live endpoint {there.name} lost all its traffic")
        for name, share in traffic.items():
            found = self.below[there.name].get(name)
            is_new = share > there.traffic.get(name, 0)
            if found is None or (is_new and found.provisioning is not GOOD):
                self.wire.never(f"{share} % of the traffic of {there.name} goes to {name}, which is {found}")
            elif is_new and self.nature_of(found.tags) in self.must_not_be_live:
                self.wire.never(f"{name} has traffic, and {self.nature_of(found.tags)}")

    def broken(self) -> list[str]:
        """What is wrong with the endpoints as they are."""
        self.settle()
        found = []
        for name, endpoint in self.endpoints.items():
            total = sum(endpoint.traffic.values())
            self.was_live |= {name} if total else set()
            if total != (100 if name in self.was_live else 0):
                found.append(f"endpoint {name} has the traffic {dict(endpoint.traffic)}")
            found += [
                f"endpoint {name} sends to {deployment}, which is not there"
                for deployment in endpoint.traffic
                if deployment not in self.below[name]
            ]
        return found

    # ------------------------------------------------------------------------------------------------------------ time

    def settle(self) -> None:
        """What has had its time has come to its end."""
        for (name, deployment), ready in list(self._ready.items()):
            if ready > self.wire.now:
                continue
            del self._ready[name, deployment]
            if deployment:
                self._settle_deployment(name, deployment)
            elif self.endpoints[name].provisioning is Provisioning.DELETING:
                del self.endpoints[name], self.below[name]
                self.was_live.discard(name)
                self._ready = {key: at for key, at in self._ready.items() if key[0] != name}
            else:
                self.endpoints[name] = self.endpoints[name].model_copy(update={"provisioning": self._outcome()})

    def _settle_deployment(self, endpoint: str, name: str) -> None:
        found = self.below[endpoint][name]
        if found.provisioning is Provisioning.DELETING:
            del self.below[endpoint][name]
            return
        starts = self.nature_of(found.tags) is not Nature.DOES_NOT_START
        outcome = self._outcome() if starts else FAILED
        self.below[endpoint][name] = found.model_copy(update={"provisioning": outcome})

    def _outcome(self) -> Provisioning:
        fails, self.fails_next = self.fails_next, False
        return FAILED if fails else GOOD

    def _settled(self, name: str) -> Endpoint:
        """The endpoint, if Azure would take a write to it now."""
        self.settle()
        there = self.endpoints.get(name)
        if there is None:
            raise Refusal(Reason.TARGET_NOT_FOUND, f"there is no endpoint {name} (HTTP 404)", remedy="none")
        if there.provisioning in BUSY:
            raise Transient(f"endpoint {name} is being changed (HTTP 409)", retry_after=5)
        return there

    def _write(self, name: str, **changes: Any) -> None:
        self._revision += 1
        body = {"revision": self._revision}
        self.endpoints[name] = Endpoint(name=name, provisioning=Provisioning.CHANGING, body=body, **changes)
        self._ready[name, ""] = self.wire.now + ENDPOINT_TAKES


@dataclass
class OnlineModel(EndpointsModel):
    """`core.ports.OnlineEndpoints`."""

    must_not_be_live: ClassVar = (Nature.DOES_NOT_START, Nature.ANSWERS_BADLY)

    @writes
    def create_deployment(self, spec: DeploymentSpec) -> Operation | None:
        return self._create(spec.endpoint, spec.name, spec.tags)

    @reads
    def deployment_log(self, endpoint: str, name: str) -> str:
        return f"the log of {name}"

    @reads
    def score(self, endpoint: Endpoint, deployment: str, body: Any) -> ScoringAnswer:
        found = self.below[endpoint.name].get(deployment)
        if found is None or found.provisioning is not GOOD:
            return ScoringAnswer(status=404, text="no such deployment", seconds=0.1)
        nature = self.nature_of(found.tags)
        if nature is Nature.ANSWERS_BADLY:
            return ScoringAnswer(status=500, text="it broke", seconds=0.1)
        return ScoringAnswer(status=200, text="[2]" if nature is Nature.ANSWERS_OTHERS else "[1]", seconds=0.1)

    @reads
    def metrics(self, endpoint: str, deployment: str, *, since: datetime, percentile: int | None) -> Metrics:
        nature = self.nature_of(self.below[endpoint][deployment].tags)
        if nature is Nature.NOBODY_ASKS:
            return Metrics(requests=3, failed=0)
        return Metrics(requests=100, failed=30 if nature is Nature.FAILS_LIVE else 0)


@dataclass
class BatchModel(EndpointsModel):
    """`core.ports.BatchEndpoints`."""

    components: dict[tuple[str, str], TargetAsset] = field(default_factory=dict)
    jobs: dict[str, tuple[JobStatus, datetime]] = field(default_factory=dict)
    schedules: dict[str, Schedule] = field(default_factory=dict)

    @writes
    def create_deployment(
        self, endpoint: str, name: str, *, component_id: str, compute: str, tags: Mapping[str, str]
    ) -> Operation | None:
        return self._create(endpoint, name, tags)

    @reads
    def component(self, name: str, version: str) -> TargetAsset | None:
        return self.components.get((name, version))

    @writes
    def create_component(self, spec: ComponentSpec) -> None:
        self.components[spec.name, spec.version] = TargetAsset(id=f"{spec.name}:{spec.version}", tags=spec.tags)

    @reads
    def job(self, name: str) -> Job | None:
        if name not in self.jobs:
            return None
        ends_as, at = self.jobs[name]
        status = ends_as if at <= self.wire.now else JobStatus.RUNNING
        return Job(name=name, status=status, detail=status)

    @writes
    def start_job(self, spec: BatchJobSpec) -> None:
        status = JobStatus.FAILED if self.nature_of(spec.tags) is Nature.DOES_NOT_START else JobStatus.COMPLETED
        self.jobs.setdefault(spec.name, (status, self.wire.now + JOB_TAKES))

    @writes
    def cancel_job(self, name: str) -> None:
        self.jobs[name] = JobStatus.FAILED, self.wire.now

    @reads
    def job_log(self, name: str) -> str:
        return f"the log of {name}"

    @reads
    def schedule(self, name: str) -> Schedule | None:
        return self.schedules.get(name)

    @writes
    def write_schedule(self, spec: ScheduleSpec) -> Operation | None:
        _, deployment = spec.job.component_id.split(":")
        if self.endpoints[spec.name].traffic != {deployment: 100}:
            self.wire.never(f"schedule {spec.name} runs {deployment}, which is not what the endpoint has")
        self.schedules[spec.name] = Schedule(
            name=spec.name, tags=spec.tags, enabled=spec.enabled, provisioning=GOOD, body={"runs": deployment}
        )
        return None

    @writes
    def pause_schedule(self, schedule: Schedule) -> Operation | None:
        self.schedules[schedule.name] = schedule.model_copy(update={"enabled": False})
        return None

    @writes
    def delete_schedule(self, name: str) -> Operation | None:
        if self.schedules[name].enabled:
            raise Refusal(Reason.REQUEST_REJECTED, "only paused schedules are deleted (HTTP 400)", remedy="none")
        del self.schedules[name]
        return None


@dataclass
class PreflightModel:
    """`core.ports.Preflight`."""

    wire: Wire
    is_full: bool = False
    is_allowed: bool = True
    nodes: int = 4

    @reads
    def instance_type(self, name: str) -> InstanceType | None:
        return InstanceType(name="STANDARD_DS3_V2", family="standardDSv2Family", vcpus=4)

    @reads
    def quotas(self) -> tuple[Quota, ...]:
        used = 100 if self.is_full else 0
        return (Quota(name="standardDSv2Family", label="Standard DSv2 Family", used=used, limit=100),)

    @reads
    def grants(self) -> tuple[Grant, ...]:
        return (Grant(actions=("*",) if self.is_allowed else ("*/read",)),)

    @reads
    def compute(self, name: str) -> Compute | None:
        return Compute(name=name, kind="AmlCompute", state="Succeeded", max_nodes=self.nodes)


class TargetModel:
    """`core.ports.Target`."""

    def __init__(self, wire: Wire, nature_of: NatureOf, may_go: Callable[[str, str], bool]) -> None:
        self.wire = wire
        self.online = OnlineModel(wire, nature_of, lambda name: may_go("online", name))
        self.batch = BatchModel(wire, nature_of, lambda name: may_go("batch", name))
        self.preflight = PreflightModel(wire)
        self.recorded: bytes | None = b'{"request": [1], "expected": [1]}\n'
        self._assets: dict[tuple[str, ...], TargetAsset] = {}
        self._copies: dict[str, datetime] = {}

    # ---------------------------------------------------------------------------------------------------------- assets

    @reads
    def model(self, name: str, version: str) -> TargetAsset | None:
        return self._assets.get(("model", name, version))

    @reads
    def code(self, code: Code) -> TargetAsset | None:
        return self._assets.get(("code", str(sorted(code.files.items()))))

    @reads
    def environment(self, environment: Environment) -> TargetAsset | None:
        return self._assets.get(("environment", environment.digest))

    @writes
    def register_model(
        self,
        manifest: Manifest,
        *,
        name: str,
        version: str,
        model_type: str,
        flavors: Mapping[str, Any],
        tags: Mapping[str, str],
    ) -> None:
        if any(copy.status is not CopyStatus.COPIED for copy in self._states(manifest)):
            self.wire.never(f"{name}:{version} was registered before its files were there")
        self._assets["model", name, version] = TargetAsset(id=f"model/{name}/{version}", tags=tags)

    @writes
    def create_code(self, code: Code) -> None:
        self._assets["code", str(sorted(code.files.items()))] = TargetAsset(id="code")

    @writes
    def create_environment(self, environment: Environment, *, tags: Mapping[str, str]) -> None:
        self._assets["environment", environment.digest] = TargetAsset(id="environment", tags=tags)

    # ----------------------------------------------------------------------------------------------------------- files

    @reads
    def copy_states(self, manifest: Manifest) -> tuple[CopyState, ...]:
        return self._states(manifest)

    def _states(self, manifest: Manifest) -> tuple[CopyState, ...]:
        return tuple(
            CopyState(path=file.path, status=self._status(manifest, file.path), size=file.size)
            for file in manifest.files
        )

    def _status(self, manifest: Manifest, path: str) -> CopyStatus:
        done = self._copies.get(f"{manifest.digest}/{path}")
        if done is None:
            return CopyStatus.MISSING
        return CopyStatus.COPIED if done <= self.wire.now else CopyStatus.PENDING

    @writes
    def start_copy(self, manifest: Manifest, state: CopyState) -> None:
        self._copies.setdefault(f"{manifest.digest}/{state.path}", self.wire.now + COPY_TAKES)

    @writes
    def put_text(self, path: str, content: bytes) -> str:
        return self.default_path(path)

    @reads
    def read_text(self, path: str, limit: int) -> bytes | None:
        if path.endswith("/summary.json"):
            return json.dumps({"files": 1, "failed_files": 0, "rows": 10}).encode()
        return self.recorded

    @reads
    def read_copy(self, manifest: Manifest, path: str, limit: int) -> bytes | None:
        return self.recorded

    def violation(self, schema: Mapping[str, Any], answer: Any) -> str | None:
        return None

    def default_path(self, path: str) -> str:
        return f"azureml://datastores/workspaceblobstore/paths/{path}"

    @reads
    def operation_error(self, operation: Operation) -> str | None:
        return "Failed: it does not say why"
