"""The metrics of managed online endpoints, by Azure Monitor's query client.

`RequestsPerMinute` and `RequestLatency_P50` to `_P99` are platform metrics of an endpoint, one value a minute, with the
dimensions `deployment` and (the first) `statusCode` (Azure Monitor, supported metrics of
Microsoft.MachineLearningServices/workspaces/onlineEndpoints). They come a minute or more late. The regional data plane wants
the right to read metrics in the subscription (the client's documentation).
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from azure.core.credentials import TokenCredential

from core.adapters.arm import CONNECT_SECONDS, READ_SECONDS
from core.adapters.faults import translated
from core.ports import Metrics

NAMESPACE = "Microsoft.MachineLearningServices/workspaces/onlineEndpoints"
MINUTE = timedelta(minutes=1)
# What is the deployment's fault or lack of room: too slow, the model's error (424), too many requests, its container.
_FAILED = frozenset({408, 424, 429})


def deployment_metrics(
    credential: TokenCredential,
    region: str,
    endpoint_id: str,
    deployment: str,
    *,
    since: datetime,
    percentile: int | None,
) -> Metrics:
    """The requests of a deployment since a time (UTC, from the minute in which it is), and their latency.

    The latency is the mean of the minutes' percentiles, in milliseconds. Raises as `translated` does.
    """
    from azure.monitor.querymetrics import MetricsClient

    start = since.astimezone(UTC).replace(second=0, microsecond=0)
    name = f"RequestLatency_P{percentile}"
    with (
        translated(f"asking Azure Monitor for the metrics of {deployment}"),
        MetricsClient(
            f"https://{region}.metrics.monitor.azure.com",
            credential,
            retry_total=0,
            connection_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS,
        ) as client,
    ):

        def ask(metric: str, condition: str) -> list[Any]:
            return client.query_resources(
                resource_ids=[endpoint_id],
                metric_namespace=NAMESPACE,
                metric_names=[metric],
                timespan=(start, datetime.now(UTC) + MINUTE),
                granularity=MINUTE,
                aggregations=["Average"],
                filter=condition,
                max_results=100,
            )

        this = f"deployment eq '{deployment}'"
        by_status = [*_values(ask("RequestsPerMinute", f"{this} and statusCode eq '*'"))]
        latencies = [value for _, value in _values(ask(name, this))] if percentile else []
    return Metrics(
        requests=sum(value for _, value in by_status),
        failed=sum(value for status, value in by_status if _is_failure(status)),
        latency=sum(latencies) / len(latencies) if latencies else None,
    )


def _values(results: list[Any]) -> Iterator[tuple[str, float]]:
    """Every minute's value that there is, with its status code."""
    for result in results:
        for metric in result.metrics:
            for series in metric.timeseries:
                labels = {key.lower(): value for key, value in series.metadata_values.items()}
                for point in series.data:
                    if point.average is not None:
                        yield str(labels.get("statuscode", "")), float(point.average)


def _is_failure(status: str) -> bool:
    return status.isdecimal() and (int(status) >= 500 or int(status) in _FAILED)
