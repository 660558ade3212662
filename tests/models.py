"""Models of many kinds, trained for real and saved with MLflow as their authors would."""

import functools
import os
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class SavedModel:
    """A model folder, a request for its endpoint, and what the model answers in process."""

    folder: Path
    request: dict[str, Any]
    expected: Any


# What a model needs besides its own libraries to be served without code.
MONITORING = "azureml-ai-monitoring==1.0.0"


def pins(*packages: str) -> list[str]:
    return [*(f"{package}=={version(package)}" for package in packages), MONITORING]


def _fresh(directory: Path, name: str) -> Path:
    folder = directory / name
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def table_request(rows: Any) -> dict[str, Any]:
    table = rows.to_dict(orient="split")
    return {"input_data": {key: table[key] for key in ("columns", "index", "data")}}


def regression_with_example(directory: Path, *, slope: float = 3.0) -> SavedModel:
    """A regression on named columns, with signature and input example. Two slopes give two models."""
    import mlflow.sklearn
    import pandas as pd
    from sklearn.linear_model import LinearRegression

    rows = pd.DataFrame({"area": [1.0, 2.0, 3.0, 4.0], "rooms": [1.0, 1.0, 2.0, 2.0]})
    model = LinearRegression().fit(rows, slope * rows["area"] + rows["rooms"])
    folder = _fresh(directory, f"regression-{slope:.0f}")
    requirements = pins("mlflow-skinny", "scikit-learn", "pandas", "skops")
    mlflow.sklearn.save_model(model, folder, input_example=rows.head(1), pip_requirements=requirements)
    return SavedModel(folder, table_request(rows), model.predict(rows).tolist())


def tensor_without_example(directory: Path) -> SavedModel:
    """A classifier trained on a bare array: neither signature nor input example."""
    import mlflow.sklearn
    import numpy as np
    from sklearn.tree import DecisionTreeClassifier

    rows = np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    model = DecisionTreeClassifier(random_state=0).fit(rows, [0, 1, 1])
    folder = _fresh(directory, "tensor")
    requirements = pins("mlflow-skinny", "scikit-learn")
    mlflow.sklearn.save_model(model, folder, pip_requirements=requirements, serialization_format="cloudpickle")
    return SavedModel(folder, {"input_data": rows.tolist()}, model.predict(rows).tolist())


def without_hints(build: Callable[P, T]) -> Callable[P, T]:
    """For models of one's own: MLflow shows its hints on the types of `predict` whatever filter is set."""

    @functools.wraps(build)
    def quiet(*args: P.args, **kwargs: P.kwargs) -> T:
        with warnings.catch_warnings(record=True):
            return build(*args, **kwargs)

    return quiet


@without_hints
def pyfunc_of_strings(directory: Path) -> SavedModel:
    """A custom Python model with a signature only, that answers records."""
    import mlflow.pyfunc
    import pandas as pd
    from mlflow.models import infer_signature

    class Shout(mlflow.pyfunc.PythonModel):  # type: ignore[name-defined,misc] # mlflow has no types
        def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
            return pd.DataFrame({"loud": model_input["text"].str.upper(), "length": model_input["text"].str.len()})

    rows = pd.DataFrame({"text": ["abc", "Grüße"]})
    answer = Shout().predict(None, rows)
    folder = _fresh(directory, "shout")
    mlflow.pyfunc.save_model(
        folder,
        python_model=Shout(),
        signature=infer_signature(rows, answer),
        pip_requirements=pins("mlflow-skinny", "pandas"),
    )
    return SavedModel(folder, table_request(rows), answer.to_dict(orient="records"))


@without_hints
def that_dislikes_made_up_values(directory: Path) -> SavedModel:
    """A good model with a signature and no example, that refuses texts it does not know."""
    import mlflow.pyfunc
    import pandas as pd
    from mlflow.models import infer_signature

    class Prices(mlflow.pyfunc.PythonModel):  # type: ignore[name-defined,misc] # mlflow has no types
        def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
            return [{"apple": 1.0, "pear": 2.0}[fruit] for fruit in model_input["fruit"]]

    rows = pd.DataFrame({"fruit": ["apple", "pear"]})
    folder = _fresh(directory, "prices")
    mlflow.pyfunc.save_model(
        folder,
        python_model=Prices(),
        signature=infer_signature(rows, [1.0, 2.0]),
        pip_requirements=pins("mlflow-skinny", "pandas"),
    )
    return SavedModel(folder, table_request(rows), [1.0, 2.0])


@without_hints
def prices(directory: Path, known: dict[str, float]) -> SavedModel:
    """A model that answers for its example, and raises for what it does not know. The request asks for the first."""
    import mlflow.pyfunc
    import pandas as pd
    from mlflow.models import infer_signature

    class Prices(mlflow.pyfunc.PythonModel):  # type: ignore[name-defined,misc] # mlflow has no types
        def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
            return [known[fruit] for fruit in model_input["fruit"]]

    fruit = next(iter(known))
    rows = pd.DataFrame({"fruit": [fruit]})
    folder = _fresh(directory, f"prices-of-{'-'.join(known)}-{known[fruit]:g}")
    mlflow.pyfunc.save_model(
        folder,
        python_model=Prices(),
        signature=infer_signature(rows, [1.0]),
        input_example=rows,
        pip_requirements=pins("mlflow-skinny", "pandas"),
    )
    return SavedModel(folder, table_request(rows), [known[fruit]])


def that_cannot_load(directory: Path) -> SavedModel:
    """A model whose file was damaged on the way."""
    saved = regression_with_example(directory, slope=9.0)
    (saved.folder / "model.skops").write_bytes(b"no model at all")
    return saved


@without_hints
def that_fails_on_its_example(directory: Path) -> SavedModel:
    """A model that loads, and raises for every request once it is deployed."""
    import mlflow.pyfunc
    import pandas as pd
    from mlflow.models import infer_signature

    class Broken(mlflow.pyfunc.PythonModel):  # type: ignore[name-defined,misc] # mlflow has no types
        def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
            if "AZUREML_MODEL_DIR" in os.environ:
                raise ZeroDivisionError("this model divides by nothing")
            return model_input

    rows = pd.DataFrame({"x": [1.0]})
    folder = _fresh(directory, "broken")
    mlflow.pyfunc.save_model(
        folder,
        python_model=Broken(),
        signature=infer_signature(rows, rows),
        input_example=rows,
        pip_requirements=pins("mlflow-skinny", "pandas"),
    )
    return SavedModel(folder, table_request(rows), None)


Builder = Callable[[Path], SavedModel]
