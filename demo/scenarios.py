"""What the demo promotes: real models, trained here, with rows to ask about and the model's own answers."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Trained:
    """A model folder as its tool writes it, a request for its endpoint, and the predictions made in process."""

    folder: Path
    request: dict[str, Any]
    predictions: list[Any]


@dataclass(frozen=True)
class Scenario:
    """One row of the demo's table. `stand_in` says what of it is imitated, empty if nothing is."""

    name: str
    origin: str
    serve: str
    model: str
    train: Callable[[Path], Trained]
    stand_in: str = ""


def notebook_realtime(directory: Path) -> Trained:
    """What a notebook does: fit a scikit-learn pipeline and save it with MLflow, with signature and input example."""
    import mlflow.sklearn
    from mlflow.models import infer_signature
    from sklearn.datasets import load_wine
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rows, labels = load_wine(return_X_y=True, as_frame=True)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)).fit(rows, labels)
    folder = directory / "wine-classifier"
    shutil.rmtree(folder, ignore_errors=True)
    mlflow.sklearn.save_model(
        model,
        folder,
        signature=infer_signature(rows, model.predict(rows)),
        input_example=rows.head(2),
        pip_requirements=_requirements("mlflow-skinny", "scikit-learn", "pandas", "skops"),
    )
    asked = rows.iloc[::9]
    return Trained(folder, _table_request(asked), [int(label) for label in model.predict(asked)])


def _requirements(*packages: str) -> list[str]:
    """Pinned to what is installed, which spares MLflow a search for them."""
    from importlib.metadata import version

    return [f"{package}=={version(package)}" for package in packages]


def _table_request(rows: Any) -> dict[str, Any]:
    table = rows.to_dict(orient="split")
    return {"input_data": {"columns": table["columns"], "index": table["index"], "data": table["data"]}}


SCENARIOS: Sequence[Scenario] = (
    Scenario("Notebook, real-time", "notebook", "realtime", "wine-classifier", notebook_realtime),
)
