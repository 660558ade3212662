"""MLflow tracking of a workspace: the metrics that a run has logged.

Every job of Azure ML is an MLflow run. Its metrics, whoever logged them (MLflow, Automated ML, SDK v1), are answered by the
workspace's MLflow REST API, whose form is that of MLflow itself ("Get run": `run.data.metrics` has the last value of each
metric). The host and the path `/mlflow/v2.0` are those that Microsoft's own MLflow client asks.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from azure.core.credentials import TokenCredential

from core.adapters.arm import Arm
from core.adapters.run_history import read
from core.events import WorkspaceId
from core.ports import Training

SERVICE = "mlflow/v2.0"


def training(credential: TokenCredential, arm: Arm, workspace: WorkspaceId, run_id: str) -> Training | None:
    """What a run has logged, and when it ended; None if it is not known."""
    path = f"api/2.0/mlflow/runs/get?{urlencode({'run_id': run_id})}"
    found = read(credential, arm, workspace, SERVICE, path, f"reading the metrics of run {run_id}").get("run")
    if not found:
        return None
    info, data = found.get("info") or {}, found.get("data") or {}
    return Training(
        run_id=run_id,
        metrics={str(each["key"]): _value(each) for each in data.get("metrics") or ()},
        ended_at=_time(info.get("end_time")),
        is_running=info.get("status") in ("RUNNING", "SCHEDULED"),
    )


def _value(metric: Mapping[str, Any]) -> float:
    """MLflow writes what is no finite number as a text, such as NaN; a metric without a value has none."""
    try:
        return float(metric.get("value", "nan"))
    except (TypeError, ValueError):
        return float("nan")


def _time(milliseconds: Any) -> datetime | None:
    """Since 1970, as a number or as a text of one (64 bits in JSON); 0 and nothing are the same."""
    return datetime.fromtimestamp(int(milliseconds) / 1000, tz=UTC) if milliseconds and int(milliseconds) else None
