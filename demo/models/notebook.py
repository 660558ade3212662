"""Models of people who write code: saved with MLflow, or as files with a scoring script of their own."""

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from demo.models import Trained, fresh, records

MONITORING = "azureml-ai-monitoring==1.0.0"
SCORE = '''\
"""Scores wines. The server calls init() once, and run() with the body of each request."""

import json
import os
from pathlib import Path

import joblib
import pandas
from ratios import with_ratios

model = None


def init():
    global model
    (file,) = Path(os.environ["AZUREML_MODEL_DIR"]).glob("**/model.joblib")
    model = joblib.load(file)


def run(data):
    rows = pandas.DataFrame(json.loads(data)["data"])
    return model.predict(with_ratios(rows)).tolist()
'''
RATIOS = '''\
"""Features that the model was trained with."""


def with_ratios(rows):
    return rows.assign(color_per_hue=rows["color_intensity"] / rows["hue"])
'''
CONDA = """\
name: wine
channels:
  - conda-forge
dependencies:
  - python={python}
  - pip:
{pip}"""


def mlflow(directory: Path, *, monitoring: bool = False) -> Trained:
    """Fit a scikit-learn pipeline and save it with MLflow, with signature and input example.

    Azure ML serves it without code only if it is saved with `monitoring`, which nobody does who does not know that.
    """
    import mlflow.sklearn
    from mlflow.models import infer_signature

    rows, labels = _wines()
    model = _pipeline().fit(rows, labels)
    folder = fresh(directory) / "model"
    mlflow.sklearn.save_model(
        model,
        folder,
        signature=infer_signature(rows, model.predict(rows)),
        input_example=rows.head(2),
        pip_requirements=_pins("mlflow-skinny", "scikit-learn", "pandas", "skops") + [MONITORING] * monitoring,
    )
    asked = rows.iloc[::9].reset_index(drop=True)
    table = asked.to_dict(orient="split")
    request = {"input_data": {key: table[key] for key in ("columns", "index", "data")}}
    return Trained(folder, request, asked, [int(label) for label in model.predict(asked)], in_cell=int)


def custom_script(directory: Path) -> Trained:
    """A joblib file, score.py with a module beside it, a conda file and a request to try it with."""
    import joblib

    rows, labels = _wines()
    ratios: dict[str, Any] = {}
    exec(RATIOS, ratios)  # noqa: S102 - the module that the folder gets, so that both compute the same
    model = _pipeline().fit(ratios["with_ratios"](rows), labels)
    folder = fresh(directory) / "wine-script"
    folder.mkdir()
    joblib.dump(model, folder / "model.joblib")
    (folder / "score.py").write_text(SCORE, encoding="utf-8")
    (folder / "ratios.py").write_text(RATIOS, encoding="utf-8")
    pins = [*_pins("scikit-learn", "pandas", "joblib"), "azureml-inference-server-http"]
    conda = CONDA.format(
        python=f"{sys.version_info.major}.{sys.version_info.minor}", pip="".join(f"      - {each}\n" for each in pins)
    )
    (folder / "conda.yaml").write_text(conda, encoding="utf-8")
    (folder / "sample_request.json").write_text(rows.head(2).to_json(orient="records").join(('{"data": ', "}\n")))
    asked = rows.iloc[::9].reset_index(drop=True)
    predictions = [int(label) for label in model.predict(ratios["with_ratios"](asked))]
    return Trained(folder, {"data": records(asked)}, asked, predictions, "custom_model", in_cell=int)


def _wines() -> Any:
    from sklearn.datasets import load_wine

    return load_wine(return_X_y=True, as_frame=True)


def _pipeline() -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))


def _pins(*packages: str) -> list[str]:
    """Pinned to what is installed, which spares MLflow a search for them."""
    return [f"{package}=={version(package)}" for package in packages]
