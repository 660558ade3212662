"""What is missing in a target parks a promotion before anything is done there, and resumes when it is no longer missing."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import models
from tests.e2e.test_orders import online
from tests.e2e.test_realtime import ask, register, steps_of
from tests.local import LocalAzure

FAMILY = "standardDSv2Family"
WRITE = "Microsoft.MachineLearningServices/workspaces/onlineEndpoints/deployments/write"


@pytest.fixture
def full_target(local_azure: LocalAzure) -> Iterator[None]:
    """A target with too little quota for anything, in which no deployment may be written; as before once the test ends."""
    local_azure.control.put("/azure-ml/prod/quota", {FAMILY: 7})
    local_azure.control.put("/azure-ml/prod/permissions", {"actions": [WRITE]})
    yield
    local_azure.control.put("/azure-ml/prod/quota", {FAMILY: None})
    local_azure.control.put("/azure-ml/prod/permissions", {"actions": []})


@pytest.mark.usefixtures("full_target")
def test_a_promotion_waits_for_quota_and_goes_on_by_itself(local_azure: LocalAzure, tmp_path: Path) -> None:
    saved = models.regression_with_example(tmp_path)
    version = register(local_azure, "waits-for-quota", saved, **{"promote-to": "prod"})

    def parked() -> dict[str, Any] | None:
        rows = [row for row in local_azure.promotions_of("waits-for-quota", version) if row["state"] == "parked"]
        return rows[0] if rows else None

    row = local_azure.wait_for(parked, what="the promotion that waits for quota")
    assert row["reason"] == "quota_exceeded"
    assert ("takes 8 vCPUs" in row["why"], WRITE in row["why"]) == (True, True)
    assert ("more quota" in row["remedy"], "managed identity" in row["remedy"]) == (True, True)
    assert steps_of(row) == []
    assert "waits-for-quota" not in online(local_azure, "prod")
    plan = local_azure.api(f"promotions/{row['id']}/plan")
    assert (plan["outcome"], plan["reason"], plan["why"]) == ("parked", "quota_exceeded", row["why"])

    local_azure.control.put("/azure-ml/prod/quota", {FAMILY: None})
    local_azure.control.put("/azure-ml/prod/permissions", {"actions": []})
    local_azure.control.advance(900)  # until it is looked at again

    row = local_azure.wait_for_state(row["id"], "succeeded")
    assert row["attempt"] == 1
    assert ask(local_azure, row, saved.request) == saved.expected
