"""A new version is held against recorded answers before it gets any traffic."""

import json
from pathlib import Path

from tests import models
from tests.e2e.test_orders import APPROVER, signed_in
from tests.e2e.test_realtime import ask, register
from tests.local import LocalAzure


def test_recorded_answers_decide(local_azure: LocalAzure, tmp_path: Path) -> None:
    """Parked while they are missing; live once they are there and right; refused where they differ, with the first ones.

    While they are missing, somebody with the role may look and decide instead.
    """
    first, second = (models.regression_with_example(tmp_path, slope=slope) for slope in (3.0, 5.0))
    version = register(local_azure, "verified-prices", first)

    def is_parked() -> bool | None:
        rows = local_azure.promotions_of("verified-prices", version)
        return True if rows and rows[0]["state"] == "parked" else None

    local_azure.wait_for(is_parked, what="the question for recorded answers")
    row = local_azure.promotions_of("verified-prices", version)[0]
    assert (row["reason"], "default datastore" in row["why"]) == ("verification_inconclusive", True)

    recorded = json.dumps({"request": first.request, "expected": first.expected})
    local_azure.target_files("prod").upload_blob("verification/verified-prices.jsonl", recorded.encode())
    assert local_azure.order(f"promotions/{row['id']}/wake")["status_code"] == 202
    row = local_azure.wait_for_end("verified-prices", version)
    assert (row["state"], row["result"]["verified_with"][:35]) == ("succeeded", "verification: 1 of 1 requests answe")

    newer = local_azure.wait_for_end("verified-prices", register(local_azure, "verified-prices", second))
    assert (newer["state"], newer["reason"]) == ("refused", "verification_failed")
    assert "1 of 1 answers differ: answer[0] is " in newer["why"]
    assert ask(local_azure, row, first.request) == first.expected

    local_azure.target_files("prod").delete_blob("verification/verified-prices.jsonl")
    version = register(local_azure, "verified-prices", second)
    local_azure.wait_for(is_parked, what="the question for recorded answers again")
    row = local_azure.promotions_of("verified-prices", version)[0]
    shown = {"manifest_digest": row["manifest_digest"], "recipe_digest": row["recipe_digest"]}
    assert local_azure.order(f"promotions/{row['id']}/approve", shown, **signed_in("Bob"))["status_code"] == 403
    given = local_azure.order(f"promotions/{row['id']}/approve", shown | {"comment": "I looked"}, **APPROVER)
    assert (given["status_code"], given["question"]) == (200, "verification")
    row = local_azure.wait_for_end("verified-prices", version)
    assert (row["state"], [each["by"] for each in row["approvals"]]) == ("succeeded", ["Ada"])
    assert ask(local_azure, row, second.request) == second.expected


def test_what_the_author_has_recorded_with_the_model_decides(local_azure: LocalAzure, tmp_path: Path) -> None:
    """Recorded in the source, beside the model: of another model first, which is refused, and then its own."""
    saved = models.regression_with_example(tmp_path)
    golden = saved.folder / "golden.jsonl"
    golden.write_text(json.dumps({"request": saved.request, "expected": [1.0]}), encoding="utf-8")
    row = local_azure.wait_for_end("golden-prices", register(local_azure, "golden-prices", saved))
    assert (row["state"], row["reason"]) == ("refused", "verification_failed")

    golden.write_text(json.dumps({"request": saved.request, "expected": saved.expected}), encoding="utf-8")
    row = local_azure.wait_for_end("golden-prices", register(local_azure, "golden-prices", saved))
    assert (row["state"], row["result"]["verified_with"][:35]) == ("succeeded", "verification: 1 of 1 requests answe")
    assert ask(local_azure, row, saved.request) == saved.expected
