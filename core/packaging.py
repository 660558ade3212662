"""What a model needs in order to be served: its files (manifest) and the recipe of how to run them. Pure."""

import contextlib
import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict

from core.errors import Reason, Refusal
from core.origin import Origin

MLMODEL = "MLmodel"
FROM_SIGNATURE = "signature"
# Text files that are read in order to decide (MLmodel, input examples); models themselves are never read.
READABLE_LIMIT = 1024 * 1024


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    @property
    def digest(self) -> str:
        """SHA-256 over the canonical JSON: equal content, equal digest."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()


class File(_Value):
    """A file of a model: path below the model's root, size in bytes, the blob's ETag, MD5 (base64) if it has one."""

    path: str
    size: int
    etag: str
    md5: str | None = None


class Manifest(_Value):
    """The files of a model version as they were when the promotion was decided.

    `account_url`, `container` and `root` say where the blobs are; a file's blob is `root/path`. For a model that is one
    file, `root` is its folder and `folder` is empty; else `folder` is the last part of the root, whose name some scoring
    scripts rely on.
    """

    account_url: str
    container: str
    root: str
    folder: str
    files: tuple[File, ...]

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    def paths(self) -> tuple[str, ...]:
        return tuple(file.path for file in self.files)


class Recipe(_Value):
    """How to serve the model: for now, as MLflow model without code of its own.

    `sample_request` is the body of a scoring request made from the model's own input example (or its signature, which
    `sample_source` then says), None if it has neither.
    """

    kind: Literal["mlflow"]
    flavors: Mapping[str, Any]
    sample_request: Mapping[str, Any] | None = None
    sample_source: str | None = None

    @property
    def is_sample_made_up(self) -> bool:
        """Whether the request was invented from the signature: its values are of the right types and mean nothing."""
        return self.sample_source == FROM_SIGNATURE


def parse_mlmodel(content: bytes) -> Mapping[str, Any]:
    """The MLmodel file. Raises Refusal if it cannot be read as one."""
    try:
        parsed = yaml.safe_load(content.decode("utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: not UTF-8, or a date that never was
        raise _not_servable(
            f"MLmodel cannot be read: {str(error)[:300]}", "Log the model again with MLflow."
        ) from error
    if not isinstance(parsed, Mapping) or not isinstance(parsed.get("flavors"), Mapping):
        raise _not_servable("MLmodel names no flavors", "Log the model again with MLflow.")
    return parsed


def example_path(mlmodel: Mapping[str, Any], files: tuple[str, ...]) -> str | None:
    """Where the input example is, if the model has one: as MLmodel says, and only if the file is there."""
    info = mlmodel.get("saved_input_example_info")
    path = info.get("artifact_path") if isinstance(info, Mapping) else None
    return path if isinstance(path, str) and path in files else None


def recipe(origin: Origin, files: tuple[str, ...], mlmodel: Mapping[str, Any] | None, example: bytes | None) -> Recipe:
    """The recipe for these files. Raises Refusal, naming what is missing and where it was looked for."""
    if mlmodel is None:
        nested = [path for path in files if path.rpartition("/")[2] == MLMODEL]
        hint = f" (there is one at {nested[0]}: register that folder itself)" if nested else ""
        raise _not_servable(
            f"the {origin} model has no MLmodel file at its root{hint}; files: {', '.join(files[:10]) or 'none'}",
            "Log the model with MLflow and register the folder that holds MLmodel.",
        )
    flavors = mlmodel["flavors"]
    if "python_function" not in flavors:
        raise _not_servable(
            f"MLmodel has no python_function flavor, only {', '.join(map(str, flavors))}",
            "Log the model with an MLflow flavor that can be loaded as python_function.",
        )
    request, source = sample_request(mlmodel, example)
    return Recipe(kind="mlflow", flavors=_plain(flavors), sample_request=request, sample_source=source)


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


def _plain(value: Any) -> Any:
    """YAML gives dates and the like; a recipe is JSON."""
    return json.loads(json.dumps(value, default=str))


def _not_servable(message: str, remedy: str) -> Refusal:
    return Refusal(Reason.NOT_SERVABLE, message, remedy=remedy)
