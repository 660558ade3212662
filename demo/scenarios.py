"""What the demo promotes: each origin in each serving mode, on models that are trained here."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from demo.models import Trained, automl, designer, notebook


@dataclass(frozen=True)
class Scenario:
    """One row of the demo's table."""

    name: str
    origin: str
    serve: str
    model: str
    train: Callable[[Path], Trained]


SCENARIOS: Sequence[Scenario] = (
    Scenario("Notebook, real-time", "notebook", "realtime", "wine-classifier", notebook.mlflow),
    Scenario("AutoML, real-time", "automl", "realtime", "diabetes-regression", automl.older_form),
    Scenario("Designer, real-time", "designer", "realtime", "iris-designer", designer.trained_model),
    Scenario("Notebook, batch", "notebook", "batch", "wine-script", notebook.custom_script),
    Scenario("AutoML, batch", "automl", "batch", "diabetes-mlflow", automl.mlflow_form),
    Scenario("Designer, batch", "designer", "batch", "iris-designer-batch", designer.trained_model),
)
