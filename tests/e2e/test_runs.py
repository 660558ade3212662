"""Completed runs whose output nobody has registered: from the end of the run to predictions in the target."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from core import runs
from demo.azure import files_of, jobs_of
from demo.models import Trained, automl, designer
from tests import models
from tests.e2e.test_realtime import ask
from tests.local import LocalAzure

ASKS = {"promote-run": "yes"}
LAB = "ml-test"


def run_all(azure: LocalAzure, trained: Trained, experiment: str, workspace: str, tags: Mapping[str, str]) -> str:
    """Let the job of a model and the runs in it run to their ends, the innermost first; the name of the job."""
    jobs = jobs_of(trained)
    for job in jobs:
        own = {"tags": job.get("tags", {}) | tags} if not job.get("parent") else {}
        azure.control.post(f"/azure-ml/{workspace}/jobs", {**job, "experiment": experiment, **own})
    for job in reversed(jobs):
        azure.control.post(f"/azure-ml/{workspace}/jobs/{job['name']}/finish", {})
    return str(jobs[0]["name"])


def event_of(azure: LocalAzure, subject: str) -> dict[str, Any]:
    """What became of the event with this end of its subject."""

    def found() -> dict[str, Any] | None:
        events = [event for event in azure.api("events")["events"] if event["subject"].endswith(subject)]
        return events[0] if events else None

    return azure.wait_for(found, what=f"the event of {subject}")


def versions(azure: LocalAzure, workspace: Mapping[str, str], name: str) -> list[Any]:
    return list(azure.ml_client(workspace).models.list(name))


def test_the_best_trial_of_automated_ml_is_promoted_and_its_registration_promotes_nothing_twice(
    local_azure: LocalAzure, tmp_path: Path
) -> None:
    from azure.ai.ml.entities import Model

    name, trained = "run-automl", automl.older_form(tmp_path / "run")
    source = local_azure.endpoints["source"]

    job = run_all(local_azure, trained, name, source["workspace"], ASKS)

    row = local_azure.wait_for_end(name, runs.version_of(job), seconds=150)
    assert (row["state"], row["origin"], row["trigger"]) == ("succeeded", "automl", "run_completed"), row
    assert f"run {job} completed, its output is azureml://jobs/{trained.run}/outputs/" in row["evidence"]
    assert trained.answers(ask(local_azure, row, trained.request)) == pytest.approx(trained.predictions)
    copy = local_azure.ml_client(local_azure.endpoints["targets"]["prod"]).models.get(name, row["version"])
    assert copy.tags["promotion-run"] == job
    trial = event_of(local_azure, f"/runs/{trained.run}")
    assert (trial["outcome"], trial["reason"]) == ("ignored", "not_a_trigger")

    by_hand = Model(name=name, path=trained.model_path, type=trained.model_type, tags=ASKS)
    version = local_azure.ml_client(source).models.create_or_update(by_hand).version

    event = event_of(local_azure, f"models/{name}:{version}")
    assert (event["outcome"], event["reason"]) == ("ignored", "promoted_from_run")
    assert event["promotion_id"] == row["id"]
    assert [found["id"] for found in local_azure.promotions_of(name)] == [row["id"]]


def test_the_model_of_a_designer_pipeline_is_registered_where_the_source_allows_it_and_promoted_once(
    local_azure: LocalAzure, tmp_path: Path
) -> None:
    """The registration raises an event of its own, which asks for nothing that the run has not asked for."""
    name, trained = "run-designer", designer.trained_model(tmp_path / "run")

    job = run_all(local_azure, trained, name, LAB, ASKS)

    version = runs.version_of(job)
    row = local_azure.wait_for_end(name, version, seconds=150)
    assert (row["state"], row["origin"], row["source"]) == ("succeeded", "designer", "lab"), row
    assert trained.answers(ask(local_azure, row, trained.request)) == trained.predictions
    (registered,) = versions(local_azure, local_azure.endpoints["targets"]["test"], name)
    assert (registered.version, registered.tags, registered.job_name) == (version, {"promotion-run": job}, trained.run)
    event = event_of(local_azure, f"models/{name}:{version}")
    assert (event["outcome"], event["reason"]) == ("ignored", "promoted_from_run")
    assert event["promotion_id"] == row["id"]
    assert [found["id"] for found in local_azure.promotions_of(name)] == [row["id"]]


def test_of_two_models_of_a_job_the_one_that_the_rule_names_is_promoted(
    local_azure: LocalAzure, tmp_path: Path
) -> None:
    first, second = (models.regression_with_example(tmp_path, slope=slope) for slope in (3.0, 5.0))
    job = {"name": "two_models", "jobType": "Command", "experiment": "two-models"}
    files = files_of(first.folder, "outputs/first/") | files_of(second.folder, "outputs/second/")
    local_azure.control.post("/azure-ml/ml-dev/jobs", {**job, "files": files})

    local_azure.control.post("/azure-ml/ml-dev/jobs/two_models/finish", {})

    row = local_azure.wait_for_end("run-of-two-models", "two_models")
    assert (row["state"], row["origin"]) == ("succeeded", "notebook")
    assert ask(local_azure, row, second.request) == pytest.approx(second.expected)
    assert versions_are_none(local_azure, "run-of-two-models"), "the service only reads this source"


def versions_are_none(azure: LocalAzure, name: str) -> bool:
    listed = azure.control.get("/azure-ml/ml-dev/resources")["assets"].get("models", [])
    return not any(found.startswith(f"{name}:") for found in listed)


def test_an_output_that_is_not_clear_is_refused_and_says_what_to_put_into_the_policy(
    local_azure: LocalAzure,
) -> None:
    files = {"a/MLmodel": "flavors: {}", "b/MLmodel": "flavors: {}"}
    job = {"name": "unclear_job", "jobType": "Command", "experiment": "unclear", "tags": ASKS, "files": files}
    local_azure.control.post("/azure-ml/ml-dev/jobs", job)

    local_azure.control.post("/azure-ml/ml-dev/jobs/unclear_job/finish", {})

    event = event_of(local_azure, "/runs/unclear_job")
    assert (event["outcome"], event["reason"]) == ("refused", "run_output_unclear")
    assert event["why"].endswith("may be the model: a, b")
    assert event["remedy"] == "Say in rule 'from-runs' which one is meant, such as `output: a`."


def test_a_run_that_failed_is_recorded_and_never_promoted(local_azure: LocalAzure) -> None:
    job = {"name": "failed_job", "jobType": "Command", "experiment": "failing", "tags": ASKS}
    local_azure.control.post("/azure-ml/ml-dev/jobs", job)

    local_azure.control.post("/azure-ml/ml-dev/jobs/failed_job/finish", {"status": "Failed"})

    event = event_of(local_azure, "/runs/failed_job")
    assert (event["outcome"], event["reason"]) == ("ignored", "run_failed")
    assert local_azure.promotions_of("failing") == []
