"""The tags that this service writes in a target workspace, and how they are read back. Part of the contract.

Azure allows 256 characters in a tag's value, so values are ids, digests and names, never documents.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from core.commands import Generation, PromoteModel
from core.stages import BatchStage

PROMOTION = "promotion-id"
GENERATION = "promotion-generation"
SOURCE = "promotion-source"
MODEL = "promotion-model"
VERSION = "promotion-version"
RUN = "promotion-run"
MANIFEST = "promotion-manifest"
RECIPE = "promotion-recipe"
ATTEMPT = "promotion-attempt"
STABLE = "promotion-stable-deployment"
VERIFIED = "promotion-verified"
COMPONENT = "promotion-component"
SCHEDULE = "promotion-schedule"
SCHEDULE_STATE = "promotion-schedule-state"
PREVIOUS = "promotion-previous-deployment"
TESTED = "promotion-tested"
ROLLOUT = "promotion-rollout"
FAILED_ROLLOUT = "promotion-failed-rollout"

ENABLED, PAUSED = "enabled", "paused"

VALUE_LIMIT = 256


def provenance(command: PromoteModel) -> dict[str, str]:
    """Where a copy comes from: on the target's model, and on deployments. Equal for equal content."""
    return {
        PROMOTION: command.promotion_id,
        SOURCE: command.source.key[:VALUE_LIMIT],
        MODEL: command.model,
        VERSION: command.version,
        MANIFEST: command.manifest_digest,
        **({RUN: command.run_id} if command.run_id else {}),
    }


def deployment(command: PromoteModel) -> dict[str, str]:
    return provenance(command) | {RECIPE: command.recipe_digest, ATTEMPT: str(command.attempt)}


def schedule(command: PromoteModel, stage: BatchStage) -> dict[str, str]:
    """What a schedule runs and when; the digest changes with whatever of the stage goes into the schedule."""
    wanted = stage.model_dump(mode="json", include={"schedule": {"trigger"}, "input": True, "output": True})
    digest = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()[:16]
    enabled = stage.schedule is not None and stage.schedule.enabled
    return provenance(command) | {
        COMPONENT: f"{command.component}:{command.deployment}",
        SCHEDULE: digest,
        SCHEDULE_STATE: ENABLED if enabled else PAUSED,
    }


def claim(command: PromoteModel) -> dict[str, str]:
    """What makes an endpoint ours, and this promotion the one that may change it."""
    return {
        PROMOTION: command.promotion_id,
        GENERATION: str(command.generation),
        ATTEMPT: str(command.attempt),
    }


@dataclass(frozen=True)
class Position:
    """How far the traffic has moved to a deployment: its share in per cent, and since when (UTC)."""

    deployment: str
    share: int
    since: datetime

    def __str__(self) -> str:
        return f"{self.deployment}|{self.share}|{self.since.isoformat()}"


def position(tags: Mapping[str, str]) -> Position | None:
    """Where the last rollout of an endpoint stands."""
    try:
        name, share, since = tags[ROLLOUT].split("|")
        return Position(name, int(share), datetime.fromisoformat(since))
    except (KeyError, ValueError):
        return None


def failed_rollout(command: PromoteModel, why: str) -> str:
    return f"{command.promotion_id}|{command.attempt}|{why}"[:VALUE_LIMIT]


def why_taken_back(tags: Mapping[str, str], command: PromoteModel) -> str | None:
    """Why this attempt of a promotion had the traffic taken from its deployment; None if it had not."""
    promotion, _, rest = tags.get(FAILED_ROLLOUT, "").partition("|")
    attempt, _, why = rest.partition("|")
    return why if (promotion, attempt) == (command.promotion_id, str(command.attempt)) else None


def is_copy(tags: Mapping[str, str]) -> bool:
    """Whether a model was put where it is by a promotion: no news for intake."""
    return SOURCE in tags and MANIFEST in tags


def is_copy_of(tags: Mapping[str, str], command: PromoteModel) -> bool:
    wanted = provenance(command)
    return all(tags.get(key) == wanted[key] for key in (SOURCE, MODEL, VERSION, MANIFEST))


def generation(tags: Mapping[str, str]) -> Generation | None:
    """Who has claimed an endpoint; None if it is not ours (or its tag was edited into something else)."""
    try:
        return Generation.parse(tags[GENERATION])
    except (KeyError, ValueError):
        return None


def attempt(tags: Mapping[str, str]) -> int:
    text = tags.get(ATTEMPT, "")
    return int(text) if text.isdecimal() else 0
