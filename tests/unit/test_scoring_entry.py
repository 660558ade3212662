"""Batch scoring with scripts that were written for the online server. (Those with decorators: tests/wire.)"""

import json
from pathlib import Path
from typing import Any

import numpy
import pandas
import pytest

from core.scoring import promotion_mlflow_online, promotion_score
from core.scoring.promotion_entry import ScoringError, filled, plain, predictions_in
from tests.unit.scoring_job import ScoringJob, StepFailed

DESIGNER = """
import json, os, pickle
from pathlib import Path
from siblings import double
folder = Path(os.environ["AZUREML_MODEL_DIR"]) / "trained_model_outputs"
names = [column["name"] for column in json.loads((folder / "_schema.json").read_text())["columnAttributes"]]

def init():
    global factor
    factor = pickle.loads((folder / "data.ilearner").read_bytes())

def run(data):
    rows = json.loads(data)
    for row in rows:
        if list(row) != names:
            raise ValueError(f"expected the columns {names}")
    return json.dumps({"result": [[row["zip"], double(row["rooms"] or 0) * factor] for row in rows]})
"""
DESIGNER_SETTINGS = {
    "kind": "script",
    "script": "entry/score.py",
    "model": {"name": "price", "version": "3", "folder": "trained_model_outputs"},
    "request": {"template": "$rows", "rows_as": "records"},
    "columns": ["zip", "rooms"],
}


def script_job(tmp_path: Path, text: str, **settings: Any) -> ScoringJob:
    """A job around a script whose model is one file."""
    model = tmp_path / "INPUT_model" / "model.pkl"
    model.parent.mkdir()
    model.write_text("weights")
    whole = {
        "kind": "script",
        "script": "entry/score.py",
        "model": {"name": "m", "version": "1", "folder": None},
        "request": {"template": {"data": "$rows"}, "rows_as": "records"},
        "columns": None,
        **settings,
    }
    return ScoringJob(tmp_path / "job", whole, model, scripts={"entry/score.py": text})


def predicted(job: ScoringJob, *collect: str) -> list[Any]:
    job.all(collect=("--output-file-name", "p.jsonl", *collect))
    lines = (job.predictions / "p.jsonl").read_text().splitlines()
    return [json.loads(line)["prediction"] for line in lines]


def test_a_script_of_designer_answers_text_in_text(tmp_path: Path) -> None:
    """It wants each column of its schema in order, no other, and its folder by name; its siblings are beside it."""
    import pickle

    model = tmp_path / "INPUT_model"
    model.mkdir()
    columns = [{"name": "zip", "type": "String"}, {"name": "rooms", "type": "Numeric"}]
    (model / "_schema.json").write_text(json.dumps({"columnAttributes": columns}))
    (model / "data.ilearner").write_bytes(pickle.dumps(10))
    scripts = {"entry/score.py": DESIGNER, "entry/siblings.py": "def double(x): return 2 * x\n"}
    job = ScoringJob(tmp_path / "job", DESIGNER_SETTINGS, model, scripts=scripts)
    job.put("a.csv", "rooms,zip,other\n1,01067,x\n,10115,y\n")
    job.put("b.csv", "zip,other\n01067,x\n")

    assert predicted(job, "--error-threshold", "1") == [["01067", 20.0], ["10115", 0]]
    assert job.errors() == {"b.csv": "the columns rooms are missing, which the model needs"}


def test_the_model_is_where_it_is_online(tmp_path: Path) -> None:
    script = """
import json, os
def init():
    global where
    folder = os.environ["AZUREML_MODEL_DIR"]
    (entry,) = os.listdir(folder)
    where = [*folder.split(os.sep)[-3:], entry, open(os.path.join(folder, entry)).read(), os.path.basename(os.getcwd())]
def run(data):
    return [where for row in json.loads(data)["data"]]
"""
    job = script_job(tmp_path, script)
    job.put("a.csv", "x\n1\n")

    assert predicted(job) == [["azureml-models", "m", "1", "model.pkl", "weights", "entry"]]


def test_scripts_that_search_find_the_model(tmp_path: Path) -> None:
    """`**` follows no link to a folder, so the folders are real and the files in them are links."""
    from core.scoring.promotion_entry import link

    (tmp_path / "model" / "deep").mkdir(parents=True)
    (tmp_path / "model" / "deep" / "model.joblib").write_text("weights")
    link(tmp_path / "model", tmp_path / "entry")
    (found,) = tmp_path.glob("entry/**/model.joblib")
    assert (found.is_symlink(), found.read_text()) == (True, "weights")


def test_large_files_are_scored_a_thousand_rows_at_a_time(tmp_path: Path) -> None:
    script = """
import json
def init(): pass
def run(data):
    rows = json.loads(data)["Inputs"]["rows"]
    return {"predictions": [[row[0], len(rows)] for row in rows], "model": "m"}
"""
    request = {"template": {"Inputs": {"rows": "$rows"}}, "rows_as": "values"}
    job = script_job(tmp_path, script, request=request)
    job.put("a.csv", "x\n" + "".join(f"{row}\n" for row in range(2500)))

    found = predicted(job)

    assert [row for row, _ in found] == list(range(2500))
    assert [found[row][1] for row in (0, 999, 1000, 1999, 2000, 2499)] == [1000, 1000, 1000, 1000, 500, 500]


def test_a_script_that_swallows_its_exceptions_does_not_hide_them(tmp_path: Path) -> None:
    """The older scripts of Automated ML answer 200 with the text of the exception, after half of a file too."""
    script = """
import json
def init(): pass
def run(data):
    try:
        return json.dumps({"result": [10 / row["x"] for row in json.loads(data)["data"]]})
    except Exception as e:
        return json.dumps({"error": str(e)})
"""
    job = script_job(tmp_path, script)
    job.put("a.csv", "x\n" + "5\n" * 1500 + "0\n")
    job.put("b.csv", "x\n5\n")

    assert predicted(job, "--error-threshold", "1") == [2.0]
    assert job.errors() == {"a.csv": "the scoring script answered with an error: division by zero"}
    assert job.summary()["rows"] == 1


def test_rows_are_sent_as_json_can_say_them(tmp_path: Path) -> None:
    script = """
import json
def init(): pass
def run(body, request_headers=None):
    return [json.dumps(row) for row in json.loads(body, parse_constant=int)["data"]]
"""
    job = script_job(tmp_path, script)
    table = {"at": [pandas.Timestamp("2024-03-01 12:00"), pandas.NaT], "x": [0.1 + 0.2, None], "n": [[1, 2], None]}
    pandas.DataFrame(table).to_parquet(job.data / "a.parquet")

    assert [json.loads(text) for text in predicted(job)] == [
        {"at": "2024-03-01T12:00:00", "x": 0.30000000000000004, "n": [1, 2]},
        {"at": None, "x": None, "n": None},
    ]


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("def run(data): pass", r"score.py has no init\(\)"),
        ("def init(): pass\ndef run(): pass", "run\\(\\) takes no argument"),
        ("import not_installed_here", "No module named 'not_installed_here'"),
        ("def init(): raise RuntimeError('no model')\ndef run(data): pass", "RuntimeError: no model"),
    ],
)
def test_a_script_that_cannot_be_started_fails_the_step(tmp_path: Path, script: str, message: str) -> None:
    job = script_job(tmp_path, script)
    job.plan()

    with pytest.raises(StepFailed, match=message):
        job.score()


@pytest.mark.parametrize(
    "answer",
    [
        [1, 2],
        (1, 2),
        "[1, 2]",
        '"[1, 2]"',
        {"result": [1, 2]},
        '{"result": "[1, 2]"}',
        {"Results": [1, 2]},
        {"predict_proba": [1, 2]},
        {"Results": {"WebServiceOutput0": [1, 2]}},
        {"forecast": [1, 2], "note": "x"},
        numpy.array([1, 2]),
        pandas.Series([1, 2]),
    ],
)
def test_predictions_are_found_in_their_envelopes(answer: Any) -> None:
    assert predictions_in(answer, 2) == [1, 2]


def test_columns_become_rows() -> None:
    forecast = {"forecast": [1.5, 2.5], "index": [{"day": 1}, {"day": 2}]}
    rows = [{"forecast": 1.5, "index": {"day": 1}}, {"forecast": 2.5, "index": {"day": 2}}]
    assert predictions_in(json.dumps(forecast), 2) == rows
    assert predictions_in({"Results": forecast}, 2) == rows
    assert predictions_in(pandas.DataFrame({"a": [1, 2], "b": [float("nan"), float("inf")]}), 2) == [
        {"a": 1, "b": None},
        {"a": 2, "b": None},
    ]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([1], "there are 1 predictions for 2 rows"),
        ("sorry", "answered with text: sorry"),
        (None, "answered with None instead of a list"),
        ({"error": "no"}, "answered with an error: no"),
        ({"a": 1, "b": 2}, "no predictions are known in an answer with a, b"),
        ({}, "no predictions are known in an answer with nothing"),
    ],
)
def test_what_is_no_answer_is_said(answer: Any, message: str) -> None:
    with pytest.raises(ScoringError, match=message):
        predictions_in(answer, 2)


def test_plain_values() -> None:
    values = [numpy.float32(0.5), numpy.int64(3), numpy.bool_(True), numpy.str_("a"), b"b", pandas.NA, float("-inf")]
    assert plain(values) == [0.5, 3, True, "a", "b", None, None]


def test_templates_keep_what_is_not_rows() -> None:
    template = {"Inputs": {"data": "$rows"}, "GlobalParameters": {"method": "predict"}, "more": [1, "$row"]}
    assert filled(template, [1]) == {**template, "Inputs": {"data": [1]}}


def test_both_mlflow_scripts_read_a_signature_alike() -> None:
    """They are shipped in two code assets, each with the one module that they share."""
    assert vars(promotion_mlflow_online)["conform"] is vars(promotion_score)["conform"]
