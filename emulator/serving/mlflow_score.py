"""The entry script of a no-code deployment: serves the MLflow model below AZUREML_MODEL_DIR.

It accepts what the documentation of MLflow deployments on online endpoints lists under `input_data`: a table in split
orientation (`columns`, `index`, `data`), a tensor (a list), named tensors (an object of lists), and beside it `params`.
Records, CSV and the keys of `mlflow models serve` (`dataframe_split`, `inputs`) are not accepted there and not here.
It runs in the serving image, where nothing else of this project exists.
"""

import json
import os
from pathlib import Path
from typing import Any

import azureml.ai.monitoring  # noqa: F401 - Azure's generated script does, so a model must bring the package
import mlflow.pyfunc
import numpy
import pandas
from inference_schema.parameter_types.abstract_parameter_type import AbstractParameterType  # type: ignore[import-not-found]
from inference_schema.schema_decorators import input_schema  # type: ignore[import-not-found]
from mlflow.models import Model
from mlflow.utils.proto_json_utils import dataframe_from_parsed_json

TABLE = {"columns", "index", "data"}


def model_folder() -> Path:
    """The folder of the MLmodel file: AZUREML_MODEL_DIR itself, or the registered folder in it."""
    root = Path(os.environ["AZUREML_MODEL_DIR"])
    if folder := os.environ.get("MLFLOW_MODEL_FOLDER"):
        return root / folder
    found = sorted(path.parent for pattern in ("MLmodel", "*/MLmodel") for path in root.glob(pattern))
    if not found:
        raise FileNotFoundError(f"no MLmodel file in {root} or a folder in it: this is not an MLflow model")
    return found[0]


class ModelInput(AbstractParameterType):  # type: ignore[misc]
    """`input_data`, turned into what the model's signature or sample says that it takes."""

    def __init__(self, model: Model, folder: Path) -> None:
        self._signature = model.signature.inputs if model.signature else None
        example = model.saved_input_example_info or {}
        columns = self._signature is not None and not self._signature.is_tensor_spec()
        self._takes_table = columns or example.get("type") == "dataframe"
        self._columns = self._signature if columns else None
        super().__init__(self._sample(example, folder))
        # inference_schema converts an input unless it is of this type already; no JSON value ever is.
        self.sample_data_type = ModelInput

    def deserialize_input(self, input_data: Any) -> Any:
        if isinstance(input_data, dict):
            if self._is_table(set(input_data)):
                return dataframe_from_parsed_json(input_data, "split", self._columns)  # type: ignore[no-untyped-call]
            return {name: self._tensor(values, name) for name, values in input_data.items()}
        return self._tensor(input_data, None)

    def input_to_swagger(self) -> dict[str, Any]:
        kind = "array" if isinstance(self.sample_input, list) else "object"
        return {"type": kind, "example": self.sample_input} | ({"items": {}} if kind == "array" else {})

    def _is_table(self, keys: set[str]) -> bool:
        """Without a sample or a signature only all three keys together mean a table."""
        return keys == TABLE or (self._takes_table and {"data"} <= keys <= TABLE)

    def _tensor(self, values: Any, name: str | None) -> Any:
        if isinstance(values, list) and values and all(isinstance(value, str) for value in values):
            return values
        kind = None
        if self._signature is not None and self._signature.is_tensor_spec():
            kind = next((spec.type for spec in self._signature.inputs if spec.name == name), None)
        return numpy.array(values, dtype=kind)

    @staticmethod
    def _sample(example: dict[str, Any], folder: Path) -> Any:
        file = folder / example.get("artifact_path", "")
        if not file.is_file():
            return {}
        sample = json.loads(file.read_text(encoding="utf-8"))
        return sample.get("inputs", sample) if isinstance(sample, dict) else sample


class Params(AbstractParameterType):  # type: ignore[misc]
    """`params` of the model's signature; passed on as they are, MLflow checks them."""

    def __init__(self) -> None:
        super().__init__({})
        self.sample_data_type = Params

    def deserialize_input(self, input_data: Any) -> Any:
        return input_data

    def input_to_swagger(self) -> dict[str, Any]:
        return {"type": "object", "example": self.sample_input}


def plain(prediction: Any) -> Any:
    """What goes into JSON: a list of records for a DataFrame, a list of values for the rest. No envelope."""
    if isinstance(prediction, pandas.DataFrame):
        return json.loads(prediction.to_json(orient="records", date_format="iso"))
    if isinstance(prediction, pandas.Series):
        return json.loads(prediction.to_json(orient="values", date_format="iso"))
    if isinstance(prediction, numpy.ndarray | numpy.generic):
        return prediction.tolist()
    if isinstance(prediction, dict):
        return {name: plain(value) for name, value in prediction.items()}
    if isinstance(prediction, list | tuple):
        return [plain(value) for value in prediction]
    return prediction


FOLDER = model_folder()
MODEL = Model.load(str(FOLDER))
model: Any = None


def init() -> None:
    global model
    model = mlflow.pyfunc.load_model(str(FOLDER))


@input_schema("params", Params(), optional=True)  # type: ignore[untyped-decorator]
@input_schema("input_data", ModelInput(MODEL, FOLDER))  # type: ignore[untyped-decorator]
def run(input_data: Any, params: dict[str, Any] | None = None) -> Any:
    return plain(model.predict(input_data, params=params) if params else model.predict(input_data))
