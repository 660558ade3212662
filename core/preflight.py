"""The pre-flight: what would keep a promotion from ending well, found before anything is done for it. Pure.

Asked before the first effect of an attempt, and again after parking; not once artifacts are copied or the endpoint is
claimed, and never once the deployment is there, so that a quota is not held against what it was taken for. All that is
found is told together: what somebody can put right parks the promotion, what can never work refuses it.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from core import tags
from core.commands import Phase
from core.errors import Reason
from core.outcomes import Parked, Refused
from core.ports import Compute, Endpoint, Grant, InstanceType, Quota
from core.stages import ENDPOINT_NAME, RealtimeStage
from core.steps import UNKNOWN, UNSEEN, Look, Performed, Seen, Step, Wanted

# Managed online endpoints keep a fifth of the instances of a deployment free for upgrades, and take quota for them too
# (Azure ML, "manage resources and quotas": virtual machine quota allocation for deployment) ...
RESERVED_FOR_UPGRADES = 1.2
# ... but for these (Azure ML, "managed online endpoints SKU list": skip 20 % reservation).
WITHOUT_RESERVATION = frozenset(
    {
        "standard_nc24ads_a100_v4",
        "standard_nc48ads_a100_v4",
        "standard_nc96ads_a100_v4",
        "standard_nc40ads_h100_v5",
        "standard_nc80adis_h100_v5",
        "standard_nd96amsr_a100_v4",
        "standard_nd96asr_v4",
        "standard_nd40rs_v2",
        "standard_nd96is_h100_v5",
        "standard_nd96isr_h100_v5",
    }
)
# Names of assets: letters, digits, hyphens, underscores and dots; 255 at most.
ASSET_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,254}")
# Resources that have a host name cannot have these (Resource Manager, "reserved resource name errors").
RESERVED_NAMES = frozenset(
    {
        "access", "azure", "bing", "bizspark", "biztalk", "cortana", "directx", "dotnet", "dynamics", "excel",
        "exchange", "forefront", "groove", "hololens", "hyperv", "kinect", "lync", "msdn", "o365", "office",
        "office365", "onedrive", "onenote", "outlook", "powerpoint", "sharepoint", "skype", "visio", "visualstudio",
    }
)  # fmt: skip
RESERVED_ANYWHERE = ("microsoft", "windows")
RESERVED_AT_THE_START = ("login", "xbox")
# Batch endpoints run on compute clusters and on Kubernetes; a compute instance is for one person.
BATCH_COMPUTES = frozenset({"amlcompute", "kubernetes"})
_PROVIDER = "Microsoft.MachineLearningServices/workspaces"
# What each look fills in.
_FIELDS = {
    Look.INSTANCE_TYPE: "instance_type",
    Look.QUOTAS: "quotas",
    Look.GRANTS: "grants",
    Look.COMPUTE: "compute",
}


@dataclass(frozen=True)
class Problem:
    """Something that is in the way. `never`: nothing that somebody does in the target helps."""

    reason: Reason
    why: str
    remedy: str
    never: bool = False


def preflight(wanted: Wanted, seen: Seen) -> Step | None:
    """None when nothing is known that would be in the way, or when it has been asked before."""
    if not wanted.command.stage.preflight or _has_passed(wanted, seen):
        return None
    for look in _looks(wanted):
        if getattr(seen, _FIELDS[look]) is UNSEEN:
            return look
    problems = [*_names(wanted), *_instances(wanted, seen), *_compute(wanted, seen), *_permissions(wanted, seen)]
    return _outcome(problems) if problems else None


def _has_passed(wanted: Wanted, seen: Seen) -> bool:
    """Whether this attempt went on behind the pre-flight already: copying, or to an endpoint that it has claimed."""
    endpoint, command = seen.endpoint, wanted.command
    if command.phase is Phase.ARTIFACTS:
        return True
    is_claimed = isinstance(endpoint, Endpoint) and tags.generation(endpoint.tags) == command.generation
    return is_claimed and command.phase in (Phase.DEPLOY, Phase.SMOKE, Phase.TEST)


def _looks(wanted: Wanted) -> tuple[Look, ...]:
    return (Look.GRANTS, Look.COMPUTE) if wanted.command.is_batch else (Look.GRANTS, Look.INSTANCE_TYPE, Look.QUOTAS)


def _outcome(problems: list[Problem]) -> Parked | Refused:
    first = next((found for found in problems if found.never), problems[0])
    why = "; ".join(found.why for found in problems)
    remedy = " ".join(dict.fromkeys(found.remedy for found in problems))
    return Refused(first.reason, why, remedy) if first.never else Parked(first.reason, why, remedy)


# ----------------------------------------------------------------------------------------------------------- the checks


def _names(wanted: Wanted) -> Iterator[Problem]:
    """Whether a name is taken by somebody else in the region, only the creation tells (`endpoint_name_taken`)."""
    name, model = wanted.command.endpoint, wanted.command.target_model_name
    remedy = "Set another `endpoint` in the stage, then ask again."
    if not ENDPOINT_NAME.fullmatch(name):
        why = f"no endpoint can be called {name!r}: 3 to 32 letters, digits and hyphens, starting with a letter"
        yield Problem(Reason.NAME_NOT_ALLOWED, why, remedy, never=True)
    elif word := _reserved(name.lower()):
        why = f"no endpoint can be called {name!r}: Azure reserves the word {word!r} for itself"
        yield Problem(Reason.NAME_NOT_ALLOWED, why, remedy, never=True)
    if not ASSET_NAME.fullmatch(model):
        why = f"no model can be called {model!r}: 1 to 255 letters, digits, dots, hyphens and underscores"
        remedy = "Set another `target_model_name` in the stage, then ask again."
        yield Problem(Reason.NAME_NOT_ALLOWED, why, remedy, never=True)


def _reserved(name: str) -> str | None:
    if name in RESERVED_NAMES:
        return name
    found = [word for word in RESERVED_ANYWHERE if word in name]
    found += [word for word in RESERVED_AT_THE_START if name.startswith(word)]
    return found[0] if found else None


def _instances(wanted: Wanted, seen: Seen) -> Iterator[Problem]:
    stage, found = wanted.command.stage, seen.instance_type
    if not isinstance(stage, RealtimeStage):
        return
    if found is None:
        yield Problem(
            Reason.INSTANCE_TYPE_UNKNOWN,
            f"the region of the target has no instance type {stage.instance_type}",
            "Set an `instance_type` that Azure ML lists for this region, then ask again; "
            "`preflight: false` in the stage leaves it to Azure.",
            never=True,
        )
    if isinstance(found, InstanceType) and isinstance(seen.quotas, tuple):
        yield from _too_small(seen.quotas, found, stage.instance_count)


def _too_small(quotas: tuple[Quota, ...], size: InstanceType, instances: int) -> Iterator[Problem]:
    needed = vcpus_needed(size, instances)
    for quota in quotas:
        if quota.limit is None or not _applies(quota, size):
            continue
        free = max(0, quota.limit - quota.used)
        if needed > free:
            yield Problem(
                Reason.QUOTA_EXCEEDED,
                f"{instances} x {size.name} takes {needed} vCPUs of {quota.label}, with what Azure ML reserves for "
                f"upgrades; {free} of {quota.limit} are free",
                "Ask for more quota (Azure portal: Quotas, Machine learning), delete deployments and clusters that nobody "
                "needs; or cancel it, set a smaller `instance_type` or `instance_count`, and promote again.",
            )


def vcpus_needed(size: InstanceType, instances: int) -> int:
    """What a new online deployment takes of the quota."""
    reserved = 1.0 if size.name.lower() in WITHOUT_RESERVATION else RESERVED_FOR_UPGRADES
    return math.ceil(round(reserved * instances, 6)) * size.vcpus


def _applies(quota: Quota, size: InstanceType) -> bool:
    """Families are spelled in more than one way: `standardNCASv3_T4Family`, `standard NCASv3_T4 Family`."""
    name = _plain(quota.name)
    return name == _plain(size.family) or name.startswith("total")


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _compute(wanted: Wanted, seen: Seen) -> Iterator[Problem]:
    if not wanted.command.is_batch or seen.compute in (UNKNOWN, UNSEEN):
        return
    stage, found = wanted.batch_stage, seen.compute
    if found is None:
        why = f"the target has no compute {stage.compute}"
        yield Problem(
            Reason.COMPUTE_NOT_USABLE,
            why,
            "Create the compute cluster; or cancel it, set another `compute`, and promote again.",
        )
    elif isinstance(found, Compute):
        yield from _not_usable(found, stage.instance_count)


def _not_usable(found: Compute, nodes: int) -> Iterator[Problem]:
    if found.kind.lower() not in BATCH_COMPUTES:
        why = f"compute {found.name} is a {found.kind}: no batch endpoint runs on one"
        yield Problem(Reason.COMPUTE_NOT_USABLE, why, "Set `compute` to the name of a compute cluster, then ask again.")
    if found.state.lower() != "succeeded":
        why = f"compute {found.name} is {found.state}"
        yield Problem(Reason.COMPUTE_NOT_USABLE, why, "Look at the compute in the target workspace.")
    if found.max_nodes is not None and found.max_nodes < nodes:
        why = f"compute {found.name} has {found.max_nodes} nodes at most, a run wants {nodes}"
        remedy = (
            "Raise the maximum number of nodes of the cluster; or cancel it, lower `instance_count`, and promote again."
        )
        yield Problem(Reason.COMPUTE_NOT_USABLE, why, remedy)


def _permissions(wanted: Wanted, seen: Seen) -> Iterator[Problem]:
    if not isinstance(seen.grants, tuple):
        return
    missing = [action for action in actions_needed(wanted) if not _is_granted(action, seen.grants)]
    if missing:
        target = wanted.command.target
        yield Problem(
            Reason.PERMISSION_MISSING,
            f"the service may not do this in workspace {target.workspace}: {', '.join(missing)}",
            "Give the service's managed identity a role that has these actions, such as AzureML Data Scientist; "
            "see docs/operations.md.",
        )


def actions_needed(wanted: Wanted) -> tuple[str, ...]:
    """What the service does in the target for this stage, in Resource Manager's words. Reads show themselves."""
    stage, serving = wanted.command.stage, wanted.serving
    below = ["models/versions/write"]
    below += ["codes/versions/write"] if serving.code else []
    below += ["environments/versions/write"] if serving.environment else []
    if isinstance(stage, RealtimeStage):
        scoring = {"key": "listKeys", "aml_token": "token", "aad_token": "score"}[stage.auth_mode]
        below += ["onlineEndpoints/write", "onlineEndpoints/deployments/write", "onlineEndpoints/deployments/delete"]
        below += [f"onlineEndpoints/{scoring}/action"] if wanted.recipe.sample_request is not None else []
    else:
        below += ["components/versions/write", "jobs/write"]
        below += ["batchEndpoints/write", "batchEndpoints/deployments/write", "batchEndpoints/deployments/delete"]
        below += ["schedules/write"] if stage.schedule else []
    return tuple(f"{_PROVIDER}/{each}" for each in below)


def _is_granted(action: str, grants: tuple[Grant, ...]) -> bool:
    """Each role assignment gives its actions without its own notActions; what one gives, another cannot take."""
    return any(_matches(action, each.actions) and not _matches(action, each.not_actions) for each in grants)


def _matches(action: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(action.lower(), pattern.lower()) for pattern in patterns)


# ------------------------------------------------------------------------------------- checks that could not be made


def missed(seen: Seen, at: Look, why: str) -> Seen:
    """After a look that could not be made."""
    name = _FIELDS[at]
    note = f"{name.replace('_', ' ')}: {why}"[:300]
    found: Seen = replace(seen, **{name: UNKNOWN, "unchecked": (*seen.unchecked, note)})  # type: ignore[arg-type]
    return found


def told(performed: Performed) -> Performed:
    """An effect that says what could not be checked before it; once."""
    seen = performed.seen
    if not seen.unchecked:
        return performed
    notes = f"not checked before: {'; '.join(seen.unchecked)}"
    detail = f"{performed.detail}; {notes}" if performed.detail else notes
    return Performed(replace(seen, unchecked=()), detail)
