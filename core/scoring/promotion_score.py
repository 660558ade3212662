"""Second step of batch scoring, the entry script of the parallel step: mini-batches of files into their predictions.

For each `batch-00001.json` that `promotion_plan.py` has written, the part `batch-00001.jsonl` gets one line per row,
`{"file", "row", "prediction"}`, or one line `{"file", "error"}` for a file that could not be scored: such a file stops
no other, and nothing of it is kept. Whatever concerns all files, a model that does not load, is raised.
"""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from pathlib import Path
from typing import Any, Iterator

# The parallel runner loads this file by its path, and does not promise that others are found beside it.
sys.path.insert(0, str(Path(__file__).resolve().parent))

import pandas
from promotion_entry import ScoringError, Script, only, predictions_in
from promotion_plan import CSV, PARQUET, write_text
from promotion_signature import conform, type_of

SCORING = "scoring.json"
ERROR_LENGTH = 2000

job: Job


def init() -> None:
    """Called once in each process of the parallel step."""
    global job
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--parts", type=Path, required=True)
    options, _ = parser.parse_known_args()  # the runner adds arguments of its own
    start = Path.cwd()  # a scoring script is loaded in its own folder
    model = load_model(start / options.model, Path(__file__).resolve().parent)
    job = Job(model, start, start / options.data, start / options.parts)


def run(mini_batch: list[str]) -> list[str]:
    """One element for each file of the mini-batch, which is how the runner counts what succeeded."""
    return [job.score_batch(job.start / path) for path in mini_batch]


def load_model(model: Path, folder: Path) -> Any:
    """The model as `scoring.json` says it is served, with `predict` and `text_columns`."""
    settings = json.loads((folder / SCORING).read_text(encoding="utf-8"))
    if settings["kind"] == "script":
        return Script(settings, model, folder)
    if settings["kind"] == "mlflow":
        return MLflowModel(model)
    raise ScoringError("{} asks for {!r}; known are mlflow and script".format(SCORING, settings["kind"]))


class Job:
    """What a process of the parallel step works with."""

    def __init__(self, model: Any, start: Path, data: Path, parts: Path) -> None:
        self.start = start
        self._model, self._data, self._parts = model, data, parts

    def score_batch(self, batch: Path) -> str:
        """Writes the part of a mini-batch, in place of one that an earlier attempt has left."""
        if not batch.name.startswith("batch-"):
            return "{}: no mini-batch".format(batch.name)
        files = json.loads(batch.read_text(encoding="utf-8"))["files"]
        lines = (json.dumps(line) for file in files for line in self._score_file(file))
        write_text(self._parts / (batch.stem + ".jsonl"), lines)
        return "{}: {} files".format(batch.stem, len(files))

    def _score_file(self, file: str) -> list[dict[str, Any]]:
        path = self._data if self._data.is_file() else self._data / file
        try:
            frame = read(path, self._model.text_columns)
            predictions = self._model.predict(frame) if len(frame) else []
        except MemoryError:
            raise  # no fault of the file: the runner tries again, maybe with fewer neighbours
        except Exception as error:
            traceback.print_exc()
            kind = "" if isinstance(error, ScoringError) else type(error).__name__ + ": "
            return [{"file": file, "error": (kind + str(error))[:ERROR_LENGTH]}]
        return [{"file": file, "row": row, "prediction": value} for row, value in enumerate(predictions)]


def read(path: Path, text_columns: set[str]) -> Any:
    """The rows of a file. Text in JSON and Parquet is text; in CSV that is for the model to say."""
    suffix = path.suffix.lower()
    if suffix in CSV:
        return pandas.read_csv(path, dtype=dict.fromkeys(text_columns, str), encoding="utf-8-sig")
    with path.open("rb") as file:  # a path with `key=value` in it could be taken for a partition, with a column more
        if suffix in PARQUET:
            return pandas.read_parquet(file)
        return pandas.DataFrame(json_rows(file.read().decode("utf-8-sig")))


def json_rows(text: str) -> list[Any]:
    """An array of objects, or an object on each line."""
    rows = json.loads(text) if text.lstrip().startswith("[") else list(json_lines(text))
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise ScoringError("row {} is no object with the columns as keys".format(number))
    return list(rows)


def json_lines(text: str) -> Iterator[Any]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield json.loads(line)
            except ValueError as error:
                raise ScoringError("line {} is no JSON: {}".format(number, error)) from None


class MLflowModel:
    """An MLflow model of any flavor that pyfunc loads. `text_columns` are the string columns of its signature."""

    def __init__(self, folder: Path) -> None:
        import mlflow.pyfunc

        if not (folder / "MLmodel").is_file():
            folder = only(folder, [path.parent for path in folder.glob("*/MLmodel")], "one folder with an MLmodel file")
        self._model = mlflow.pyfunc.load_model(str(folder))
        self._schema = self._model.metadata.get_input_schema()
        is_table = self._schema is not None and not self._schema.is_tensor_spec()
        self._columns = [column for column in self._schema.inputs if column.name is not None] if is_table else []
        self.text_columns = {column.name for column in self._columns if type_of(column) == "string"}

    def predict(self, frame: Any) -> list[Any]:
        """One prediction for each row."""
        missing = [column.name for column in self._columns if is_required(column) and column.name not in frame.columns]
        if missing:
            raise ScoringError("the columns {} are missing, which the model's signature has".format(", ".join(missing)))
        answer = self._model.predict(self._input(frame))
        predictions: list[Any] = predictions_in({"predictions": answer}, len(frame))
        return predictions

    def _input(self, frame: Any) -> Any:
        if self._schema is not None and self._schema.is_tensor_spec() and not self._schema.has_input_names():
            return frame.to_numpy(dtype=self._schema.inputs[0].type)
        return conform(frame, self._columns)


def is_required(column: Any) -> bool:
    """Columns of a signature may be optional since MLflow 2."""
    return bool(getattr(column, "required", not getattr(column, "optional", False)))
