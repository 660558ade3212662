"""Looking and doing: what each `Look` and each `Effect` asks of the target. Every effect is safe to repeat."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import assert_never

from core import batch, rollout, tags
from core.commands import Operation
from core.errors import PromotionError, Reason
from core.outcomes import Refused
from core.ports import (
    BatchJobSpec,
    ComponentSpec,
    CopyStatus,
    DeploymentSpec,
    Endpoint,
    Endpoints,
    Metrics,
    Preflight,
    ScheduleSpec,
    ScoringAnswer,
    Target,
    TestSummary,
)
from core.preflight import missed, told
from core.realtime import UNVERIFIED
from core.stages import BatchStage, RealtimeStage, Verification
from core.steps import UNSEEN, Do, Effect, Look, Performed, Seen, Wanted, changed, known
from core.verification import (
    FILE_LIMIT,
    MOST_REQUESTS,
    MOST_SECONDS,
    Answered,
    Case,
    UnreadableCases,
    Verdict,
    inline,
    judged,
)
from core.verification import cases as parsed

LOG_TAIL = 4000
# In the default datastore of the target: what the jobs of a promotion read and write.
TEST_JOBS_FOLDER, SAMPLES_FOLDER = "promotion-tests", "promotion-samples"
STATE_FOLDER = "_state"
SUMMARY_LIMIT = 100_000


def look(target: Target, wanted: Wanted, seen: Seen, at: Look) -> Seen:
    """What there is. Raises as the methods of `Target` do."""
    command = wanted.command
    match at:
        case Look.ENDPOINT:
            return replace(seen, endpoint=_endpoints(target, wanted).endpoint(command.endpoint))
        case Look.DEPLOYMENTS:
            return replace(seen, deployments=_endpoints(target, wanted).deployments(command.endpoint))
        case Look.COPIES:
            return replace(seen, copies=target.copy_states(wanted.manifest))
        case Look.MODEL:
            return replace(seen, model=target.model(command.target_model_name, command.version))
        case Look.CODE:
            code = wanted.serving.code
            return replace(seen, code=target.code(code) if code else None)
        case Look.ENVIRONMENT:
            environment = wanted.serving.environment
            return replace(seen, environment=target.environment(environment) if environment else None)
        case Look.COMPONENT:
            return replace(seen, component=target.batch.component(command.component, command.deployment))
        case Look.TEST_JOB:
            return replace(seen, test_job=target.batch.job(batch.test_job_name(command)))
        case Look.SUMMARY:
            return replace(seen, summary=_summary(target, wanted))
        case Look.SCHEDULE:
            return replace(seen, schedule=target.batch.schedule(command.endpoint))
        case Look.METRICS:
            return replace(seen, metrics=_metrics(target, wanted, seen))
        case Look.INSTANCE_TYPE | Look.QUOTAS | Look.GRANTS | Look.COMPUTE:
            return _tried(target.preflight, wanted, seen, at)
        case _:
            assert_never(at)


def _tried(target: Preflight, wanted: Wanted, seen: Seen, at: Look) -> Seen:
    """A look of the pre-flight. What keeps it from being made keeps nothing else: it is noted (`preflight.told`)."""
    stage = wanted.command.stage
    try:
        match at:
            case Look.INSTANCE_TYPE if isinstance(stage, RealtimeStage):
                return replace(seen, instance_type=target.instance_type(stage.instance_type))
            case Look.QUOTAS:
                return replace(seen, quotas=target.quotas())
            case Look.GRANTS:
                return replace(seen, grants=target.grants())
            case Look.COMPUTE:
                return replace(seen, compute=target.compute(wanted.batch_stage.compute))
            case _:
                raise TypeError(f"a {stage.serve} stage has nothing to {at.value}")
    except PromotionError as fault:
        return missed(seen, at, str(fault))


def perform(target: Target, wanted: Wanted, seen: Seen, do: Do, *, may_go_on: Callable[[], bool]) -> Performed:
    """Carry out one effect. Whatever it touched has to be looked at again."""
    return told(_performed(target, wanted, seen, do, may_go_on))


def _performed(target: Target, wanted: Wanted, seen: Seen, do: Do, may_go_on: Callable[[], bool]) -> Performed:
    match do.effect:
        case Effect.COPY:
            return _copy(target, wanted, seen, may_go_on)
        case Effect.SHIFT_TRAFFIC:
            return _shift_traffic(target, wanted, seen, do)
        case Effect.TAKE_TRAFFIC_BACK:
            return _take_traffic_back(target, wanted, seen, do)
        case _:
            return _EFFECTS[do.effect](target, wanted, seen, do.name)


# --------------------------------------------------------------------------------------------------------------- assets


def _copy(target: Target, wanted: Wanted, seen: Seen, may_go_on: Callable[[], bool]) -> Performed:
    """Start what is not yet there, as far as this delivery's time allows; the next one sees the rest."""
    copies = () if seen.copies is UNSEEN else seen.copies
    to_start = [copy for copy in copies if copy.status in (CopyStatus.MISSING, CopyStatus.FAILED)]
    started = 0
    for copy in to_start:
        if not may_go_on():
            break
        target.start_copy(wanted.manifest, copy)
        started += 1
    detail = f"{started} of {len(wanted.manifest.files)} files started"
    return Performed(replace(seen, copies=UNSEEN, has_copied=True), detail)


def _register_model(target: Target, wanted: Wanted, seen: Seen, _: str) -> Performed:
    command = wanted.command
    target.register_model(
        wanted.manifest,
        name=command.target_model_name,
        version=command.version,
        model_type=wanted.recipe.model_type,
        flavors=wanted.recipe.flavors,
        tags=tags.provenance(command),
    )
    return Performed(replace(seen, model=UNSEEN), f"{command.target_model_name}:{command.version}")


def _create_code(target: Target, wanted: Wanted, seen: Seen, _: str) -> Performed:
    code = known(wanted.serving.code)
    target.create_code(code)
    return Performed(replace(seen, code=UNSEEN), f"{code.scoring_script} and {len(code.files) - 1} files more")


def _create_environment(target: Target, wanted: Wanted, seen: Seen, _: str) -> Performed:
    environment = known(wanted.serving.environment)
    target.create_environment(environment, tags={tags.PROMOTION: wanted.command.promotion_id})
    return Performed(replace(seen, environment=UNSEEN), "; ".join((environment.image, *environment.repairs))[:1000])


def _create_component(target: Target, wanted: Wanted, seen: Seen, _: str) -> Performed:
    command = wanted.command
    spec = ComponentSpec(
        name=command.component,
        version=command.deployment,
        model_id=known(seen.model).id,
        model_type=wanted.recipe.model_type,
        code_id=known(seen.code).id,
        environment_id=known(seen.environment).id,
        stage=wanted.batch_stage,
        tags=tags.provenance(command),
    )
    target.batch.create_component(spec)
    return Performed(replace(seen, component=UNSEEN), f"{spec.name}:{spec.version}")


# ------------------------------------------------------------------------------------------------------------ endpoints


def _endpoints(target: Target, wanted: Wanted) -> Endpoints:
    return target.batch if wanted.command.is_batch else target.online


def _create_endpoint(target: Target, wanted: Wanted, seen: Seen, _: str) -> Performed:
    command, stage = wanted.command, wanted.command.stage
    auth_mode = stage.auth_mode if isinstance(stage, RealtimeStage) else "aad_token"
    operation = _endpoints(target, wanted).create_endpoint(
        command.endpoint, auth_mode=auth_mode, tags=tags.claim(command)
    )
    return Performed(changed(seen, operation), command.endpoint)


def _claim_endpoint(target: Target, wanted: Wanted, seen: Seen, _: str) -> Performed:
    endpoint = known(seen.endpoint)
    claimed = {**endpoint.tags, **tags.claim(wanted.command)}
    operation = _endpoints(target, wanted).update_endpoint(endpoint, tags=claimed, traffic=endpoint.traffic)
    return Performed(changed(seen, operation), endpoint.name)


def _create_deployment(target: Target, wanted: Wanted, seen: Seen, name: str) -> Performed:
    command, stage = wanted.command, wanted.command.stage
    if isinstance(stage, RealtimeStage):
        operation = target.online.create_deployment(_online_spec(wanted, seen, stage))
        return Performed(changed(seen, operation), f"{name} at 0 % traffic")
    operation = target.batch.create_deployment(
        command.endpoint,
        name,
        component_id=known(seen.component).id,
        compute=stage.compute,
        tags=tags.deployment(command),
    )
    return Performed(changed(seen, operation), f"{name}, not the default one yet")


def _online_spec(wanted: Wanted, seen: Seen, stage: RealtimeStage) -> DeploymentSpec:
    command, serving, settings = wanted.command, wanted.serving, stage.request_settings
    return DeploymentSpec(
        endpoint=command.endpoint,
        name=command.deployment,
        model_id=known(seen.model).id,
        code_id=known(seen.code).id if serving.code else None,
        scoring_script=serving.code.scoring_script if serving.code else None,
        environment_id=known(seen.environment).id if serving.environment else None,
        instance_type=stage.instance_type,
        instance_count=stage.instance_count,
        request_timeout_ms=settings.request_timeout_ms if settings else None,
        max_concurrent_requests_per_instance=settings.max_concurrent_requests_per_instance if settings else None,
        environment_variables=stage.environment_variables,
        tags=tags.deployment(command),
    )


def _shift_traffic(target: Target, wanted: Wanted, seen: Seen, do: Do) -> Performed:
    endpoint: Endpoint = known(seen.endpoint)
    traffic = rollout.shared(endpoint.traffic, do.name, do.share)
    operation = _endpoints(target, wanted).update_endpoint(
        endpoint, tags=rollout.shifted_tags(wanted, seen, do, _verified_with(wanted, seen)), traffic=traffic
    )
    return Performed(changed(replace(seen, metrics=UNSEEN), operation), f"{traffic[do.name]} % to {do.name}")


def _take_traffic_back(target: Target, wanted: Wanted, seen: Seen, do: Do) -> Performed:
    endpoint: Endpoint = known(seen.endpoint)
    traffic, marks = rollout.restored(wanted, endpoint, do)
    operation = _endpoints(target, wanted).update_endpoint(endpoint, tags=marks, traffic=traffic)
    back = ", ".join(f"{share} % to {name}" for name, share in traffic.items())
    return Performed(changed(replace(seen, metrics=UNSEEN), operation), f"{back}: {do.why}")


def _metrics(target: Target, wanted: Wanted, seen: Seen) -> Metrics:
    """Of the time since the deployment has had its share."""
    command, at = wanted.command, tags.position(known(seen.endpoint).tags)
    analysis = rollout.of(command).analysis
    percentile = analysis.latency.percentile if analysis and analysis.latency else None
    since = at.since if at else wanted.now
    return target.online.metrics(command.endpoint, command.deployment, since=since, percentile=percentile)


def _keep_log(target: Target, wanted: Wanted, seen: Seen, name: str) -> Performed:
    """The end of the log, into the history of the promotion: the deployment may be deleted after that."""
    log = _tolerant(lambda: target.online.deployment_log(wanted.command.endpoint, name)) or "no log could be had"
    return Performed(replace(seen, log=log[-LOG_TAIL:]), log[-LOG_TAIL:])


def _verified_with(wanted: Wanted, seen: Seen) -> str:
    if isinstance(wanted.command.stage, BatchStage):
        return f"test job on {batch.data_to_test_with(wanted)}"
    if isinstance(seen.verdict, Verdict):
        return f"verification: {seen.verdict.summary}"
    has_answered = isinstance(seen.smoke, ScoringAnswer) and seen.smoke.status == 200
    return (wanted.recipe.sample_source if has_answered else None) or UNVERIFIED


def _delete_endpoint(target: Target, wanted: Wanted, seen: Seen, name: str) -> Performed:
    return Performed(changed(seen, _endpoints(target, wanted).delete_endpoint(name)), name)


def _delete_deployment(target: Target, wanted: Wanted, seen: Seen, name: str) -> Performed:
    return Performed(changed(seen, _endpoints(target, wanted).delete_deployment(wanted.command.endpoint, name)), name)


# ---------------------------------------------------------------------------------------------------------- verification


def _smoke(target: Target, wanted: Wanted, seen: Seen, name: str) -> Performed:
    answer = target.online.score(known(seen.endpoint), name, wanted.recipe.sample_request)
    text = answer.text[:200]
    return Performed(replace(seen, smoke=answer), f"{answer.status} in {answer.seconds:.2f} s: {text}")


def _verify(target: Target, wanted: Wanted, seen: Seen, name: str) -> Performed:
    """Ask the deployment everything that the policy wants asked, as far as the time of a delivery allows."""
    stage, endpoint = wanted.command.stage, known(seen.endpoint)
    wanted_of = stage.verification if isinstance(stage, RealtimeStage) and stage.verification else Verification()
    golden = wanted_of.golden
    live = endpoint.tags.get(tags.STABLE) if golden is not None and golden.compare_with == "live" else None
    if golden is not None and golden.compare_with == "live" and live in (None, name):
        wanted_of = wanted_of.model_copy(update={"golden": None})  # the first on its endpoint: nothing to compare with
    try:
        cases = _cases(target, wanted, wanted_of)
    except UnreadableCases as unreadable:
        verdict = Verdict("nothing was asked", doubt=str(unreadable))
        return Performed(replace(seen, verdict=verdict), verdict.doubt or "")
    answers: list[Answered] = []
    ends = time.monotonic() + MOST_SECONDS
    for case in cases:
        if answers and time.monotonic() > ends:
            break
        answers.append(_answered(target, endpoint, name, case, wanted_of, live))
    verdict = judged(wanted_of, answers, len(cases))
    return Performed(
        replace(seen, verdict=verdict), "; ".join(filter(None, (verdict.summary, verdict.failed, verdict.doubt)))
    )


def _cases(target: Target, wanted: Wanted, verification: Verification) -> tuple[Case, ...]:
    found = inline(verification)
    if verification.file is not None:
        path = verification.file.replace("{model}", wanted.command.model)
        found += _recorded(path, target.read_text(path, FILE_LIMIT), "the target's default datastore")
    if verification.model_file is not None:
        path = verification.model_file
        found += _recorded(path, target.read_copy(wanted.manifest, path, FILE_LIMIT), "the model's folder")
    has_file = verification.file is not None or verification.model_file is not None
    if not found and not has_file and wanted.recipe.sample_request is not None:
        found = (Case(wanted.recipe.sample_request),)
    return found[:MOST_REQUESTS]


def _recorded(path: str, content: bytes | None, place: str) -> tuple[Case, ...]:
    if content is None:
        raise UnreadableCases(f"{path} is not in {place}")
    try:
        return parsed(content.decode(errors="replace"))
    except UnreadableCases as unreadable:
        raise UnreadableCases(f"{path} {unreadable}") from unreadable


def _answered(
    target: Target, endpoint: Endpoint, name: str, case: Case, verification: Verification, live: str | None
) -> Answered:
    answer = target.online.score(endpoint, name, case.request)
    if answer.status != 200:
        return Answered(answer.seconds, problem=f"{answer.status or 'no answer'}: {answer.text[:150]}")
    try:
        found = json.loads(answer.text)
    except (ValueError, RecursionError):
        return Answered(answer.seconds, problem=f"no JSON, or too much of it: {answer.text[:150]}")
    schema = verification.answer_schema
    if schema is not None and (violation := target.violation(schema, found)):
        return Answered(answer.seconds, found, problem=violation)
    if live is None:
        return Answered(answer.seconds, found, reference=case.expected, has_reference=case.is_recorded)
    reference = target.online.score(endpoint, live, case.request)
    try:
        return Answered(
            answer.seconds, found, reference=json.loads(reference.text), has_reference=reference.status == 200
        )
    except (ValueError, RecursionError):
        return Answered(answer.seconds, found)


def _start_test_job(target: Target, wanted: Wanted, seen: Seen, name: str) -> Performed:
    output = target.default_path(f"{TEST_JOBS_FOLDER}/{name}/")
    target.batch.start_job(_job(wanted, seen, name, _test_input(target, wanted), output))
    return Performed(replace(seen, test_job=UNSEEN), f"{name} on {batch.data_to_test_with(wanted)}")


def _summary(target: Target, wanted: Wanted) -> TestSummary | None:
    """What the test job wrote beside its predictions: see core/scoring/promotion_collect.py."""
    name, stage = batch.test_job_name(wanted.command), wanted.batch_stage
    content = target.read_text(f"{TEST_JOBS_FOLDER}/{name}/{name}/summary.json", SUMMARY_LIMIT)
    if content is None:
        return None
    given = json.loads(content)
    data = hashlib.sha256((stage.test_data_for(wanted.command.model) or "").encode()).hexdigest()[:16]
    return TestSummary(files=given["files"], failed_files=given["failed_files"], rows=given["rows"], data=data)


def _test_input(target: Target, wanted: Wanted) -> str:
    stage, model = wanted.batch_stage, wanted.command.model
    match batch.data_to_test_with(wanted):
        case batch.POLICY_DATA:
            return stage.test_data_for(model) or stage.input_for(model)
        case batch.SCHEDULE_DATA:
            return stage.input_for(model)
        case _:
            rows = "".join(json.dumps(row) + "\n" for row in wanted.recipe.sample_rows or ())
            file = target.put_text(f"{SAMPLES_FOLDER}/{wanted.command.recipe_digest[:32]}/sample.jsonl", rows.encode())
            return file.rpartition("/")[0] + "/"


# -------------------------------------------------------------------------------------------------------------- schedule


def _write_schedule(target: Target, wanted: Wanted, seen: Seen, name: str) -> Performed:
    stage, command = wanted.batch_stage, wanted.command
    enabled = batch.is_to_run(command, stage, seen.schedule)
    spec = ScheduleSpec(
        name=name,
        job=_job(wanted, seen, name, stage.input_for(command.model), stage.output_for(command.model)),
        stage=stage,
        enabled=enabled,
        tags=tags.schedule(command, stage),
    )
    operation = target.batch.write_schedule(spec)
    detail = f"{name}, {'enabled' if enabled else 'paused'}"
    return Performed(replace(seen, schedule=UNSEEN, operation=operation), detail)


def _pause_schedule(target: Target, wanted: Wanted, seen: Seen, name: str) -> Performed:
    operation = target.batch.pause_schedule(known(seen.schedule))
    why = "it is retired" if wanted.command.goal == "retired" else "the policy has no schedule for it"
    return Performed(replace(seen, schedule=UNSEEN, operation=operation), f"{name}: {why}")


def _cancel_test_job(target: Target, wanted: Wanted, seen: Seen, name: str) -> Performed:
    target.batch.cancel_job(name)
    # What it does until it has stopped concerns nobody: it is not looked at again.
    return Performed(replace(seen, test_job=None), name)


def _delete_schedule(target: Target, wanted: Wanted, seen: Seen, name: str) -> Performed:
    operation = target.batch.delete_schedule(name)
    return Performed(replace(seen, schedule=UNSEEN, operation=operation), name)


def _job(wanted: Wanted, seen: Seen, name: str, data: str, output: str) -> BatchJobSpec:
    """Each run writes into a folder of its own; what runs know of each other lies beside those."""
    command = wanted.command
    return BatchJobSpec(
        name=name,
        component_id=known(seen.component).id,
        compute=wanted.batch_stage.compute,
        experiment=command.endpoint,
        input=data,
        output=output + "${{name}}/",
        state=f"{output}{STATE_FOLDER}/",
        tags=tags.provenance(command),
    )


_Perform = Callable[[Target, Wanted, Seen, str], Performed]
_EFFECTS: Mapping[Effect, _Perform] = {
    Effect.REGISTER_MODEL: _register_model,
    Effect.CREATE_CODE: _create_code,
    Effect.CREATE_ENVIRONMENT: _create_environment,
    Effect.CREATE_COMPONENT: _create_component,
    Effect.CREATE_ENDPOINT: _create_endpoint,
    Effect.CLAIM_ENDPOINT: _claim_endpoint,
    Effect.CREATE_DEPLOYMENT: _create_deployment,
    Effect.DELETE_FAILED_DEPLOYMENT: _delete_deployment,
    Effect.SMOKE: _smoke,
    Effect.VERIFY: _verify,
    Effect.START_TEST_JOB: _start_test_job,
    Effect.KEEP_LOG: _keep_log,
    Effect.WRITE_SCHEDULE: _write_schedule,
    Effect.PAUSE_SCHEDULE: _pause_schedule,
    Effect.RETIRE: _delete_deployment,
    Effect.CLEAN_UP: _delete_deployment,
    Effect.CANCEL_TEST_JOB: _cancel_test_job,
    Effect.DELETE_SCHEDULE: _delete_schedule,
    Effect.DELETE_ENDPOINT: _delete_endpoint,
}


# ------------------------------------------------------------------------------------------------------------- explain


def explain_failure(target: Target, wanted: Wanted, refused: Refused, operation: Operation | None) -> Refused:
    """Add what Azure knows about a failure: the operation's error, and the end of the log of what failed."""
    if refused.reason not in _EXPLAINED:
        return refused
    detail = dict(refused.detail)
    if operation and (error := _tolerant(lambda: target.operation_error(operation))):
        detail["azure_error"] = error
    if log := _tolerant(lambda: _log(target, wanted, refused.reason)):
        detail["log"] = log[-LOG_TAIL:]
    return replace(refused, detail=detail)


_EXPLAINED = frozenset(
    {
        Reason.DEPLOYMENT_FAILED,
        Reason.SMOKE_FAILED,
        Reason.ENDPOINT_FAILED,
        Reason.TEST_JOB_FAILED,
        Reason.SCHEDULE_FAILED,
    }
)


def _log(target: Target, wanted: Wanted, reason: Reason) -> str | None:
    command = wanted.command
    if reason is Reason.TEST_JOB_FAILED:
        return target.batch.job_log(batch.test_job_name(command))
    if reason in (Reason.DEPLOYMENT_FAILED, Reason.SMOKE_FAILED) and not command.is_batch:
        return target.online.deployment_log(command.endpoint, command.deployment)
    return None


def _tolerant(ask: Callable[[], str | None]) -> str | None:
    """A log that cannot be had must not keep a refusal from being told."""
    try:
        return ask()
    except PromotionError:
        return None
