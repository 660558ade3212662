"""Metrics of a deployment, by Azure Monitor's own client: what is there, and what goes wrong."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from azure.identity import ManagedIdentityCredential

from core.adapters.azure_monitor import deployment_metrics
from core.errors import Blocked, PromotionError, Reason, Transient
from core.ports import Metrics
from tests.local import LocalAzure
from tests.unit.builders import PROD


def ask(percentile: int | None = 95) -> Metrics:
    return deployment_metrics(
        ManagedIdentityCredential(),
        "northeurope",
        f"{PROD.arm_id}/onlineEndpoints/nobody",
        "v1-00000000",
        since=datetime.now(UTC) - timedelta(minutes=10),
        percentile=percentile,
    )


def test_what_nobody_has_asked_has_no_metrics(local_azure: LocalAzure) -> None:
    assert ask() == Metrics(requests=0, failed=0, latency=None)
    sent = local_azure.control.requests(service="monitor")[-2:]
    assert {entry["query"]["metricnames"] for entry in sent} == {"RequestsPerMinute", "RequestLatency_P95"}
    assert {entry["query"]["filter"] for entry in sent} == {
        "deployment eq 'v1-00000000' and statusCode eq '*'",
        "deployment eq 'v1-00000000'",
    }


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ({"status": 503}, Transient),
        ({"status": 429, "headers": {"Retry-After": "7"}}, Transient),
        ({"status": 403, "body": {"error": {"code": "AuthorizationFailed", "message": "no"}}}, Blocked),
        ({"drop": True}, Transient),
    ],
    ids=["away", "busy", "forbidden", "broken off"],
)
def test_a_failure_is_one_of_our_kinds(
    local_azure: LocalAzure, answer: dict[str, Any], kind: type[PromotionError]
) -> None:
    local_azure.control.plant(service="monitor", times=1, **answer)
    with pytest.raises(kind) as raised:
        ask()
    assert "the metrics of v1-00000000" in str(raised.value)
    if isinstance(raised.value, Blocked):
        assert raised.value.reason is Reason.PERMISSION_MISSING
    if "headers" in answer:
        assert getattr(raised.value, "retry_after", None) == 7
