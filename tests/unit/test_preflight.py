"""The pre-flight: what is asked, when, and what follows from what is found."""

from dataclasses import replace
from typing import Any

import pytest

from core import tags
from core.commands import Phase, PromoteModel
from core.endpoints import decide
from core.errors import Reason
from core.outcomes import Done, Parked, Refused
from core.plan import plan
from core.ports import Compute, Grant, InstanceType, Provisioning, Quota, TargetAsset
from core.preflight import actions_needed, missed, preflight, told, vcpus_needed
from core.steps import UNKNOWN, UNSEEN, Effect, Look, Performed, Seen, Step, Wanted
from tests.unit import world as worlds
from tests.unit.builders import (
    a_batch_command,
    a_batch_recipe,
    a_batch_stage,
    a_command,
    a_deployment,
    a_recipe,
    a_stage,
    a_wanted,
    an_endpoint,
    cleared,
)
from tests.unit.world import World

DS3 = InstanceType(name="STANDARD_DS3_V2", family="standardDSv2Family", vcpus=4)
A100 = InstanceType(name="Standard_NC24ads_A100_v4", family="standardNCADSA100v4Family", vcpus=24)
T4 = InstanceType(name="Standard_NC4as_T4_v3", family="standard NCASv3_T4 Family", vcpus=4)
NOT_ASKED: dict[str, Any] = {"instance_type": UNSEEN, "quotas": UNSEEN, "grants": UNSEEN, "compute": UNSEEN}


def a_quota(limit: int | None, used: int = 0, name: str = "standardDSv2Family") -> Quota:
    return Quota(name=name, label=name, used=used, limit=limit)


def a_cluster(**changes: Any) -> Compute:
    return Compute.model_validate(
        {"name": "cpu-cluster", "kind": "AmlCompute", "state": "Succeeded", "max_nodes": 2} | changes
    )


def wanted(command: PromoteModel | None = None) -> Wanted:
    command = command or a_command()
    return a_wanted(command, a_batch_recipe() if command.is_batch else a_recipe())


def found(command: PromoteModel | None = None, **changes: Any) -> Step | None:
    return preflight(wanted(command), cleared(endpoint=None, **changes))


def barred(command: PromoteModel | None = None, **changes: Any) -> Parked | Refused:
    step = found(command, **changes)
    assert isinstance(step, Parked | Refused), step
    assert step.remedy
    return step


# ------------------------------------------------------------------------------------------------------ when it is asked


@pytest.mark.parametrize(
    ("command", "looks"),
    [
        (a_command(), {Look.INSTANCE_TYPE, Look.QUOTAS, Look.GRANTS}),
        (a_batch_command(), {Look.COMPUTE, Look.GRANTS}),
        (a_command(stages=(a_stage(preflight=False),)), set()),
    ],
    ids=["realtime", "batch", "switched off"],
)
def test_what_is_looked_at_before_anything_is_done(command: PromoteModel, looks: set[Look]) -> None:
    seen, met = replace(cleared(endpoint=None), **NOT_ASKED), set()
    clear = cleared()
    fields = {
        Look.INSTANCE_TYPE: "instance_type",
        Look.QUOTAS: "quotas",
        Look.GRANTS: "grants",
        Look.COMPUTE: "compute",
    }
    while (step := preflight(wanted(command), seen)) is not None:
        assert isinstance(step, Look)
        met.add(step)
        seen = replace(seen, **{fields[step]: getattr(clear, fields[step])})
    assert met == looks


AT = {"phase_since": a_command().requested_at}


@pytest.mark.parametrize(
    ("phase", "is_claimed", "is_asked"),
    [
        (None, False, True),
        (Phase.PARK, False, True),
        (Phase.APPROVAL, False, True),
        (Phase.ARTIFACTS, False, False),
        (Phase.DEPLOY, False, True),  # it waits for somebody else's operation on the endpoint
        (Phase.DEPLOY, True, False),
        (None, True, True),  # a new attempt whose deployment is gone
        (Phase.PARK, True, True),  # Azure took the endpoint, but not the deployment
    ],
)
def test_it_is_asked_once(phase: Phase | None, is_claimed: bool, is_asked: bool) -> None:
    command = a_command(phase=phase, **AT)
    older = a_command(version="2", model_created_at=command.model_created_at.replace(year=2025))
    endpoint = an_endpoint(command if is_claimed else older)
    seen = Seen(endpoint=endpoint, deployments=())
    step = decide(wanted(command), seen)
    assert (step is Look.GRANTS) is is_asked


def test_while_artifacts_are_copied_to_a_target_without_the_endpoint_it_is_not_asked_again() -> None:
    seen = Seen(endpoint=None)
    assert decide(wanted(), seen) is Look.GRANTS
    assert decide(wanted(a_command(phase=Phase.ARTIFACTS, **AT)), seen) is Look.MODEL


@pytest.mark.parametrize("provisioning", list(Provisioning))
def test_a_deployment_that_is_there_has_its_quota(provisioning: Provisioning) -> None:
    """Also after a crash, and although nothing would be left for a second one."""
    seen = cleared(
        endpoint=an_endpoint(), deployments=(a_deployment(provisioning=provisioning),), quotas=(a_quota(8, used=8),)
    )
    step = decide(wanted(), seen)
    assert not (isinstance(step, Parked | Refused) and step.reason is Reason.QUOTA_EXCEEDED)
    assert decide(wanted(), replace(seen, **NOT_ASKED)) == step, "it was asked again"


def test_whoever_waits_for_an_approval_is_not_asked_about() -> None:
    step = decide(wanted(a_command(stages=(a_stage(approval={}),))), Seen(endpoint=None))
    assert isinstance(step, Parked)
    assert step.reason is Reason.APPROVAL_WANTED


# ---------------------------------------------------------------------------------------------------------------- quota


@pytest.mark.parametrize(
    ("size", "instances", "needed"),
    [(DS3, 1, 8), (DS3, 2, 12), (DS3, 5, 24), (DS3, 10, 48), (T4, 3, 16), (A100, 1, 24), (A100, 2, 48)],
    ids=["1", "2", "5: nothing is rounded up", "10", "3", "no reservation", "no reservation for 2"],
)
def test_a_fifth_more_is_needed_in_whole_instances(size: InstanceType, instances: int, needed: int) -> None:
    """One instance of four vCPUs needs eight: `Additional needed: 8` is what Azure says of it."""
    assert vcpus_needed(size, instances) == needed


@pytest.mark.parametrize(
    ("quotas", "is_enough"),
    [
        ((a_quota(8),), True),
        ((a_quota(7),), False),
        ((a_quota(16, used=8),), True),
        ((a_quota(16, used=9),), False),
        ((a_quota(6, used=9),), False),
        ((a_quota(None, used=900),), True),
        ((a_quota(0, name="standardFSv2Family"),), True),
        ((a_quota(100), a_quota(7, name="TotalDedicatedCores")), False),
        ((a_quota(7, name="standard DSv2 Family"),), False),
        ((), True),
    ],
    ids=[
        "just enough",
        "one too few",
        "just enough is free",
        "one too few is free",
        "more is used than allowed",
        "no limit",
        "another family's",
        "enough of the family, not in all",
        "another spelling",
        "no limit is shown",
    ],
)
def test_quota(quotas: tuple[Quota, ...], is_enough: bool) -> None:
    step = found(quotas=quotas)
    assert (step is None) is is_enough
    assert is_enough or (isinstance(step, Parked) and step.reason is Reason.QUOTA_EXCEEDED)


def test_what_is_missing_is_told_in_figures() -> None:
    step = barred(quotas=(a_quota(6, used=4),))
    assert step.why == (
        "1 x STANDARD_DS3_V2 takes 8 vCPUs of standardDSv2Family, with what Azure ML reserves for upgrades; "
        "2 of 6 are free"
    )
    assert "more quota" in step.remedy


def test_an_instance_type_that_the_region_does_not_have_is_refused() -> None:
    step = barred(instance_type=None)
    assert (type(step), step.reason) == (Refused, Reason.INSTANCE_TYPE_UNKNOWN)
    assert "Standard_DS3_v2" in step.why


# ---------------------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("endpoint", "is_allowed"),
    [
        ("churn", True),
        ("azure", False),
        ("azure-churn", True),
        ("Office365", False),
        ("my-windows-model", False),
        ("loginrisk", False),
        ("risk-of-login", True),
        ("xbox-sales", False),
        ("sales-of-xbox", True),
    ],
)
def test_words_that_azure_reserves(endpoint: str, is_allowed: bool) -> None:
    step = found(a_command(stages=(a_stage(endpoint=endpoint),)))
    assert (step is None) is is_allowed
    assert is_allowed or (isinstance(step, Refused) and step.reason is Reason.NAME_NOT_ALLOWED)


@pytest.mark.parametrize(
    ("name", "is_allowed"), [("a.b_c-1", True), ("a b", False), ("-a", False), ("a" * 255, True), ("a" * 256, False)]
)
def test_names_of_models(name: str, is_allowed: bool) -> None:
    step = found(a_command(stages=(a_stage(target_model_name=name),)))
    assert (step is None) is is_allowed
    assert is_allowed or (isinstance(step, Refused) and "target_model_name" in step.remedy)


# -------------------------------------------------------------------------------------------------------------- compute


@pytest.mark.parametrize(
    ("compute", "kind", "said"),
    [
        (a_cluster(), None, ""),
        (a_cluster(kind="Kubernetes", max_nodes=None), None, ""),
        (None, Parked, "no compute cpu-cluster"),
        (a_cluster(state="Creating"), Parked, "is Creating"),
        (a_cluster(state="Failed"), Parked, "is Failed"),
        (a_cluster(max_nodes=1), Parked, "1 nodes at most, a run wants 2"),
        (a_cluster(max_nodes=0), Parked, "0 nodes at most"),
        (a_cluster(kind="ComputeInstance", max_nodes=None), Parked, "is a ComputeInstance"),
    ],
)
def test_the_compute_of_a_batch_stage(compute: Compute | None, kind: type[Step] | None, said: str) -> None:
    command = a_batch_command(stages=(a_batch_stage(instance_count=2),))
    step = found(command, compute=compute)
    if kind is None:
        assert step is None
        return
    assert isinstance(step, kind)
    assert isinstance(step, Parked | Refused)
    assert (step.reason, said in step.why) == (Reason.COMPUTE_NOT_USABLE, True)


# ---------------------------------------------------------------------------------------------------------- permissions

ML = "Microsoft.MachineLearningServices"
DATA_SCIENTIST = Grant(
    actions=(
        f"{ML}/workspaces/*/read",
        f"{ML}/workspaces/*/action",
        f"{ML}/workspaces/*/delete",
        f"{ML}/workspaces/*/write",
    ),
    not_actions=(f"{ML}/workspaces/delete", f"{ML}/workspaces/write", f"{ML}/workspaces/computes/*/write"),
)


@pytest.mark.parametrize(
    ("grants", "missing"),
    [
        ((Grant(actions=("*",)),), ()),
        ((DATA_SCIENTIST,), ()),
        ((Grant(actions=("*/read",)),), ("onlineEndpoints/write", "listKeys", "models/versions/write")),
        (
            (Grant(actions=("*",), not_actions=(f"{ML}/workspaces/onlineEndpoints/deployments/*",)),),
            ("deployments/write",),
        ),
        (
            (
                Grant(actions=("*",), not_actions=(f"{ML}/workspaces/onlineendpoints/*",)),
                Grant(actions=(f"{ML}/workspaces/onlineEndpoints/*",)),
            ),
            (),
        ),
        ((), ("onlineEndpoints/write",)),
    ],
    ids=["owner", "data scientist", "reader", "taken away", "taken away by one, given by another", "nothing at all"],
)
def test_permissions(grants: tuple[Grant, ...], missing: tuple[str, ...]) -> None:
    step = found(grants=grants)
    if not missing:
        assert step is None
        return
    assert isinstance(step, Parked)
    assert step.reason is Reason.PERMISSION_MISSING
    assert [action for action in missing if action not in step.why] == []


@pytest.mark.parametrize(
    ("command", "some", "none"),
    [
        (a_command(), "onlineEndpoints/listKeys/action", "batchEndpoints"),
        (a_command(stages=(a_stage(auth_mode="aad_token"),)), "onlineEndpoints/score/action", "listKeys"),
        (a_batch_command(), "schedules/write", "onlineEndpoints"),
        (a_batch_command(stages=(a_batch_stage(schedule=None),)), "jobs/write", "schedules"),
    ],
)
def test_only_what_the_stage_needs_is_asked_for(command: PromoteModel, some: str, none: str) -> None:
    actions = " ".join(actions_needed(wanted(command)))
    assert (some in actions, none in actions) == (True, False)


# -------------------------------------------------------------------------------------------------------- all together


def test_all_that_is_found_is_told_together() -> None:
    step = barred(quotas=(a_quota(0), a_quota(0, name="TotalDedicatedCores")), grants=())
    assert isinstance(step, Parked)
    assert step.why.count("; ") >= 2
    for said in ("standardDSv2Family", "TotalDedicatedCores", "onlineEndpoints/write"):
        assert said in step.why
    assert step.remedy.count("Ask for more quota") == 1
    assert "managed identity" in step.remedy


def test_what_can_never_work_is_refused_whatever_else_is_missing() -> None:
    step = barred(a_command(stages=(a_stage(endpoint="azure"),)), grants=(), quotas=(a_quota(0),))
    assert (type(step), step.reason) == (Refused, Reason.NAME_NOT_ALLOWED)
    assert "onlineEndpoints/write" in step.why


def test_a_promotion_that_is_parked_resumes_when_what_was_missing_is_there() -> None:
    """Nothing was done before; and the deployment that then takes the last of the quota is not held against itself."""
    world = World(preflight=cleared(quotas=(a_quota(6),)))
    first = worlds.deliver(world, wanted())
    assert isinstance(first, Parked)
    assert first.reason is Reason.QUOTA_EXCEEDED
    assert (world.endpoint, world.models, world.copies) == (None, {}, {})
    world.preflight = cleared(quotas=(a_quota(8),))
    for _ in range(20):
        outcome = worlds.deliver(world, wanted())
        if world.deployments:
            world.preflight = cleared(quotas=(a_quota(8, used=8),))
        world.settle()
        if isinstance(outcome, Done):
            return
        assert not isinstance(outcome, Parked | Refused), outcome
    raise AssertionError("it did not come to its end")


# ----------------------------------------------------------------------------------------- checks that cannot be made


@pytest.mark.parametrize("command", [a_command(), a_batch_command()], ids=["realtime", "batch"])
def test_what_cannot_be_checked_is_noted_and_keeps_nothing(command: PromoteModel) -> None:
    asked, seen = wanted(command), replace(cleared(endpoint=None), **NOT_ASKED)
    while isinstance(step := preflight(asked, seen), Look):
        seen = missed(seen, step, "no rights")
    assert step is None
    assert seen.grants is UNKNOWN
    noted = told(Performed(seen, "2 of 2 files started"))
    assert noted.detail.startswith("2 of 2 files started; not checked before: ")
    assert noted.detail.count("no rights") == (2 if command.is_batch else 3)
    assert told(Performed(noted.seen, "later")).detail == "later"


def test_an_instance_type_that_is_not_known_says_nothing_of_quota() -> None:
    assert found(instance_type=UNKNOWN, quotas=(a_quota(0),)) is None
    assert found(quotas=UNKNOWN) is None


# ------------------------------------------------------------------------------------------------------------ the plan


def test_a_plan_shows_what_would_be_in_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(preflight=cleared(quotas=(a_quota(6),)))
    monkeypatch.setattr("core.plan.look", lambda _, asked, seen, at: world.look(asked, seen, at))
    shown = plan(object(), wanted(), about="a test")  # type: ignore[arg-type] # the world is looked at instead
    assert (shown.outcome, shown.reason, shown.steps) == ("parked", Reason.QUOTA_EXCEEDED, ())
    assert "8 vCPUs" in shown.why
    behind = wanted(a_command(stages=(a_stage(approval={}),)))
    shown = plan(object(), behind, about="a test")  # type: ignore[arg-type]
    assert shown.reason is Reason.APPROVAL_WANTED
    assert shown.then is not None
    assert shown.then.reason is Reason.QUOTA_EXCEEDED


def test_a_plan_of_a_retry_does_not_hold_the_failed_deployment_against_it(monkeypatch: pytest.MonkeyPatch) -> None:
    again = a_command(attempt=2)
    failed = a_deployment(provisioning=Provisioning.FAILED)
    world = World(
        endpoint=an_endpoint(),
        deployments={failed.name: failed},
        models={("churn", "3"): TargetAsset(id="m", tags=tags.provenance(again))},
        preflight=cleared(quotas=(a_quota(8, used=8),)),
    )
    monkeypatch.setattr("core.plan.look", lambda _, asked, seen, at: world.look(asked, seen, at))
    shown = plan(object(), wanted(again), about="a test")  # type: ignore[arg-type]
    assert shown.outcome == "done"
    made_anew = {Effect.DELETE_FAILED_DEPLOYMENT.value, Effect.CREATE_DEPLOYMENT.value}
    assert made_anew <= {step.step for step in shown.steps}
