"""Calls a model's own scoring script as the online server does: init() once, then run() with a request of many rows.

The contract of run() is that of azureml-inference-server-http: undecorated, it gets the body of the request as text;
decorated with `@input_schema` (package inference-schema), the items of the body as keyword arguments, which the
decorators turn into their own types. Answers come in the envelopes that Azure ML's own scoring scripts write.
"""

from __future__ import annotations

import atexit
import importlib.util
import inspect
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any, Callable

import pandas

ROWS = "$rows"
ROWS_PER_REQUEST = 1000
ENVELOPES = ("result", "Results", "predictions", "forecast")
RAW_HTTP = ("azureml_inference_server_http.api.aml_request", "azureml.contrib.services.aml_request")


class ScoringError(Exception):
    """What is wrong with a file or an answer, in words that need no traceback."""


class Script:
    """A loaded scoring script. `settings` is scoring.json; `folder` is where it lies.

    `text_columns` stay as they are written in a CSV file, whatever they look like.
    """

    def __init__(self, settings: dict[str, Any], model: Path, folder: Path) -> None:
        self._request = settings["request"]
        self._columns = settings.get("columns")
        os.environ["AZUREML_MODEL_DIR"] = str(model_directory(settings["model"], model))
        module = load(folder / settings["script"])
        # A driver script calls init() for the script behind it, but passes requests on in a form of its own.
        behind = getattr(module, "driver_module", None)
        run = behind.run if isinstance(behind, ModuleType) and hasattr(behind, "run") else module.run
        self._call = caller(run)
        self.text_columns = text_columns(run, model)
        module.init()

    def predict(self, frame: Any) -> list[Any]:
        """One prediction for each row."""
        if self._columns is not None:
            missing = [column for column in self._columns if column not in frame.columns]
            if missing:
                raise ScoringError("the columns {} are missing, which the model needs".format(", ".join(missing)))
            frame = frame[self._columns]
        predictions: list[Any] = []
        for start in range(0, len(frame), ROWS_PER_REQUEST):
            rows = rows_of(frame.iloc[start : start + ROWS_PER_REQUEST], self._request["rows_as"])
            answer = self._call(filled(self._request["template"], rows))
            predictions += predictions_in(answer, len(rows))
        return predictions


def model_directory(model: dict[str, Any], path: Path) -> Path:
    """A folder as AZUREML_MODEL_DIR is online, holding the model alone, under the name by which scripts look for it.

    Some read the model's name and version from this path, and some refuse a second entry.
    """
    root = tempfile.mkdtemp(prefix="promotion-")
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    directory = Path(root, "azureml-models", model["name"], str(model["version"]))
    directory.mkdir(parents=True)
    name = model.get("folder")
    if not name and path.is_dir():
        path = only(path, list(path.iterdir()), "one model file")
    link(path, directory / (name or path.name))
    return directory


def link(path: Path, entry: Path) -> None:
    """The file, or a folder with its files: folders are made, because searches such as `**` follow no link to one."""
    if path.is_dir():
        entry.mkdir()
        for inner in path.iterdir():
            link(inner, entry / inner.name)
        return
    try:
        entry.symlink_to(path)
    except OSError:  # a file system or a user that may not have links
        shutil.copy2(str(path), str(entry))


def only(folder: Path, found: list[Path], what: str) -> Path:
    if len(found) != 1:
        names = ", ".join(sorted(path.name for path in found)) or "nothing"
        raise ScoringError("{} must hold {}, and holds {}".format(folder, what, names))
    return found[0]


def load(script: Path) -> Any:
    """The script as a module, loaded as the server does; its modules and files are found beside it."""
    os.chdir(str(script.parent))
    sys.path.insert(0, str(script.parent))
    spec = importlib.util.spec_from_file_location("entry_module", str(script))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    missing = [name for name in ("init", "run") if not hasattr(module, name)]
    if missing:
        raise ScoringError("the scoring script {} has no {}()".format(script.name, "() and no ".join(missing)))
    if any(getattr(sys.modules.get(name), "_rawHttpRequested", False) for name in RAW_HTTP):
        raise ScoringError(
            "run() in {} is decorated with @rawhttp and takes HTTP requests, of which there are none in a batch job: "
            "give the model a scoring script whose run() takes JSON".format(script.name)
        )
    return module


def caller(run: Any) -> Callable[[Any], Any]:
    """A function from the body of a request to what run() answers."""
    parameters = dict(inspect.signature(run).parameters)
    headers: dict[str, Any] = {"request_headers": {}} if parameters.pop("request_headers", None) else {}
    if not parameters:
        raise ScoringError("run() takes no argument for the data")
    if is_decorated(run):
        return lambda body: run(**arguments(parameters, body), **headers)
    first = next(iter(parameters))
    return lambda body: run(**{first: json.dumps(body)}, **headers)


def is_decorated(run: Any) -> bool:
    if "inference_schema" not in sys.modules:
        return False
    from inference_schema.schema_util import is_schema_decorated  # type: ignore[import-not-found]

    return bool(is_schema_decorated(run))


def arguments(parameters: dict[str, inspect.Parameter], body: Any) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise ScoringError("run() is decorated with @input_schema and takes an object, but the request is none")
    given = {name: body.get(name, parameter.default) for name, parameter in parameters.items()}
    for name, value in given.items():
        if value is inspect.Parameter.empty:
            raise ScoringError("run() needs a value for {!r}, which the request does not have".format(name))
    return given


def text_columns(run: Any, model: Path) -> set[str]:
    """The columns that are text by the decorators of run(), or by Designer's schema of the model."""
    texts = set()
    schema = model / "_schema.json"
    if schema.is_file():
        columns = json.loads(schema.read_text(encoding="utf-8")).get("columnAttributes", [])
        texts |= {column["name"] for column in columns if column.get("type") == "String"}
    if is_decorated(run):
        from inference_schema.schema_util import get_input_schema

        texts |= texts_in(get_input_schema(run))
    return texts


def texts_in(schema: Any) -> set[str]:
    """Names of the properties of table rows, anywhere in a swagger schema, that are text."""
    if not isinstance(schema, dict):
        return set()
    columns = schema.get("items", {}).get("properties", {}) if isinstance(schema.get("items"), dict) else {}
    texts = {name for name, column in columns.items() if column.get("type") == "string" and "format" not in column}
    return texts.union(*(texts_in(inner) for inner in schema.values()))


def rows_of(frame: Any, rows_as: str) -> list[Any]:
    records = frame.to_dict("records")
    if rows_as == "records":
        return [{str(name): plain(value) for name, value in row.items()} for row in records]
    return [[plain(value) for value in row.values()] for row in records]


def filled(template: Any, rows: list[Any]) -> Any:
    """The template of a request with the rows in their place."""
    if template == ROWS:
        return rows
    if isinstance(template, dict):
        return {key: filled(value, rows) for key, value in template.items()}
    if isinstance(template, list):
        return [filled(value, rows) for value in template]
    return template


def predictions_in(answer: Any, count: int) -> list[Any]:
    """The predictions in an answer, one for each of `count` rows, out of whatever envelopes they are in."""
    answer = plain(body_of(answer))
    if isinstance(answer, str):
        try:
            return predictions_in(json.loads(answer), count)
        except ValueError:
            raise ScoringError("the scoring script answered with text: {}".format(answer[:500])) from None
    if isinstance(answer, dict):
        if list(answer) == ["error"]:
            raise ScoringError("the scoring script answered with an error: {}".format(answer["error"]))
        if len(answer) == 1:
            return predictions_in(next(iter(answer.values())), count)
        if answer and all(isinstance(value, list) and len(value) == count for value in answer.values()):
            return [dict(zip(answer, values)) for values in zip(*answer.values())]
        for name in ENVELOPES:
            if name in answer:
                return predictions_in(answer[name], count)
        raise ScoringError("no predictions are known in an answer with {}".format(", ".join(answer) or "nothing"))
    if not isinstance(answer, list):
        raise ScoringError("the scoring script answered with {!r} instead of a list".format(answer))
    if len(answer) != count:
        raise ScoringError("there are {} predictions for {} rows".format(len(answer), count))
    return answer


def body_of(answer: Any) -> Any:
    """An HTTP response, as scripts may return one too, is as good as its body."""
    if not (hasattr(answer, "status_code") and hasattr(answer, "get_data")):
        return answer
    text = answer.get_data(as_text=True)
    if answer.status_code >= 400:
        raise ScoringError("the scoring script answered {}: {}".format(answer.status_code, text[:500]))
    return text


def plain(value: Any) -> Any:
    """What JSON can say: dates in ISO form, no number as null."""
    if value is None or type(value) in (str, bool, int):
        return value
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [plain(inner) for inner in value]
    if isinstance(value, pandas.DataFrame):
        return [plain(record) for record in value.to_dict("records")]
    if hasattr(value, "tolist") and getattr(value, "shape", None):
        return plain(value.tolist())
    if value is pandas.NaT or value is getattr(pandas, "NA", None):
        return None
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if hasattr(value, "item"):
        return plain(value.item())
    number = float(value)
    return number if abs(number) != float("inf") and number == number else None
