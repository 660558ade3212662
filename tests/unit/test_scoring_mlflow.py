"""Batch scoring of MLflow models, trained and saved here, from files of every form."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import mlflow.sklearn
import numpy
import pandas
import pytest
from mlflow.models import infer_signature
from mlflow.types import ColSpec, Schema
from sklearn.linear_model import LinearRegression

from tests import models
from tests.unit.scoring_job import ScoringJob, StepFailed

SETTINGS = {"kind": "mlflow", "model": {"name": "price", "version": "3"}}


def prices(job: ScoringJob) -> dict[str, list[float]]:
    table = pandas.read_csv(job.predictions / "predictions.csv")
    return {file: rows["prediction"].round(6).tolist() for file, rows in table.groupby("file")}


def parquet(folder: Path, table: dict[str, list[Any]]) -> bytes:
    path = folder / "table.parquet"
    pandas.DataFrame(table).to_parquet(path)
    return path.read_bytes()


def test_every_form_of_file_gives_the_predictions_of_the_model(tmp_path: Path) -> None:
    """price = 3 area + rooms, both double; whole numbers in a file are no less welcome."""
    saved = models.regression_with_example(tmp_path)
    job = ScoringJob(tmp_path / "job", SETTINGS, saved.folder)
    job.put("whole.csv", "area,rooms\n1,1\n2,2\n")
    job.put("day=1/extra.CSV", "note,rooms,area\nx,1,0.5\n")
    job.put("day=1/table.parquet", parquet(tmp_path, {"area": [1.0, 10.0], "rooms": [2.0, 3.0]}))
    job.put("lines.jsonl", '{"area": 4, "rooms": 1.5}\n\n{"rooms": 0, "area": 1}\n')
    job.put("array.json", "\ufeff" + json.dumps([{"area": 2, "rooms": 1}]))
    job.put("no_rows.csv", "area,rooms\n")
    job.put("no_rooms.csv", "area\n1\n")
    job.put("words.csv", "area,rooms\n1,2\nmany,1\n")
    job.put("poisoned.parquet", b"PAR1 this is none")
    job.put("poisoned.json", '{"area": 1, "rooms": 1}\n{"area": 1,')
    job.put("values.jsonl", "[1, 2]\n")

    summary = job.all("--files-per-batch", "4", collect=("--error-threshold", "5"))

    assert prices(job) == {
        "whole.csv": [4.0, 8.0],
        "day=1/extra.CSV": [2.5],
        "day=1/table.parquet": [5.0, 33.0],
        "lines.jsonl": [13.5, 3.0],
        "array.json": [7.0],
    }
    assert (summary["files"], summary["rows"], summary["failed_files"]) == (11, 8, 5)
    errors = job.errors()
    assert errors["no_rooms.csv"] == "the columns rooms are missing, which the model's signature has"
    assert "area" in errors["words.csv"]
    assert "Parquet" in errors["poisoned.parquet"]
    assert errors["poisoned.json"].startswith("line 2 is no JSON")
    assert errors["values.jsonl"] == "row 1 is no object with the columns as keys"
    with pytest.raises(StepFailed, match=r"no_rooms\.csv: the columns rooms are missing"):
        job.collect("--error-threshold", "4")


def test_a_mini_batch_that_is_tried_again_replaces_its_part(tmp_path: Path) -> None:
    saved = models.regression_with_example(tmp_path)
    job = ScoringJob(tmp_path / "job", SETTINGS, saved.folder)
    job.put("a.csv", "area,rooms\n1,1\n")
    job.plan()
    job.score()
    (job.parts / "batch-00001.jsonl").write_text('{"file": "a.csv", "row": 0, "predi')

    job.score()

    assert len(job.part("batch-00001")) == 1
    assert [path.name for path in job.parts.iterdir()] == ["batch-00001.jsonl"]


def test_one_input_file_and_the_folder_around_the_model(tmp_path: Path) -> None:
    models.regression_with_example(tmp_path / "registered")
    job = ScoringJob(tmp_path / "job", SETTINGS, tmp_path / "registered")
    job.put("a.csv", "area,rooms\n1,1\n")
    job.plan(data=job.data / "a.csv")
    job.score(data=job.data / "a.csv")
    job.collect()

    assert prices(job) == {"a.csv": [4.0]}


def test_a_model_that_does_not_load_fails_the_step(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    job = ScoringJob(tmp_path / "job", SETTINGS, tmp_path / "model")
    job.put("a.csv", "area,rooms\n1,1\n")
    job.plan()

    with pytest.raises(StepFailed, match="must hold one folder with an MLmodel file, and holds nothing"):
        job.score()


@models.without_hints
def save(folder: Path, predict: Callable[[Any], Any], schema: Schema | None) -> Path:
    """An MLflow model with these inputs, around a function."""

    class Model(mlflow.pyfunc.PythonModel):  # type: ignore[name-defined,misc] # mlflow has no types
        def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def] # it would read the types
            return predict(model_input)

    signature = mlflow.models.ModelSignature(inputs=schema) if schema else None
    mlflow.pyfunc.save_model(
        folder, python_model=Model(), signature=signature, pip_requirements=models.pins("mlflow-skinny")
    )
    return folder


TYPED = Schema(
    [
        ColSpec("string", "zip"),
        ColSpec("integer", "small"),
        ColSpec("long", "large"),
        ColSpec("float", "single"),
        ColSpec("double", "double"),
        ColSpec("boolean", "flag"),
        ColSpec("datetime", "day"),
    ]
)


def test_columns_have_the_types_of_the_signature(tmp_path: Path) -> None:
    """Digits that are text keep their zeros; MLflow refuses each of these columns as pandas reads it from CSV."""

    def describe(table: Any) -> Any:
        table = table.assign(day=table["day"].dt.strftime("%Y-%m-%d %H"))
        kinds = [str(table[name].dtype) for name in ("small", "large", "single", "double", "flag")]
        return [json.dumps([row["zip"], row["day"], row["large"], *kinds]) for row in table.to_dict("records")]

    job = ScoringJob(tmp_path / "job", SETTINGS, save(tmp_path / "typed", describe, TYPED))
    header = "zip,small,large,single,double,flag,day\n"
    job.put("a.csv", header + "01067,1,9007199254740993,0.1,1,true,2024-03-01\n10115,2,2,3,,false,2024-03-02\n")
    row = {"zip": "007", "small": 1, "large": 2, "single": 1, "double": 1, "flag": True}
    job.put("b.jsonl", json.dumps({**row, "day": "2024-03-01T00:00:00+02:00"}))
    job.put("float.jsonl", json.dumps({**row, "large": 1.5, "day": "2024-03-01"}))

    job.all(collect=("--error-threshold", "1", "--output-file-name", "p.jsonl"))

    lines = [json.loads(line) for line in (job.predictions / "p.jsonl").read_text().splitlines()]
    kinds = ["int32", "int64", "float32", "float64", "bool"]
    assert [json.loads(line["prediction"]) for line in lines] == [
        ["01067", "2024-03-01 00", 9007199254740993, *kinds],
        ["10115", "2024-03-02 00", 2, *kinds],
        ["007", "2024-02-29 22", 2, *kinds],
    ]
    assert "large" in job.errors()["float.jsonl"]


def test_tables_and_missing_values_in_answers(tmp_path: Path) -> None:
    def answer(table: Any) -> Any:
        found = pandas.DataFrame({"label": table["text"].str.upper(), "score": [0.5, float("nan")]})
        return found.assign(top=[numpy.array([1, 2]), None], at=pandas.Timestamp("2024-03-01"))

    model = save(tmp_path / "table", answer, Schema([ColSpec("string", "text")]))
    job = ScoringJob(tmp_path / "job", SETTINGS, model)
    job.put("a.csv", "text\n1\n2\n")
    job.put("short.csv", "text\n1\n")
    job.all(collect=("--error-threshold", "1", "--output-file-name", "p.jsonl"))

    lines = [json.loads(line)["prediction"] for line in (job.predictions / "p.jsonl").read_text().splitlines()]
    assert lines == [
        {"label": "1", "score": 0.5, "top": [1, 2], "at": "2024-03-01T00:00:00"},
        {"label": "2", "score": None, "top": None, "at": "2024-03-01T00:00:00"},
    ]
    assert job.errors().keys() == {"short.csv"}


def test_a_wrong_number_of_predictions_is_an_error_of_the_file(tmp_path: Path) -> None:
    job = ScoringJob(tmp_path / "job", SETTINGS, save(tmp_path / "sum", lambda table: [len(table)], None))
    job.put("a.csv", "x\n1\n2\n")
    job.put("b.csv", "x\n1\n")
    job.all(collect=("--error-threshold", "1"))

    assert job.errors() == {"a.csv": "there are 1 predictions for 2 rows"}


def test_models_of_bare_arrays(tmp_path: Path) -> None:
    """Signature of a tensor: the table goes in as an array of its type."""
    rows = numpy.array([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], dtype=numpy.float32)
    model = LinearRegression().fit(rows, [1, 2, 3])
    signature = infer_signature(rows, model.predict(rows))
    pins = models.pins("mlflow-skinny", "scikit-learn")
    mlflow.sklearn.save_model(
        model, tmp_path / "tensor", signature=signature, serialization_format="cloudpickle", pip_requirements=pins
    )
    job = ScoringJob(tmp_path / "job", SETTINGS, tmp_path / "tensor")
    job.put("a.csv", "a,b\n0,1\n1,1\n")
    job.all()

    assert prices(job)["a.csv"] == pytest.approx([1.0, 3.0], abs=1e-5)
