"""Entry script of an online deployment, for MLflow models whose environment cannot run the one that Azure ML generates.

Requests and answers are those of deployments without code: `input_data` is a table (`columns`, `index`, `data`), a
tensor (a list) or named tensors (an object of lists), beside it there may be `params`; the answer is a list of values,
or of records where the model answers with a table. It needs mlflow and what that needs, and nothing of Azure.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

# What is beside this file is found wherever the server starts.
sys.path.insert(0, str(Path(__file__).resolve().parent))

import mlflow.pyfunc
import numpy
import pandas
from mlflow.exceptions import MlflowException
from promotion_signature import conform

TABLE = {"columns", "index", "data"}

model: Any = None


class BadRequest(Exception):
    """What is wrong with a request, for whoever sent it."""


def init() -> None:
    global model
    model = mlflow.pyfunc.load_model(str(model_folder(Path(os.environ["AZUREML_MODEL_DIR"]))))


def run(data: str) -> Any:
    """The predictions for a request, which the server hands over as text."""
    try:
        content, params = parse(data)
        try:
            answer = model.predict(content, params=params) if params else model.predict(content)
        except MlflowException as error:
            raise BadRequest("the model does not take this input: {}".format(error)) from error
    except BadRequest as error:
        return refused(error)
    return plain(answer)


def refused(error: BadRequest) -> Any:
    """HTTP status 400 in the words of the server that runs this script; newer ones have them in another place."""
    try:
        from azureml_inference_server_http.api.aml_response import AMLResponse
    except ImportError:
        try:
            from azureml.contrib.services.aml_response import AMLResponse
        except ImportError:
            raise error from None
    return AMLResponse(json.dumps({"message": str(error)}), 400, {"Content-Type": "application/json"})


def model_folder(root: Path) -> Path:
    """The folder of MLmodel: `root` itself or the one in it."""
    if "MLFLOW_MODEL_FOLDER" in os.environ:
        return root / os.environ["MLFLOW_MODEL_FOLDER"]
    found = [path.parent for pattern in ("MLmodel", "*/MLmodel") for path in sorted(root.glob(pattern))]
    if not found:
        raise FileNotFoundError("{} has no MLmodel file, nor has a folder in it: register an MLflow model".format(root))
    return found[0]


def parse(data: str) -> tuple[Any, Any]:
    """`input_data`, in the form in which the model takes it, and `params`."""
    try:
        body = json.loads(data)
    except ValueError as error:
        raise BadRequest("the request is no JSON: {}".format(error)) from error
    if not isinstance(body, dict) or "input_data" not in body:
        raise BadRequest('the request needs "input_data": a table of columns, index and data, a list, or lists by name')
    content, schema = body["input_data"], model.metadata.get_input_schema()
    is_tensor = schema is not None and schema.is_tensor_spec()
    try:
        if isinstance(content, dict) and is_table(set(content), schema is not None and not is_tensor):
            frame = pandas.DataFrame(content["data"], content.get("index"), content.get("columns"))
            columns = schema.inputs if schema is not None and not is_tensor else []
            return conform(frame, [column for column in columns if column.name is not None]), body.get("params")
        kinds = {spec.name: spec.type for spec in schema.inputs} if is_tensor else {}
        if isinstance(content, dict):
            return {name: tensor(values, kinds.get(name)) for name, values in content.items()}, body.get("params")
        return tensor(content, kinds.get(None)), body.get("params")
    except (ValueError, TypeError) as error:
        raise BadRequest("input_data cannot be read: {}".format(error)) from error


def is_table(keys: set[str], takes_table: bool) -> bool:
    """Without a signature of columns, and without an example of a table, only all three keys together mean a table."""
    example = getattr(model.metadata, "saved_input_example_info", None) or {}
    takes_table = takes_table or example.get("type") == "dataframe"
    return keys == TABLE or (takes_table and {"data"} <= keys <= TABLE)


def tensor(values: Any, kind: Any) -> Any:
    """An array in the type of the signature; a list of texts as it is, which is what models of text take."""
    if isinstance(values, list) and values and all(isinstance(value, str) for value in values):
        return values
    if not isinstance(values, list):
        raise TypeError("a tensor is a list, and this is {!r}".format(values))
    return numpy.array(values, dtype=kind)


def plain(value: Any) -> Any:
    """What JSON can say: dates in ISO form, no number as null."""
    if isinstance(value, (pandas.DataFrame, pandas.Series)):
        records = value.to_dict("records") if isinstance(value, pandas.DataFrame) else value.tolist()
        return [plain(record) for record in records]
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if isinstance(value, (numpy.ndarray, numpy.generic)):
        return plain(value.tolist())
    if value is pandas.NaT or value is getattr(pandas, "NA", None):
        return None
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return value if not isinstance(value, float) or numpy.isfinite(value) else None
