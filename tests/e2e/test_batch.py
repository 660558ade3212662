"""Batch, end to end: from a registered model to what a scheduled run has written."""

import csv
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from demo.models import Trained, notebook
from tests.e2e.registering import register
from tests.local import LocalAzure

HOUR = 3600.0


def promoted(azure: LocalAzure, name: str, trained: Trained, version: str = "1") -> dict[str, Any]:
    register(azure, name, trained)
    return azure.wait_for_end(name, version, seconds=150)


def run_next(azure: LocalAzure, schedule: str, before: int) -> Any:
    """Let the schedule fire once more; its run, once it has ended."""
    azure.control.advance(HOUR)

    def ended() -> Any:
        runs = azure.scheduled_runs("prod", schedule)
        return runs[before] if len(runs) > before and runs[before].status in ("Completed", "Failed") else None

    return azure.wait_for(ended, what=f"the end of run {before + 1} of {schedule}", seconds=120)


def written(azure: LocalAzure, name: str, run: Any) -> dict[str, str]:
    """What a run has left in its folder, by file name."""
    container, folder = azure.target_files("prod"), f"out/{name}/{run.name}/"
    names = [blob.name for blob in container.list_blobs(name_starts_with=folder)]
    return {path[len(folder) :]: container.download_blob(path).readall().decode() for path in names}


def put(azure: LocalAzure, name: str, files: dict[str, str]) -> None:
    container = azure.target_files("prod")
    for blob in list(container.list_blobs(name_starts_with=f"in/{name}/")):
        container.delete_blob(blob.name)
    for path, text in files.items():
        container.upload_blob(f"in/{name}/{path}", text.encode(), overwrite=True)


def predictions(files: dict[str, str]) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(files["predictions.csv"])))


def test_a_schedule_scores_what_is_there_with_the_promoted_version(local_azure: LocalAzure, tmp_path: Path) -> None:
    """One story, because each run takes its time: many files, a bad one, too many bad ones, none; a new version; a pause."""
    name = "hourly-wine"
    trained = notebook.custom_script(tmp_path / "one")
    row = promoted(local_azure, name, trained)
    assert (row["state"], row["serve"]) == ("succeeded", "batch"), row["why"]
    assert (row["result"]["schedule"], row["result"]["schedule_enabled"]) == (name, True)
    assert row["result"]["verified_with"].startswith("test job on ")

    bundle = zipfile.ZipFile(io.BytesIO(local_azure.api_bytes(f"promotions/{row['id']}/bundle")))
    inside = {path.partition("/")[2] for path in bundle.namelist()}
    assert {"manifest.json", "provenance.json", "stage.yaml", "code/entry/score.py", "environment/conda.yaml"} <= inside

    half = len(trained.rows) // 2
    first, second = trained.rows.iloc[:half], trained.rows.iloc[half:]
    records = second.to_json(orient="records", lines=True)
    put(
        local_azure,
        name,
        {"a.csv": first.to_csv(index=False), "deep/b.jsonl": records, "c.csv": "no,such\ncolumns,here\n"},
    )
    run = run_next(local_azure, name, 0)
    files = written(local_azure, name, run)
    assert run.status == "Completed", files
    rows = predictions(files)
    assert [row["file"] for row in rows] == ["a.csv"] * half + ["deep/b.jsonl"] * (len(trained.rows) - half)
    assert trained.predicted(rows) == pytest.approx(trained.predictions)
    (error,) = [json.loads(line) for line in files["errors.jsonl"].splitlines()]
    assert error["file"] == "c.csv"
    summary = json.loads(files["summary.json"])
    assert (summary["rows"], summary["failed_files"]) == (len(trained.rows), 1)

    put(local_azure, name, {"a.csv": "no,such\n1,2\n", "b.csv": "nor,such\n3,4\n", "c.csv": first.to_csv(index=False)})
    assert run_next(local_azure, name, 1).status == "Failed", "more files failed than the policy allows"

    put(local_azure, name, {})
    run = run_next(local_azure, name, 2)
    assert (run.status, json.loads(written(local_azure, name, run)["summary.json"])["rows"]) == ("Completed", 0)

    client = local_azure.ml_client(local_azure.endpoints["targets"]["prod"])
    client.schedules.begin_disable(name).result()
    row = promoted(local_azure, name, notebook.custom_script(tmp_path / "two"), "2")
    assert (row["state"], row["result"]["schedule_enabled"]) == ("succeeded", False), "a pause by hand is kept"
    schedule = client.schedules.get(name)
    assert schedule.is_enabled is False
    assert schedule.tags["promotion-version"] == "2"
    endpoint = client.batch_endpoints.get(name)
    assert endpoint.defaults.deployment_name == row["result"]["deployment"]
    names = [deployment.name for deployment in client.batch_deployments.list(name)]
    assert names == [row["result"]["deployment"]], "the version before is retired"


def worse(trained: Trained, code: str) -> Trained:
    """The same model with this at the end of its scoring script."""
    script = trained.folder / "score.py"
    script.write_text(script.read_text() + code)
    return trained


def test_a_version_that_scores_worse_changes_nothing(local_azure: LocalAzure, tmp_path: Path) -> None:
    """One version cannot score at all, which is told with the script's own words; another fails for one file more."""
    name = "compared-wine"
    good = notebook.custom_script(tmp_path / "good")
    rows = good.rows
    put(local_azure, name, {"few.csv": rows.head(3).to_csv(index=False), "many.csv": rows.to_csv(index=False)})
    live = promoted(local_azure, name, good)
    assert live["state"] == "succeeded", live["why"]

    broken = "\ndef run(data):\n    raise ZeroDivisionError('divides by nothing')\n"
    row = promoted(local_azure, name, worse(notebook.custom_script(tmp_path / "broken"), broken), "2")
    assert (row["state"], row["reason"]) == ("refused", "test_job_failed"), row["why"]
    assert "divides by nothing" in row["result"]["log"]

    picky = "\n_run = run\ndef run(data):\n    assert len(json.loads(data)['data']) > 3\n    return _run(data)\n"
    row = promoted(local_azure, name, worse(notebook.custom_script(tmp_path / "picky"), picky), "3")
    assert (row["state"], row["reason"]) == ("refused", "comparison_failed"), row["why"]
    assert "1 of its files failed, 0 of the version that is live" in row["why"]

    client = local_azure.ml_client(local_azure.endpoints["targets"]["prod"])
    assert client.batch_endpoints.get(name).defaults.deployment_name == live["result"]["deployment"]
    assert client.schedules.get(name).tags["promotion-version"] == "1"


def test_a_model_goes_to_one_target_as_endpoint_and_to_the_next_as_batch(
    local_azure: LocalAzure, tmp_path: Path
) -> None:
    """Without a schedule there is the batch endpoint alone; anybody may ask it for a run."""
    name = "both-wine"
    trained = notebook.mlflow(tmp_path)
    register(local_azure, name, trained)

    def all_ended() -> Any:
        rows = local_azure.promotions_of(name)
        return rows if len(rows) == 2 and {row["state"] for row in rows} == {"succeeded"} else None

    rows = {row["serve"]: row for row in local_azure.wait_for(all_ended, what="both stages", seconds=150)}
    assert rows["batch"]["result"]["schedule"] is None
    from azure.ai.ml import Input

    local_azure.target_files("prod").upload_blob("asked/rows.csv", trained.rows.to_csv(index=False).encode())
    client = local_azure.ml_client(local_azure.endpoints["targets"]["prod"])
    data = Input(type="uri_folder", path="azureml://datastores/workspaceblobstore/paths/asked/")
    job = client.batch_endpoints.invoke(endpoint_name=rows["batch"]["endpoint"], inputs={"data": data})

    def ended() -> Any:
        found = client.jobs.get(job.name)
        return found if found.status in ("Completed", "Failed") else None

    assert local_azure.wait_for(ended, what="the job of the batch endpoint", seconds=90).status == "Completed"
