"""The MLmodel file of an MLflow model: what it says about loading it, and what a request for it looks like. Pure."""

import contextlib
import json
from collections.abc import Mapping
from typing import Any

import yaml

from core import bounded_yaml
from core.errors import not_servable
from core.packaging import FROM_SIGNATURE

MLMODEL = "MLmodel"
# In values: no model needs this much to describe itself.
NODE_LIMIT = 20_000


def parse_mlmodel(content: bytes) -> Mapping[str, Any]:
    """The MLmodel file. Raises Refusal if it cannot be read as one."""
    try:
        parsed = bounded_yaml.load(content.decode("utf-8"), NODE_LIMIT)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: not UTF-8, or a date that never was
        raise not_servable(f"MLmodel cannot be read: {str(error)[:300]}", "Log the model again with MLflow.") from error
    if not isinstance(parsed, Mapping) or not isinstance(parsed.get("flavors"), Mapping):
        raise not_servable("MLmodel names no flavors", "Log the model again with MLflow.")
    return parsed


def example_path(mlmodel: Mapping[str, Any], files: tuple[str, ...]) -> str | None:
    """Where the input example is, if the model has one: as MLmodel says, and only if the file is there."""
    info = mlmodel.get("saved_input_example_info")
    path = info.get("artifact_path") if isinstance(info, Mapping) else None
    return path if isinstance(path, str) and path in files else None


def sample_request(mlmodel: Mapping[str, Any], example: bytes | None) -> tuple[Mapping[str, Any] | None, str | None]:
    """A scoring request in the form that Azure ML's no-code MLflow deployments take, and what it was made from.

    An example that is no JSON cannot be sent; the signature may do then. MLflow writes NaN, which JSON does not know, for
    missing numbers.
    """
    if example is not None:
        info = mlmodel.get("saved_input_example_info") or {}
        with contextlib.suppress(ValueError, RecursionError):
            parsed = json.loads(example, parse_constant=lambda _: None)
            return {"input_data": _input_data(parsed, info)}, str(info.get("artifact_path"))
    if columns := _signature_columns(mlmodel):
        row = [_SAMPLE_VALUES[column["type"]] for column in columns]
        return {
            "input_data": {"columns": [column["name"] for column in columns], "index": [0], "data": [row]}
        }, FROM_SIGNATURE
    return None, None


def _input_data(example: Any, info: Mapping[str, Any]) -> Any:
    """MLflow's example, as `input_data`: tables in split orient with all three keys, tensors as they are."""
    if isinstance(example, Mapping) and (info.get("params") or info.get("type") != "json_object"):
        wrapper = next((name for name in ("dataframe_split", "inputs", "instances") if name in example), None)
        example = example[wrapper] if wrapper else example
    match example:
        case {"columns": list() as columns, "data": list() as rows}:
            return {"columns": columns, "index": example.get("index") or list(range(len(rows))), "data": rows}
        case [{}, *_] if all(isinstance(record, Mapping) and record.keys() == example[0].keys() for record in example):
            # Records, which those deployments do not take.
            columns = list(example[0])
            rows = [[record[column] for column in columns] for record in example]
            return {"columns": columns, "index": list(range(len(rows))), "data": rows}
        case _:
            return example


def _signature_columns(mlmodel: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The columns of a signature for which a value can be made up; none if it is a tensor's, or one has another type."""
    signature = mlmodel.get("signature")
    inputs = signature.get("inputs") if isinstance(signature, Mapping) else None
    try:
        columns = json.loads(inputs) if isinstance(inputs, str) else None
    except (ValueError, RecursionError):
        return []
    return columns if isinstance(columns, list) and all(map(_is_plain_column, columns)) else []


def _is_plain_column(column: Any) -> bool:
    return isinstance(column, Mapping) and bool(column.get("name")) and str(column.get("type")) in _SAMPLE_VALUES


# By MLflow's types of columns, without those whose values have an inner form: binary, array, map, object.
_SAMPLE_VALUES: Mapping[str, Any] = {
    "string": "a",
    "boolean": False,
    "integer": 0,
    "long": 0,
    "float": 0.0,
    "double": 0.0,
    "datetime": "2000-01-01T00:00:00",
}
