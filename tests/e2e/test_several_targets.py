"""One registration, two targets at once: one fails, the other goes live, and only what failed is retried."""

from pathlib import Path
from typing import Any

from tests import models
from tests.e2e.test_realtime import ask, register
from tests.local import LocalAzure

NAME = "several-prices"


def test_only_the_target_that_failed_is_retried(local_azure: LocalAzure, tmp_path: Path) -> None:
    test = local_azure.endpoints["targets"]["test"]["workspace"]
    outcome = {"kind": "deployment", "workspace": test, "endpoint": NAME, "outcome": "fail", "times": 1}
    local_azure.control.post("/azure-ml/outcomes", outcome)
    saved = models.regression_with_example(tmp_path)
    version = register(local_azure, NAME, saved)

    def both() -> dict[str, dict[str, Any]] | None:
        rows = {row["target"]: row for row in local_azure.promotions_of(NAME, version)}
        ended = {row["state"] for row in rows.values()} == {"succeeded", "refused"}
        return rows if ended and not any(row["owed"] for row in rows.values()) else None

    rows = local_azure.wait_for(both, what="the ends of both, of which people have been told")
    live, failed = rows["prod"], rows["test"]
    assert (live["state"], failed["state"]) == ("succeeded", "refused")
    assert "could not be started" in failed["why"]
    assert (live["id"][-2:], failed["id"][-2:]) == ("-1", "-2")
    assert ask(local_azure, live, saved.request) == saved.expected
    before = local_azure.promotion(live["id"])

    assert local_azure.order(f"promotions/{failed['id']}/retry", {"reason": "quota"})["status_code"] == 202
    again = local_azure.wait_for_state(failed["id"], "succeeded", attempt=2)
    assert ask(local_azure, again, saved.request) == saved.expected
    assert local_azure.promotion(live["id"]) == before, "the other one is untouched"
    assert before is not None
    assert (before["attempt"], len(local_azure.promotions_of(NAME))) == (1, 2)
