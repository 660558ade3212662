"""What people ask for, from the HTTP API to what the target shows: approve, roll back, hold, cancel, retire, redeploy."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from tests import models
from tests.e2e.test_realtime import ask, register
from tests.local import REPOSITORY, LocalAzure

POLICY = REPOSITORY / "tests" / "promotion.yaml"


def signed_in(name: str, *roles: str) -> dict[str, str]:
    """The header by which App Service's own sign-in vouches for somebody."""
    claims = [{"typ": "name", "val": name}, {"typ": "preferred_username", "val": f"{name}@example.com"}]
    claims += [{"typ": "roles", "val": role} for role in roles]
    principal = {"auth_typ": "aad", "claims": claims, "name_typ": "name", "role_typ": "roles"}
    return {"X-MS-CLIENT-PRINCIPAL": base64.b64encode(json.dumps(principal).encode()).decode()}


APPROVER = signed_in("Ada", "Promotion.Approver")


def of_target(azure: LocalAzure, model: str, target: str) -> dict[str, Any] | None:
    return next((row for row in azure.promotions_of(model) if row["target"] == target), None)


def online(azure: LocalAzure, target: str) -> dict[str, Any]:
    """The online endpoints of a target, by name."""
    found = azure.control.get(f"/azure-ml/{azure.endpoints['targets'][target]['workspace']}/resources")
    return {endpoint["name"]: endpoint for endpoint in found["onlineEndpoints"]}


def test_production_waits_for_an_approval(
    local_azure: LocalAzure, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """And goes where it was decided to go, though another policy is in force by then."""
    saved = models.regression_with_example(tmp_path)
    register(local_azure, "approved-prices", saved)

    def asked() -> dict[str, Any] | None:
        row = of_target(local_azure, "approved-prices", "prod")
        return row if row and row["state"] == "parked" else None

    row = local_azure.wait_for(asked, what="the question for an approval")
    assert (row["reason"], "Promotion.Approver" in row["why"]) == ("approval_wanted", True)
    before = POLICY.read_text(encoding="utf-8")
    stage = "{target: prod, serve: realtime, approval: {}}\n  - name: approved-at-once"
    assert before.count(stage) == 1
    other = stage.replace("approval: {}", "endpoint: elsewhere")
    changed = tmp_path / "promotion.yaml"
    changed.write_text(before.replace(stage, other), encoding="utf-8")
    local_azure.restart({"PROMOTION_POLICY": str(changed)})
    request.addfinalizer(local_azure.restart)
    assert "approved-prices" in online(local_azure, "test")
    assert "approved-prices" not in online(local_azure, "prod")
    shown = {"manifest_digest": row["manifest_digest"], "recipe_digest": row["recipe_digest"]}
    approve = f"promotions/{row['id']}/approve"

    assert local_azure.order(approve, shown)["status_code"] == 403, "by a key alone"
    assert local_azure.order(approve, shown, **signed_in("Bob"))["status_code"] == 403, "without the role"
    requester = signed_in(row["requested_by"], "Promotion.Approver")
    assert local_azure.order(approve, shown, **requester)["status_code"] == 403, "by the requester"
    assert local_azure.order(approve, shown | {"recipe_digest": "other"}, **APPROVER)["status_code"] == 409
    given = local_azure.order(approve, shown | {"comment": "looks right"}, **APPROVER)
    assert (given["status_code"], given["by"], given["decision"]) == (200, "Ada", "approved")

    row = local_azure.wait_for_state(row["id"], "succeeded")
    assert ask(local_azure, row, saved.request) == saved.expected
    assert "elsewhere" not in online(local_azure, "prod")
    trail = local_azure.api("endpoints/prod/realtime/approved-prices/history")["history"]
    assert [entry["action"] for entry in trail] == ["live", "approved"]
    assert (trail[1]["actor"], trail[1]["reason"]) == ("Ada", "looks right")


def test_an_approval_that_nobody_gives_expires(local_azure: LocalAzure, tmp_path: Path) -> None:
    """At its deadline, not at the next of the seldom looks at what is parked; a retry asks again."""
    version = register(local_azure, "expiring-prices", models.regression_with_example(tmp_path))
    row = local_azure.wait_for_end("expiring-prices", version)
    assert (row["state"], row["reason"]) == ("refused", "deadline_exceeded")
    assert "waits for the approval of somebody with the role Promotion.Approver" in row["why"]
    assert row["steps"] == []
    shown = {"manifest_digest": row["manifest_digest"], "recipe_digest": row["recipe_digest"]}
    assert local_azure.order(f"promotions/{row['id']}/approve", shown, **APPROVER)["status_code"] == 409

    changed_meanwhile = {"odata.error": {"code": "UpdateConditionNotSatisfied", "message": {"value": "changed"}}}
    row_of_it = rf"/promotions\(PartitionKey='{row['id']}',RowKey='promotion'\)"
    local_azure.control.plant(
        service="table", method="PUT", path=row_of_it, status=412, body=changed_meanwhile, times=2
    )
    assert local_azure.order(f"promotions/{row['id']}/retry")["status_code"] == 202, "a conflict is not the caller's"
    assert local_azure.wait_for_state(row["id"], "parked", attempt=2)["reason"] == "approval_wanted"


def test_a_rejection_ends_it_and_a_retry_asks_again(local_azure: LocalAzure, tmp_path: Path) -> None:
    register(local_azure, "approved-never", models.regression_with_example(tmp_path))

    def asked() -> dict[str, Any] | None:
        row = of_target(local_azure, "approved-never", "prod")
        return row if row and row["state"] == "parked" else None

    row = local_azure.wait_for(asked, what="the question for an approval")
    shown = {"manifest_digest": row["manifest_digest"], "recipe_digest": row["recipe_digest"], "comment": "too early"}
    assert local_azure.order(f"promotions/{row['id']}/reject", shown, **APPROVER)["status_code"] == 200
    row = local_azure.wait_for_state(row["id"], "refused")
    assert (row["reason"], row["why"]) == ("rejected", "Ada rejected it: too early")
    assert "approved-never" not in online(local_azure, "prod")

    assert local_azure.order(f"promotions/{row['id']}/retry")["status_code"] == 202
    row = local_azure.wait_for_state(row["id"], "parked", attempt=2)
    assert row["reason"] == "approval_wanted"
    assert local_azure.order(f"promotions/{row['id']}/cancel", {"reason": "no more"})["status_code"] == 202
    assert local_azure.wait_for_state(row["id"], "cancelled", attempt=2)["why"].endswith("no more")


def test_a_roll_back_holds_until_it_is_released(local_azure: LocalAzure, tmp_path: Path) -> None:
    first, second, third = (models.regression_with_example(tmp_path, slope=slope) for slope in (3.0, 5.0, 7.0))
    prod = {"promote-to": "prod"}
    one = local_azure.wait_for_end("rolling", register(local_azure, "rolling", first, **prod))
    two = local_azure.wait_for_end("rolling", register(local_azure, "rolling", second, **prod))
    between = local_azure.api("endpoints/prod/realtime/rolling/history")["history"][0]["at"]

    key = {"Idempotency-Key": "back-1"}
    asked = local_azure.order("endpoints/prod/realtime/rolling/rollback", {"reason": "nonsense"}, **key)
    again = local_azure.order("endpoints/prod/realtime/rolling/rollback", {"reason": "nonsense"}, **key)
    assert (asked["status_code"], asked["id"], again["id"]) == (202, one["id"], one["id"])

    one = local_azure.wait_for_state(one["id"], "succeeded", attempt=2)
    assert ask(local_azure, one, first.request) == first.expected
    assert one["attempt"] == 2, "asked twice under one key"
    two = local_azure.wait_for_state(two["id"], "rolled_back")
    assert "nonsense" in two["why"]
    shown = local_azure.api("endpoints/prod/realtime/rolling")
    assert (shown["live"]["version"], shown["hold"]["order"]["reason"]) == (one["version"], "nonsense")
    past = local_azure.api(f"endpoints/prod/realtime/rolling/history?at={between.replace('+', '%2B')}")
    assert past["live"]["version"] == two["version"]

    version = register(local_azure, "rolling", third, **prod)

    def held() -> dict[str, Any] | None:
        rows = [row for row in local_azure.promotions_of("rolling", version) if row["state"] == "parked"]
        return rows[0] if rows else None

    row = local_azure.wait_for(held, what="a promotion that the hold keeps away")
    assert row["reason"] == "on_hold"
    assert local_azure.order("endpoints/prod/realtime/rolling/release", {"reason": "fixed"})["status_code"] == 202
    row = local_azure.wait_for_state(row["id"], "succeeded")
    assert ask(local_azure, row, third.request) == third.expected
    assert local_azure.api("endpoints/prod/realtime/rolling")["hold"] is None


def test_a_promotion_is_cancelled_while_its_deployment_is_made(local_azure: LocalAzure, tmp_path: Path) -> None:
    stuck = {"kind": "deployment", "endpoint": "stopped", "outcome": "stick"}
    number = local_azure.control.post("/azure-ml/outcomes", stuck)["number"]
    version = register(local_azure, "stopped", models.regression_with_example(tmp_path), **{"promote-to": "prod"})

    def deploying() -> dict[str, Any] | None:
        rows = [row for row in local_azure.promotions_of("stopped", version) if "is being created" in row["why"]]
        return rows[0] if rows else None

    row = local_azure.wait_for(deploying, what="a deployment under way")
    assert local_azure.order(f"promotions/{row['id']}/cancel", {"reason": "wrong data"})["status_code"] == 202
    local_azure.control.delete(f"/azure-ml/outcomes/{number}")

    row = local_azure.wait_for_state(row["id"], "cancelled")
    assert "wrong data" in row["why"]
    local_azure.wait_for(lambda: "stopped" not in online(local_azure, "prod") or None, what="the end of the endpoint")
    late = local_azure.order(f"promotions/{row['id']}/cancel")
    assert (late["status_code"], "is cancelled already" in late["detail"]) == (409, True)


def test_an_endpoint_is_retired_and_its_name_held(local_azure: LocalAzure, tmp_path: Path) -> None:
    saved = models.regression_with_example(tmp_path)
    row = local_azure.wait_for_end("old-hat", register(local_azure, "old-hat", saved, **{"promote-to": "prod"}))

    asked = local_azure.order("endpoints/prod/realtime/old-hat/retire", {"reason": "nobody asks it"})
    assert asked["status_code"] == 202

    row = local_azure.wait_for_state(row["id"], "retired", attempt=2)
    assert "old-hat" not in online(local_azure, "prod")
    shown = local_azure.api("endpoints/prod/realtime/old-hat")
    assert (shown["live"], shown["hold"]["order"]["by"]) == (None, row["order"]["by"])
    assert local_azure.order("endpoints/prod/realtime/old-hat/retire")["status_code"] == 409


def test_a_schedule_is_retired(local_azure: LocalAzure, tmp_path: Path) -> None:
    saved = models.regression_with_example(tmp_path)
    row = local_azure.wait_for_end("hourly-old", register(local_azure, "hourly-old", saved))
    assert row["state"] == "succeeded", row["why"]

    assert local_azure.order("endpoints/prod/batch/hourly-old/retire", {"reason": "done"})["status_code"] == 202

    row = local_azure.wait_for_state(row["id"], "retired", attempt=2)
    steps = [step["step"] for step in row["steps"]]
    assert steps[-3:] == ["pause schedule", "delete schedule", "delete endpoint"]
    client = local_azure.ml_client(local_azure.endpoints["targets"]["prod"])
    with pytest.raises(Exception, match=r"(?i)not found"):
        client.schedules.get("hourly-old")


def test_a_past_promotion_goes_to_another_target_from_its_frozen_recipe(
    local_azure: LocalAzure, tmp_path: Path
) -> None:
    saved = models.regression_with_example(tmp_path)
    row = local_azure.wait_for_end("travels", register(local_azure, "travels", saved, **{"promote-to": "prod"}))

    asked = local_azure.order(f"promotions/{row['id']}/redeploy", {"target": "test", "reason": "for the testers"})
    there = local_azure.wait_for_state(asked["id"], "succeeded")

    assert (there["target"], there["redeployed_from"], there["recipe_digest"]) == (
        "test",
        row["id"],
        row["recipe_digest"],
    )
    assert ask(local_azure, there, saved.request) == saved.expected
    unknown = local_azure.order(f"promotions/{row['id']}/redeploy", {"target": "moon"})
    assert (unknown["status_code"], "none of the policy's targets" in unknown["detail"]) == (400, True)


def test_a_finished_promotion_is_forced_to_a_fresh_deployment(local_azure: LocalAzure, tmp_path: Path) -> None:
    saved = models.regression_with_example(tmp_path)
    row = local_azure.wait_for_end("stale-one", register(local_azure, "stale-one", saved, **{"promote-to": "prod"}))

    local_azure.order(f"promotions/{row['id']}/redeploy", {"fresh": True, "reason": "it leaks memory"})
    fresh = local_azure.wait_for_state(row["id"], "succeeded", attempt=2)

    assert fresh["result"]["deployment"] != row["result"]["deployment"]
    assert ask(local_azure, fresh, saved.request) == saved.expected
    deployments = online(local_azure, "prod")["stale-one"]["deployments"]
    assert [each["name"] for each in deployments] == [fresh["result"]["deployment"]]


def test_a_test_job_is_cancelled_with_its_promotion(local_azure: LocalAzure, tmp_path: Path) -> None:
    stuck = {"kind": "job", "job": "hourly-stopped*", "outcome": "stick"}
    number = local_azure.control.post("/azure-ml/outcomes", stuck)["number"]
    version = register(local_azure, "hourly-stopped", models.regression_with_example(tmp_path))

    def testing() -> dict[str, Any] | None:
        rows = [row for row in local_azure.promotions_of("hourly-stopped", version) if "test job" in row["why"]]
        return rows[0] if rows else None

    row = local_azure.wait_for(testing, what="a test job under way")
    assert local_azure.order(f"promotions/{row['id']}/cancel", {"reason": "wrong data"})["status_code"] == 202

    row = local_azure.wait_for_state(row["id"], "cancelled")
    local_azure.control.delete(f"/azure-ml/outcomes/{number}")
    client = local_azure.ml_client(local_azure.endpoints["targets"]["prod"])
    (job,) = [job for job in client.jobs.list() if str(job.name).startswith("hourly-stopped-")]
    assert job.status in ("Canceled", "CancelRequested")
    with pytest.raises(Exception, match=r"(?i)not found|could not be found|does not exist"):
        client.batch_endpoints.get("hourly-stopped")
