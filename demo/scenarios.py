"""What the demo promotes: each origin in each serving mode, on models that are trained here."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from demo.models import Trained
from demo.models.automl import mlflow_form, older_form
from demo.models.designer import trained_model
from demo.models.notebook import custom_script, mlflow


@dataclass(frozen=True)
class Scenario:
    """One row of the demo's table."""

    name: str
    origin: str
    serve: str
    model: str
    train: Callable[[Path], Trained]


SCENARIOS: Sequence[Scenario] = (
    Scenario("Notebook, real-time", "notebook", "realtime", "wine-classifier", mlflow),
    Scenario("AutoML, real-time", "automl", "realtime", "diabetes-regression", older_form),
    Scenario("Designer, real-time", "designer", "realtime", "iris-designer", trained_model),
    Scenario("Notebook, batch", "notebook", "batch", "wine-script", custom_script),
    Scenario("AutoML, batch", "automl", "batch", "diabetes-mlflow", mlflow_form),
    Scenario("Designer, batch", "designer", "batch", "iris-designer-batch", trained_model),
)
