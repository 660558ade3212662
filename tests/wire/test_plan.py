"""A plan of a promotion that waits at its gate, and then the promotion itself: the same steps, and nothing written before."""

import itertools
from pathlib import Path
from typing import Any

import pytest

from core.plan import WAIT
from tests import models
from tests.e2e.test_orders import APPROVER
from tests.e2e.test_realtime import register, steps_of
from tests.local import LocalAzure


def parked(azure: LocalAzure, model: str, target: str, reason: str) -> dict[str, Any]:
    """The promotion of a model to a target, once it waits for this."""

    def waits() -> dict[str, Any] | None:
        rows = [row for row in azure.promotions_of(model) if (row["target"], row["reason"]) == (target, reason)]
        return rows[0] if rows else None

    return azure.wait_for(waits, what=f"{model} parked in {target}: {reason}")


def planned(azure: LocalAzure, promotion_id: str) -> dict[str, Any]:
    """Its plan; nothing is written to Azure ML or to storage meanwhile."""
    since = max(entry["number"] for entry in azure.control.requests())
    plan: dict[str, Any] = azure.api(f"promotions/{promotion_id}/plan")
    asked = [entry for entry in azure.control.requests(since) if entry["service"] in ("arm", "azureml", "blob")]
    # The status tag of what has just ended may be on its way.
    asked = [entry for entry in asked if not entry["path"].endswith("/set-tag")]
    assert asked
    assert [entry for entry in asked if entry["method"] not in ("GET", "HEAD")] == []
    return plan


def effects(plan: dict[str, Any]) -> list[str]:
    return [each["step"] for each in plan["steps"] if each["step"] != WAIT]


def once(steps: list[str]) -> list[str]:
    """A file may be copied, or a model asked, in more than one delivery."""
    return [step for step, _ in itertools.groupby(steps)]


@pytest.fixture
def hold(local_azure: LocalAzure) -> str:
    """A schedule's endpoint that is on hold before anything is promoted to it."""
    place = "endpoints/prod/batch/hourly-planned"
    assert local_azure.order(f"{place}/hold", {"reason": "not yet"})["status_code"] == 202
    local_azure.wait_for(lambda: local_azure.api(place)["hold"], what="the hold")
    return place


def test_an_approved_promotion_does_what_was_planned(local_azure: LocalAzure, tmp_path: Path) -> None:
    register(local_azure, "approved-plan", models.regression_with_example(tmp_path))
    row = parked(local_azure, "approved-plan", "prod", "approval_wanted")

    plan = planned(local_azure, row["id"])
    assert (plan["outcome"], plan["reason"], plan["then"]["outcome"]) == ("parked", "approval_wanted", "done")
    assert steps_of(row) == []
    shown = {"manifest_digest": row["manifest_digest"], "recipe_digest": row["recipe_digest"]}
    assert local_azure.order(f"promotions/{row['id']}/approve", shown, **APPROVER)["status_code"] == 200
    row = local_azure.wait_for_state(row["id"], "succeeded")

    assert once(steps_of(row)) == effects(plan)
    after = {each["what"]: each["wanted"] for each in plan["differences"]}
    assert after["traffic"] == f"100 % to {row['result']['deployment']}"
    assert planned(local_azure, row["id"])["outcome"] == "nothing_to_do"


def test_a_schedule_that_was_held_is_written_as_it_was_planned(
    local_azure: LocalAzure, tmp_path: Path, hold: str
) -> None:
    register(local_azure, "hourly-planned", models.regression_with_example(tmp_path))
    row = parked(local_azure, "hourly-planned", "prod", "on_hold")

    plan = planned(local_azure, row["id"])
    assert (plan["outcome"], plan["reason"], plan["then"]["outcome"]) == ("parked", "on_hold", "done")
    assert local_azure.order(f"{hold}/release", {"reason": "now"})["status_code"] == 202
    row = local_azure.wait_for_state(row["id"], "succeeded", seconds=180)

    assert once(steps_of(row)) == effects(plan)
    shown = next(each for each in plan["differences"] if each["what"] == "schedule")
    assert (shown["shown"], shown["wanted"]) == ("none", f"enabled, runs {row['result']['component']}")
    assert planned(local_azure, row["id"])["outcome"] == "nothing_to_do"
