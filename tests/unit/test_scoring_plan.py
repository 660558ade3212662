"""The first and the last step of batch scoring, and what runs of one schedule know of each other."""

import ast
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas
import pytest

from tests.unit.scoring_job import SCRIPTS, ScoringJob, StepFailed

SETTINGS = {"kind": "mlflow", "model": {"name": "price", "version": "3"}}
SKIP = ("--overlap", "skip", "--stale-after", "3600")


@pytest.fixture
def job(tmp_path: Path) -> ScoringJob:
    return ScoringJob(tmp_path / "job", SETTINGS, tmp_path)


def planned(job: ScoringJob) -> list[list[str]]:
    return [json.loads(path.read_text())["files"] for path in sorted(job.batches.glob("batch-*.json"))]


def scored(job: ScoringJob, *lines: object, batch: str = "batch-00001") -> None:
    """The part that the second step would have written."""
    job.parts.mkdir(exist_ok=True)
    (job.parts / f"{batch}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("*.py")), ids=lambda path: path.name)
def test_the_scripts_are_python_3_7(script: Path) -> None:
    tree = ast.parse(script.read_text(encoding="utf-8"), feature_version=(3, 7))

    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    newer = {"removeprefix", "removesuffix", "is_relative_to", "with_stem", "readlink", "hardlink_to", "unparse"}
    assert not names & newer
    assert not [
        keyword.arg for keyword in ast.walk(tree) if isinstance(keyword, ast.keyword) and keyword.arg == "missing_ok"
    ]


def test_files_are_found_in_every_folder_and_markers_are_not(job: ScoringJob) -> None:
    for name in ("b.csv", "a/deep/x.parquet", "a/y.JSONL", "_part.csv"):
        job.put(name, "x\n1\n")
    for name in ("_SUCCESS", ".hidden.csv", "_delta_log/0.json", ".git/x.csv", "_committed_12"):
        job.put(name, "x\n1\n")
    job.put("empty.csv", "")
    job.put("notes.txt", "none")
    (job.data / "nothing").mkdir()

    plan = job.plan("--files-per-batch", "3")

    assert planned(job) == [["_part.csv", "a/deep/x.parquet", "a/y.JSONL"], ["b.csv"]]
    assert plan["batches"] == ["batch-00001", "batch-00002"]
    assert plan["run"] == "run-1"
    assert [unsupported["file"] for unsupported in plan["unsupported"]] == ["notes.txt"]


def test_one_file_is_input_too(job: ScoringJob) -> None:
    job.put("day.csv", "x\n1\n")

    job.plan(data=job.data / "day.csv")

    assert planned(job) == [["day.csv"]]


def test_input_that_is_not_there_is_named(job: ScoringJob, tmp_path: Path) -> None:
    with pytest.raises(StepFailed, match="typo: there is no such file or folder"):
        job.plan(data=tmp_path / "typo")


def test_planning_again_leaves_nothing_of_the_first_attempt(job: ScoringJob) -> None:
    for name in ("a.csv", "b.csv"):
        job.put(name, "x\n1\n")
    job.plan()
    (job.data / "b.csv").unlink()

    job.plan()

    assert planned(job) == [["a.csv"]]


def test_empty_input_succeeds_with_no_rows(job: ScoringJob) -> None:
    job.plan()
    assert planned(job) == [[]]
    scored(job)

    summary = job.collect()

    assert (summary["rows"], summary["files"], summary["failed_files"]) == (0, 0, 0)
    assert summary["model"] == {"name": "price", "version": "3"}
    assert (job.predictions / "predictions.csv").read_text() == "file,row,prediction\n"
    assert not (job.predictions / "errors.jsonl").exists()


def test_a_run_that_meets_another_one_is_skipped_and_leaves_its_results_alone(job: ScoringJob, tmp_path: Path) -> None:
    job.put("a.csv", "x\n1\n")
    job.plan(*SKIP)
    second = ScoringJob(tmp_path / "second", SETTINGS, tmp_path, run="run-2", state=job.state)
    second.put("a.csv", "x\n1\n")

    plan = second.plan(*SKIP)

    assert plan["skipped"].startswith("run run-1 has been running since 2")
    assert planned(second) == [[]]
    assert second.collect()["skipped"] == plan["skipped"]
    assert [path.name for path in second.predictions.iterdir()] == ["summary.json"]
    assert json.loads((job.state / "running.json").read_text())["run"] == "run-1"

    scored(job, {"file": "a.csv", "row": 0, "prediction": 1})
    job.collect()
    assert second.plan(*SKIP)["skipped"] is None


def test_the_same_run_is_not_in_its_own_way(job: ScoringJob) -> None:
    job.plan(*SKIP)
    assert job.plan(*SKIP)["skipped"] is None


@pytest.mark.parametrize(
    "marker",
    [json.dumps({"run": "dead", "since": (datetime.now(UTC) - timedelta(hours=2)).isoformat()}), "", "[]", "{}"],
    ids=["old", "empty", "no object", "no run"],
)
def test_what_a_dead_run_has_left_does_not_stop_others(job: ScoringJob, marker: str) -> None:
    job.state.mkdir()
    (job.state / "running.json").write_text(marker)

    assert job.plan(*SKIP)["skipped"] is None
    assert json.loads((job.state / "running.json").read_text())["run"] == "run-1"


def test_runs_may_overlap_where_that_is_wanted(job: ScoringJob, tmp_path: Path) -> None:
    job.plan(*SKIP)
    second = ScoringJob(tmp_path / "second", SETTINGS, tmp_path, run="run-2", state=job.state)

    assert second.plan("--overlap", "allow")["skipped"] is None
    scored(second)
    second.collect()
    assert json.loads((job.state / "running.json").read_text())["run"] == "run-1"


def test_a_mini_batch_without_its_part_fails_the_job_by_name(job: ScoringJob) -> None:
    for name in ("a.csv", "b.csv"):
        job.put(name, "x\n1\n")
    job.plan(*SKIP)
    scored(job, {"file": "a.csv", "row": 0, "prediction": 1})

    with pytest.raises(StepFailed, match=r"1 of 2 mini-batches have no part in .*: batch-00002\.jsonl"):
        job.collect()

    assert not (job.state / "running.json").exists()
    assert not (job.predictions / "predictions.csv").exists()


def test_failed_files_beyond_the_threshold_fail_the_job_after_the_results_are_written(job: ScoringJob) -> None:
    job.put("a.csv", "x\n1\n")
    job.put("b.txt", "?")
    job.put("c.csv", "x\n1\n")
    job.plan(*SKIP, "--files-per-batch", "5")
    scored(job, {"file": "a.csv", "row": 0, "prediction": 1}, {"file": "c.csv", "error": "ValueError: no number"})

    with pytest.raises(StepFailed) as failure:
        job.collect("--error-threshold", "1")

    assert "b.txt: not scored: .txt is none of .csv" in str(failure.value)
    assert "c.csv: ValueError: no number" in str(failure.value)
    assert not (job.state / "running.json").exists()
    assert set(job.errors()) == {"b.txt", "c.csv"}
    assert "a.csv,0,1" in (job.predictions / "predictions.csv").read_text()
    assert job.collect("--error-threshold", "2")["failed_files"] == 2
    assert job.collect("--error-threshold", "-1")["failed_files"] == 2


@pytest.mark.parametrize("threshold", ["1", "-1"])
def test_a_job_that_could_score_no_file_fails_whatever_the_threshold(job: ScoringJob, threshold: str) -> None:
    job.put("a.csv", "x\n1\n")
    job.plan()
    scored(job, {"file": "a.csv", "error": "ZeroDivisionError: division by zero"})

    with pytest.raises(StepFailed, match=r"no file could be scored:\n  a\.csv: ZeroDivisionError"):
        job.collect("--error-threshold", threshold)


LINES = [
    {"file": "a.csv", "row": 0, "prediction": {"label": "yes", "score": 1, "parts": [1, 2]}},
    {"file": "a.csv", "row": 1, "prediction": {"label": 'a "b", c', "score": 0.5, "more": None}},
    {"file": "b.csv", "row": 0, "prediction": "text"},
]


def test_objects_become_columns(job: ScoringJob) -> None:
    job.plan()
    scored(job, *LINES)
    job.collect()

    table = pandas.read_csv(job.predictions / "predictions.csv")

    names = [f"prediction.{key}" for key in ("label", "score", "parts", "more")]
    assert list(table.columns) == ["file", "row", *names, "prediction"]
    assert table["prediction.label"].tolist()[:2] == ["yes", 'a "b", c']
    assert json.loads(table["prediction.parts"][0]) == [1, 2]
    assert table["prediction"].tolist()[2] == "text"


def test_parquet_keeps_types(job: ScoringJob) -> None:
    job.plan()
    scored(job, *LINES)
    job.collect("--output-file-name", "out.parquet")

    table = pandas.read_parquet(job.predictions / "out.parquet")

    assert table["prediction.score"].dtype == "float64"
    assert table["prediction.score"].tolist()[:2] == [1.0, 0.5]
    assert table["row"].tolist() == [0, 1, 0]
    assert table["prediction.parts"][0] == "[1, 2]"


def test_json_lines_are_as_they_were_scored(job: ScoringJob) -> None:
    job.plan()
    scored(job, *LINES)
    job.collect("--output-file-name", "out.jsonl")

    assert [json.loads(line) for line in (job.predictions / "out.jsonl").read_text().splitlines()] == LINES


def test_many_rows_become_groups_of_rows(job: ScoringJob) -> None:
    import pyarrow.parquet

    job.plan()
    scored(job, *({"file": "a.csv", "row": row, "prediction": 2**70 if row else row} for row in range(50_001)))
    job.collect("--output-file-name", "out.parquet")

    found = pyarrow.parquet.ParquetFile(job.predictions / "out.parquet")
    assert (found.metadata.num_rows, found.metadata.num_row_groups) == (50_001, 2)


def test_an_output_of_unknown_form_is_refused(job: ScoringJob) -> None:
    job.plan()
    scored(job)
    with pytest.raises(StepFailed, match=r"out.xlsx is no file name that ends in .csv, .jsonl, .parquet"):
        job.collect("--output-file-name", "out.xlsx")
