"""A pure model of a target workspace, in which a promotion is carried to its end by `decide` alone."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from core import batch, rollout, tags
from core.endpoints import decide
from core.outcomes import Done, Outcome, Parked, Refused
from core.ports import (
    CopyStatus,
    Deployment,
    Endpoint,
    Job,
    JobStatus,
    Metrics,
    Provisioning,
    Schedule,
    TargetAsset,
    TestSummary,
)
from core.steps import UNSEEN, Do, Effect, Look, Seen, Wanted, known
from core.verification import Verdict
from tests.unit.builders import a_copy, a_deployment, a_schedule, an_answer, an_endpoint, cleared

CHANGING, DELETING, FAILED = Provisioning.CHANGING, Provisioning.DELETING, Provisioning.FAILED
Settling = TypeVar("Settling", Endpoint, Deployment)


@dataclass
class World:
    """A target workspace as a value: every effect has its plain result at once or after `settle`."""

    endpoint: Endpoint | None = None
    deployments: dict[str, Deployment] = field(default_factory=dict)
    models: dict[tuple[str, str], TargetAsset] = field(default_factory=dict)
    copies: dict[str, CopyStatus] = field(default_factory=dict)
    fails: frozenset[str] = frozenset()
    refusals_to_copy: int = 0
    answers: tuple[int | None, ...] = (200,)
    asked: set[str] = field(default_factory=set)
    assets: set[str] = field(default_factory=set)
    components: dict[str, TargetAsset] = field(default_factory=dict)
    jobs: dict[str, JobStatus] = field(default_factory=dict)
    schedule: Schedule | None = None
    verdict: Verdict = field(default_factory=lambda: Verdict("2 of 2 requests answered"))
    summaries: Mapping[str, TestSummary] = field(default_factory=dict)
    metrics: Mapping[str, Metrics] = field(default_factory=dict)
    now: datetime = datetime(2026, 11, 1, 12, tzinfo=UTC)
    tick: timedelta = timedelta(seconds=60)
    preflight: Seen = field(default_factory=cleared)

    @property
    def live(self) -> int:
        return sum(self.endpoint.traffic.values()) if self.endpoint else 0

    def is_live(self, deployment: str) -> bool:
        return self.endpoint is not None and (
            self.endpoint.traffic.get(deployment, 0) > 0 or self.endpoint.tags.get(tags.STABLE) == deployment
        )

    def settle(self) -> None:
        """What is under way comes to its end, and time passes."""
        self.now += self.tick
        if self.endpoint is not None and self.endpoint.provisioning is DELETING:
            self.endpoint, self.deployments = None, {}
        if self.endpoint is not None:
            self.endpoint = self._settled(self.endpoint, "endpoint")
        left = {name: found for name, found in self.deployments.items() if found.provisioning is not DELETING}
        self.deployments = {name: self._settled(found, name) for name, found in left.items()}
        for key in [key for key, status in self.copies.items() if status is CopyStatus.PENDING]:
            failed = self.refusals_to_copy > 0
            self.refusals_to_copy -= failed
            self.copies[key] = CopyStatus.FAILED if failed else CopyStatus.COPIED
        self.answers = self.answers[1:] or self.answers
        for name in [name for name, status in self.jobs.items() if status is JobStatus.RUNNING]:
            self.jobs[name] = JobStatus.FAILED if "job" in self.fails else JobStatus.COMPLETED
        if self.schedule is not None and self.schedule.provisioning is CHANGING:
            provisioning = FAILED if "schedule" in self.fails else Provisioning.SUCCEEDED
            self.schedule = self.schedule.model_copy(update={"provisioning": provisioning})

    def _settled(self, found: Settling, name: str) -> Settling:
        if found.provisioning is not CHANGING:
            return found
        return found.model_copy(update={"provisioning": FAILED if name in self.fails else Provisioning.SUCCEEDED})

    def look(self, wanted: Wanted, seen: Seen, at: Look) -> Seen:
        command = wanted.command
        match at:
            case Look.ENDPOINT:
                return replace(seen, endpoint=self.endpoint)
            case Look.DEPLOYMENTS:
                return replace(seen, deployments=tuple(self.deployments.values()))
            case Look.MODEL:
                return replace(seen, model=self.models.get((command.target_model_name, command.version)))
            case Look.COPIES:
                states = tuple(
                    a_copy(file.path, status=self.copies.get(file.path, CopyStatus.MISSING))
                    for file in wanted.manifest.files
                )
                return replace(seen, copies=states)
            case Look.CODE:
                return replace(seen, code=self._asset("code"))
            case Look.ENVIRONMENT:
                return replace(seen, environment=self._asset("environment"))
            case Look.COMPONENT:
                return replace(seen, component=self.components.get(command.deployment))
            case Look.TEST_JOB:
                name = batch.test_job_name(command)
                job = Job(name=name, status=self.jobs[name], detail="x") if name in self.jobs else None
                return replace(seen, test_job=job)
            case Look.SUMMARY:
                return replace(seen, summary=self.summaries.get(command.deployment))
            case Look.SCHEDULE:
                return replace(seen, schedule=self.schedule)
            case Look.METRICS:
                found = self.metrics.get(command.deployment, Metrics(requests=0, failed=0))
                return replace(seen, metrics=found)
            case Look.INSTANCE_TYPE:
                return replace(seen, instance_type=self.preflight.instance_type)
            case Look.QUOTAS:
                return replace(seen, quotas=self.preflight.quotas)
            case Look.GRANTS:
                return replace(seen, grants=self.preflight.grants)
            case Look.COMPUTE:
                return replace(seen, compute=self.preflight.compute)

    def _asset(self, kind: str) -> TargetAsset | None:
        return TargetAsset(id=kind) if kind in self.assets else None

    def perform(self, wanted: Wanted, seen: Seen, do: Do) -> Seen:
        """The effect, after a check that Azure would take it and that nothing of value is lost."""
        command, live_before = wanted.command, self.live
        unseen = replace(seen, endpoint=UNSEEN, deployments=UNSEEN)
        match do.effect:
            case Effect.COPY:
                for path in wanted.manifest.paths():
                    if self.copies.get(path, CopyStatus.MISSING) in (CopyStatus.MISSING, CopyStatus.FAILED):
                        self.copies[path] = CopyStatus.PENDING
                return replace(seen, copies=UNSEEN)
            case Effect.REGISTER_MODEL:
                key = (command.target_model_name, command.version)
                assert key not in self.models
                self.models[key] = TargetAsset(id="/".join(key), tags=tags.provenance(command))
                return replace(seen, model=UNSEEN)
            case Effect.SMOKE:
                assert self.deployments[do.name].provisioning is Provisioning.SUCCEEDED
                status = self.answers[0]
                if status == 200:
                    self.asked.add(do.name)
                return replace(seen, smoke=an_answer(status))
            case Effect.VERIFY:
                assert self.deployments[do.name].provisioning is Provisioning.SUCCEEDED
                return replace(seen, verdict=self.verdict)
            case Effect.CREATE_CODE:
                self.assets.add("code")
                return replace(seen, code=UNSEEN)
            case Effect.CREATE_ENVIRONMENT:
                self.assets.add("environment")
                return replace(seen, environment=UNSEEN)
            case Effect.CREATE_COMPONENT:
                assert {known(seen.code).id, known(seen.environment).id} <= self.assets
                assert known(seen.model).id
                assert command.deployment not in self.components, "a version of a component never changes"
                self.components[command.deployment] = TargetAsset(id="component", tags=tags.provenance(command))
                return replace(seen, component=UNSEEN)
            case Effect.START_TEST_JOB:
                assert known(seen.component) == self.components[command.deployment]
                assert self.deployments[command.deployment].provisioning is Provisioning.SUCCEEDED
                self.jobs.setdefault(do.name, JobStatus.RUNNING)
                return replace(seen, test_job=UNSEEN)
            case Effect.WRITE_SCHEDULE | Effect.PAUSE_SCHEDULE:
                assert self.endpoint is not None
                assert self.endpoint.traffic == {command.deployment: 100}, "the schedule before the switch"
                runs = batch.is_to_run(command, wanted.batch_stage, self.schedule)
                paused = do.effect is Effect.PAUSE_SCHEDULE or not runs
                before = self.schedule.tags if self.schedule else {}
                written = before if do.effect is Effect.PAUSE_SCHEDULE else tags.schedule(command, wanted.batch_stage)
                self.schedule = a_schedule(command, tags=written, enabled=not paused, provisioning=CHANGING)
                return replace(seen, schedule=UNSEEN)
            case Effect.CANCEL_TEST_JOB:
                assert self.jobs[do.name] is JobStatus.RUNNING
                self.jobs[do.name] = JobStatus.FAILED
                return replace(seen, test_job=UNSEEN)
            case Effect.DELETE_SCHEDULE:
                assert self.schedule is not None
                assert not self.schedule.enabled, "Azure ML deletes paused schedules only"
                self.schedule = None
                return replace(seen, schedule=UNSEEN)
            case Effect.DELETE_ENDPOINT:
                assert self.endpoint is not None
                assert self.endpoint.provisioning not in (CHANGING, DELETING), "Azure answers 409"
                assert all(tags.is_copy(each.tags) for each in self.deployments.values()), "not ours to delete"
                assert command.goal == "retired" or not self.deployments, "its deployments would go with it"
                self.endpoint = self.endpoint.model_copy(update={"provisioning": DELETING})
                return unseen
            case Effect.CREATE_ENDPOINT:
                assert self.endpoint is None
                self.endpoint = an_endpoint(command, provisioning=CHANGING)
                return unseen
        assert self.endpoint is not None
        assert self.endpoint.provisioning not in (CHANGING, DELETING), "Azure answers 409"
        match do.effect:
            case Effect.CLAIM_ENDPOINT:
                claimed = {**self.endpoint.tags, **tags.claim(command)}
                self.endpoint = self.endpoint.model_copy(update={"tags": claimed, "provisioning": CHANGING})
            case Effect.CREATE_DEPLOYMENT:
                assert do.name not in self.deployments
                assert tags.is_copy_of(self.models[command.target_model_name, command.version].tags, command)
                self.deployments[do.name] = a_deployment(command, provisioning=CHANGING)
            case Effect.SHIFT_TRAFFIC:
                assert self.deployments[do.name] == a_deployment(command, tags=self.deployments[do.name].tags)
                if wanted.command.stage.serve == "batch":
                    tested = self.jobs.get(batch.test_job_name(command))
                    assert tested is JobStatus.COMPLETED, "switched to what was not tested"
                else:
                    unasked = wanted.recipe.sample_request is None
                    assert do.name in self.asked or unasked, "traffic for what did not answer"
                traffic = rollout.shared(self.endpoint.traffic, do.name, do.share)
                assert traffic[do.name] == do.share
                self._write(rollout.shifted_tags(wanted, replace(seen, endpoint=self.endpoint), do, ""), traffic)
            case Effect.TAKE_TRAFFIC_BACK:
                traffic, marks = rollout.restored(wanted, self.endpoint, do)
                assert do.name not in traffic
                self._write(marks, traffic)
            case Effect.KEEP_LOG:
                return replace(seen, log="log")
            case Effect.RETIRE | Effect.CLEAN_UP | Effect.DELETE_FAILED_DEPLOYMENT:
                assert not self.is_live(do.name), "a live deployment would be deleted"
                assert tags.is_copy(self.deployments[do.name].tags), "what somebody else deployed would be deleted"
                gone = self.deployments[do.name].model_copy(update={"provisioning": DELETING})
                self.deployments[do.name] = gone
            case _:
                raise AssertionError(do)
        assert self.live in (0, 100), f"the traffic sums to {self.live}"
        assert self.live > 0 or live_before == 0, "a live endpoint lost all its traffic"
        return unseen

    def _write(self, marks: dict[str, str], traffic: dict[str, int]) -> None:
        assert self.endpoint is not None
        assert all(self.deployments[name].provisioning is Provisioning.SUCCEEDED for name in traffic)
        changes = {"tags": marks, "traffic": traffic, "provisioning": CHANGING}
        self.endpoint = self.endpoint.model_copy(update=changes)


def deliver(world: World, wanted: Wanted, *, effects: int = 99) -> Outcome | None:
    """One delivery; None if it dies after so many effects."""
    seen = Seen()
    for _ in range(60):
        step = decide(replace(wanted, now=world.now), seen)
        if isinstance(step, Look):
            seen = world.look(wanted, seen, step)
        elif isinstance(step, Do):
            if effects == 0:
                return None
            effects -= 1
            seen = world.perform(replace(wanted, now=world.now), seen, step)
        else:
            return step
    raise AssertionError(f"a delivery that does not end: {step}")


def deliveries(world: World, wanted: Wanted, *, deaths: tuple[int, ...] = ()) -> Iterator[Outcome | None]:
    """Deliveries, and time between them, until the promotion has ended. The first ones die after so many effects."""
    for number in range(40):
        outcome = deliver(world, wanted, effects=deaths[number] if number < len(deaths) else 99)
        yield outcome
        if isinstance(outcome, Done | Refused | Parked):
            return
        world.settle()
    raise AssertionError(f"a promotion that does not end: {outcome}")


def end(world: World, wanted: Wanted, *, deaths: tuple[int, ...] = ()) -> Outcome | None:
    return [*deliveries(world, wanted, deaths=deaths)][-1]
