"""How live traffic moves to a new online deployment: in steps, each with its bake time and analysis. Pure.

Where a rollout stands is in the endpoint's tags, written in the same request as the traffic: the deployment, its share and
since when. So a delivery that comes late, twice or after a crash finds itself, and a newer promotion finds what another
one left half done.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from core import tags
from core.commands import Phase, PromoteModel, Verb
from core.errors import Reason
from core.ledger import Decision
from core.outcomes import Parked, Refused, Waiting
from core.ports import Deployment, Endpoint, Metrics, Provisioning, TestSummary
from core.stages import Analysis, Latency, RealtimeStage, Rollout, seconds
from core.steps import UNSEEN, Do, Effect, Look, Seen, Step, Unseen, Wanted, known, wait
from core.tags import Position

LONGEST_LOOK = 60.0
AT_ONCE = Rollout()


def of(command: PromoteModel) -> Rollout:
    """The rollout that the stage asks for. What is rolled back to, or repaired, has been live, and is needed now."""
    if command.order is not None and command.order.verb in (Verb.ROLL_BACK, Verb.REPAIR):
        return AT_ONCE
    return command.stage.rollout if isinstance(command.stage, RealtimeStage) else AT_ONCE


def shared(traffic: Mapping[str, int], name: str, share: int) -> dict[str, int]:
    """The traffic with this share for one deployment; the others keep the rest, in the proportion that they have.

    Per cent, 100 in all. A deployment that is alone has it all.
    """
    others = {each: weight for each, weight in traffic.items() if each != name and weight > 0}
    if not others or share >= 100:
        return {name: 100}
    left, total = 100 - share, sum(others.values())
    scaled = {each: left * weight // total for each, weight in others.items()}
    by_remainder = sorted(others, key=lambda each: (-(left * others[each] % total), each))
    for each in by_remainder[: left - sum(scaled.values())]:
        scaled[each] += 1
    return {each: weight for each, weight in {**scaled, name: share}.items() if weight > 0}


def position(endpoint: Endpoint, ours: Deployment) -> Position | None:
    """Where the rollout of this very deployment stands; None if it has not begun, or if it was over and is no longer so."""
    found = tags.position(endpoint.tags)
    if found is None or found.deployment != ours.name:
        return None
    return None if found.share == 100 and endpoint.traffic.get(ours.name) != 100 else found


# ------------------------------------------------------------------------------------------------------ what is left over


def abandoned(endpoint: Endpoint, name: str) -> Step | None:
    """Take the traffic from the canary of another promotion, which will not go on: this one has the endpoint now."""
    found = tags.position(endpoint.tags)
    if found is None or found.deployment == name or found.share == 100 or not endpoint.traffic.get(found.deployment):
        return None
    if endpoint.traffic[found.deployment] == 100:
        return None  # somebody has given it everything meanwhile: it is what is live now
    return Do(Effect.TAKE_TRAFFIC_BACK, found.deployment, why="another promotion has the endpoint now")


def taken_back(wanted: Wanted, seen: Seen, endpoint: Endpoint, ours: Deployment | None) -> Step | None:
    """The end of a promotion whose analysis failed: None if it did not."""
    why = tags.why_taken_back(endpoint.tags, wanted.command)
    if why is None:
        return None
    if ours is not None and ours.provisioning is not Provisioning.DELETING:
        if seen.log is UNSEEN:
            return Do(Effect.KEEP_LOG, ours.name)
        if of(wanted.command).failed_deployment == "delete":
            if Provisioning.CHANGING in (ours.provisioning, endpoint.provisioning):
                return wait(Phase.DEPLOY, f"deployment {ours.name} can be deleted once it has settled", seen)
            return Do(Effect.CLEAN_UP, ours.name)
    return Refused(
        Reason.ANALYSIS_FAILED,
        f"rolled back by itself: {why}",
        remedy="The version before has all traffic again. The log of the failed deployment is in its steps (keep log). "
        "Correct the model and register it again, or retry if the cause is gone.",
        detail={} if isinstance(seen.log, Unseen) else {"log": seen.log},
    )


def _stray(seen: Seen, endpoint: Endpoint, kept: frozenset[str]) -> Do | None:
    """Deployments of ours that nobody is sent to, and to which nobody would go back: they only cost."""
    found = () if isinstance(seen.deployments, Unseen) else seen.deployments
    for each in found:
        is_unused = each.name not in kept and not endpoint.traffic.get(each.name)
        if is_unused and tags.is_copy(each.tags) and each.provisioning.is_settled:
            return Do(Effect.RETIRE, each.name)
    return None


# -------------------------------------------------------------------------------------------------------- step by step


def advance(
    wanted: Wanted, seen: Seen, endpoint: Endpoint, ours: Deployment, live: Mapping[str, object]
) -> Step | None:
    """The next step with the traffic; None once the deployment has all of it, and has soaked.

    `live` is the result once it has all traffic.
    """
    at = position(endpoint, ours)
    stable = endpoint.tags.get(tags.STABLE)
    if at is None:
        if stable == ours.name and endpoint.traffic.get(ours.name) == 100:
            return None
        return Do(Effect.SHIFT_TRAFFIC, ours.name, share=_next_share(wanted, endpoint, ours, 0))
    if endpoint.traffic.get(ours.name, 0) != at.share:
        return _changed_by_others(endpoint, at)
    previous = endpoint.tags.get(tags.PREVIOUS)
    if at.share == 100 and not _is_there(seen, previous):
        return None  # nothing to go back to, so nothing to soak for
    kept = frozenset(each for each in (ours.name, stable, previous if at.share == 100 else None) if each)
    if stray := _stray(seen, endpoint, kept):
        return stray
    if step := _bake(wanted, seen, at, live):
        return step
    if at.share == 100:
        return None
    return Do(Effect.SHIFT_TRAFFIC, ours.name, share=_next_share(wanted, endpoint, ours, at.share))


def _next_share(wanted: Wanted, endpoint: Endpoint, ours: Deployment, share: int) -> int:
    is_alone = not any(weight for name, weight in endpoint.traffic.items() if name != ours.name)
    steps = () if is_alone else of(wanted.command).steps
    return next((step for step in steps if step > share), 100)


def _is_there(seen: Seen, name: str | None) -> bool:
    found = () if isinstance(seen.deployments, Unseen) else seen.deployments
    return any(each.name == name and each.provisioning is Provisioning.SUCCEEDED for each in found)


def _changed_by_others(endpoint: Endpoint, at: Position) -> Parked:
    shown = ", ".join(f"{weight} % to {name}" for name, weight in endpoint.traffic.items() if weight) or "none"
    return Parked(
        Reason.TRAFFIC_CHANGED,
        f"somebody changed the traffic of endpoint {endpoint.name} during the rollout: it is {shown}, and was "
        f"{at.share} % to {at.deployment}",
        remedy="Set the traffic as it was, and the rollout goes on; or cancel the promotion.",
    )


def _bake(wanted: Wanted, seen: Seen, at: Position, live: Mapping[str, object]) -> Step | None:
    """None once the time at this step is over and nothing speaks against going on."""
    rollout = of(wanted.command)
    duration = seconds(rollout.soak if at.share == 100 else rollout.bake)
    left = duration - (wanted.now - at.since).total_seconds()
    if duration > 0 and rollout.analysis is not None:
        if seen.metrics is UNSEEN:
            return Look.METRICS
        objection = judged(rollout.analysis, seen.metrics, is_over=left <= 0)
        if objection and (step := _met(wanted, rollout.analysis, objection, at)):
            return step
    if left <= 0:
        return None
    doing = "soaks: the deployment before it is kept" if at.share == 100 else "bakes"
    return Waiting(
        Phase.BAKE,
        f"{at.deployment} has {at.share} % of the traffic and {doing} for {_told(left)} more",
        retry_after=min(left, LONGEST_LOOK),
        live=live if at.share == 100 else None,
    )


@dataclass(frozen=True)
class Objection:
    """What speaks against going on: a failure, or that nobody can tell."""

    why: str
    is_failure: bool


def judged(analysis: Analysis, metrics: Metrics, *, is_over: bool) -> Objection | None:
    """What the metrics say. That they say nothing counts once the time is over."""
    if metrics.requests < analysis.minimum_requests:
        needed = f"{metrics.requests:.0f} of the {analysis.minimum_requests} requests that it takes to judge it"
        return Objection(f"it had {needed}", is_failure=False) if is_over else None
    if metrics.error_rate > analysis.maximum_error_rate:
        failed = f"{metrics.error_rate:.1f} % of its {metrics.requests:.0f} requests failed"
        return Objection(f"{failed}, more than {analysis.maximum_error_rate:g} %", is_failure=True)
    return _too_slow(analysis.latency, metrics, is_over=is_over) if analysis.latency else None


def _too_slow(limit: Latency, metrics: Metrics, *, is_over: bool) -> Objection | None:
    if metrics.latency is None:
        unknown = f"its latency (P{limit.percentile}) is not known"
        return Objection(unknown, is_failure=False) if is_over else None
    if metrics.latency <= limit.milliseconds:
        return None
    return Objection(
        f"its latency (P{limit.percentile}) is {metrics.latency:.0f} ms, more than {limit.below}", is_failure=True
    )


def _met(wanted: Wanted, analysis: Analysis, objection: Objection, at: Position) -> Step | None:
    """What follows: a failure takes the traffic back, doubt does what the policy says."""
    if objection.is_failure or analysis.inconclusive == "roll_back":
        return Do(Effect.TAKE_TRAFFIC_BACK, at.deployment, why=f"at {at.share} % of the traffic, {objection.why}")
    if analysis.inconclusive == "proceed":
        return None
    question = f"analysis at {at.share} %"
    said = wanted.decision(question)
    if said is not None and said.decision is Decision.APPROVED:
        return None
    if said is not None:
        why = f"at {at.share} % of the traffic, {said.by} rejected it" + (f": {said.comment}" if said.comment else "")
        return Do(Effect.TAKE_TRAFFIC_BACK, at.deployment, why=why)
    if _was_parked_too_long(wanted):
        if at.share == 100:
            return None  # it has served alone all that time without a failure that could be told
        why = f"at {at.share} % of the traffic, {objection.why}, and nobody said what to do"
        return Do(Effect.TAKE_TRAFFIC_BACK, at.deployment, why=why)
    return Parked(
        Reason.ANALYSIS_INCONCLUSIVE,
        f"{at.deployment} has {at.share} % of the traffic, but {objection.why}",
        remedy="Send it requests: it goes on by itself once there are enough. Or say what to do: POST "
        f"/api/promotions/{wanted.command.promotion_id}/approve goes on, .../reject gives the traffic back. `inconclusive` "
        "and `minimum_requests` of the policy say what to do another time.",
        retry_after=LONGEST_LOOK,
        question=question,
    )


def _was_parked_too_long(wanted: Wanted) -> bool:
    """Whether its deadline has come: then it ends, and a canary that nobody looks after must not stay."""
    command = wanted.command
    if command.phase is not Phase.PARK or command.phase_since is None:
        return False
    return (wanted.now - command.phase_since).total_seconds() >= seconds(command.stage.deadlines.park)


def _told(left: float) -> str:
    return str(timedelta(seconds=round(left)))


# ------------------------------------------------------------------------------------------------- what is written down


def shifted_tags(wanted: Wanted, seen: Seen, do: Do, verified_with: str) -> dict[str, str]:
    """The endpoint's tags once a deployment has its share. What is live alone from now on remembers what was before."""
    endpoint: Endpoint = known(seen.endpoint)
    marks = {**endpoint.tags, **tags.claim(wanted.command), tags.VERIFIED: verified_with[: tags.VALUE_LIMIT]}
    if not wanted.command.is_batch:
        marks[tags.ROLLOUT] = str(Position(do.name, do.share, wanted.now))
    elif isinstance(seen.summary, TestSummary):
        marks[tags.TESTED] = str(seen.summary)
    if do.share < 100:
        return marks
    before = max((weight, name) for name, weight in {**endpoint.traffic, "": 0}.items() if name != do.name)[1]
    if before:
        marks[tags.PREVIOUS] = before
    else:
        marks.pop(tags.PREVIOUS, None)
    return marks | {tags.STABLE: do.name}


def restored(wanted: Wanted, endpoint: Endpoint, do: Do) -> tuple[dict[str, int], dict[str, str]]:
    """The traffic and the tags of the endpoint once the traffic is taken from a deployment."""
    marks = {key: value for key, value in endpoint.tags.items() if key not in (tags.ROLLOUT, tags.PREVIOUS)}
    if do.name == wanted.command.deployment:
        marks[tags.FAILED_ROLLOUT] = tags.failed_rollout(wanted.command, do.why)
    if endpoint.traffic.get(do.name) != 100:
        return shared(endpoint.traffic, do.name, 0), marks
    previous = endpoint.tags[tags.PREVIOUS]
    return {previous: 100}, marks | {tags.STABLE: previous}
