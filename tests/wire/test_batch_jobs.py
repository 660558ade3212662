"""Pipeline jobs that the unmodified client library submits: each step is a process, and what it writes is in storage."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from azure.ai.ml import Input, dsl
from azure.ai.ml.constants import AssetTypes
from azure.ai.ml.entities import Model

from emulator.topology import DATA_SCIENTIST, DEV, TEST
from tests.wire.azure_ml_clients import Azure, Emulator, azure, outcomes
from tests.wire.batch_workspace import DATASTORE, BatchWorkspace, until, work
from tests.wire.conftest import on_a_thread

__all__ = ["azure", "outcomes", "work"]

FOLDER, FILE = {"type": "uri_folder"}, {"type": "uri_file"}
FROM_PARENT = {"data": "${{parent.inputs.data}}"}
SCORE = """
import argparse
from pathlib import Path

def init():
    global suffix
    parser = argparse.ArgumentParser()
    parser.add_argument("--suffix", default="")
    suffix = parser.parse_known_args()[0].suffix

def run(mini_batch):
    print("scoring", len(mini_batch))
    return [f"{Path(path).name}={Path(path).read_text()}{suffix}" for path in mini_batch if "bad" not in path]
"""


def copying(work: BatchWorkspace, suffix: str = "copy", **more: Any) -> str:
    """A step that copies a folder."""
    command = "cp -r ${{inputs.data}}/. ${{outputs.copy}}"
    return work.command(suffix, command, inputs={"data": FOLDER}, outputs={"copy": FOLDER}, **more)


def single(work: BatchWorkspace, component: str, output: str = "copy", kind: str = "uri_folder", **node: Any) -> str:
    """A pipeline of one step, over the input `data`; its output is the pipeline's."""
    step = {"component": component, "inputs": FROM_PARENT, "outputs": {output: f"${{{{parent.outputs.{output}}}}}"}}
    return work.pipeline("pipe", {"step": step | node}, inputs={"data": FOLDER}, outputs={output: {"type": kind}})


# What a step is given, and where its output goes


def test_steps_follow_each_other_and_leave_their_files(work: BatchWorkspace) -> None:
    """The second is written first: what a step needs decides the order."""
    script = "import sys\nfrom pathlib import Path\nimport names\nnames.upper(Path(sys.argv[1]), Path(sys.argv[2]))\n"
    names = (
        "def upper(source, target):\n"
        "    for file in source.rglob('*.txt'):\n"
        "        (target / file.name).write_text(file.read_text().upper())\n"
    )
    upper = work.command(
        "upper",
        "python main.py ${{inputs.text}} ${{outputs.upper}} && printf '%s' '${{inputs.note}}' > ${{outputs.upper}}/note",
        {"main.py": script, "names/__init__.py": names},
        inputs={"text": FOLDER, "note": {"type": "string", "default": "none"}},
        outputs={"upper": FOLDER},
    )
    pipeline = work.pipeline(
        "pipe",
        {
            "upper": {
                "component": upper,
                "inputs": {"text": "${{parent.jobs.copy.outputs.copy}}", "note": "${{parent.inputs.note}}"},
                "outputs": {"upper": "${{parent.outputs.result}}"},
            },
            "copy": {"component": copying(work), "inputs": FROM_PARENT},
        },
        inputs={"data": FOLDER, "note": {"type": "string", "default": "from the pipeline"}},
        outputs={"result": FOLDER},
    )
    data = work.put("in", {"a.txt": "one", "deep/b.txt": "two"})
    job = work.run(pipeline, inputs={"data": data}, outputs={"result": work.place("out/${{name}}/")})
    assert job.status == "Completed", work.why(job.name)
    assert work.files(f"out/{job.name}/") == {"a.txt": "ONE", "b.txt": "TWO", "note": "from the pipeline"}
    copy, upper_run = (work.steps(job.name)[name] for name in ("copy", "upper"))
    assert copy["status"] == upper_run["status"] == "Completed"
    assert {run["parentRunId"] for run in (copy, upper_run)} == {run["rootRunId"] for run in (copy, upper_run)}
    assert copy["rootRunId"] == job.name
    assert work.files(f"/azureml/{copy['runId']}/copy/") == {"a.txt": "one", "deep/b.txt": "two"}


def test_a_step_is_told_what_it_is_part_of(work: BatchWorkspace) -> None:
    names = ("RUN_ID", "ROOT_RUN_ID", "ARM_SUBSCRIPTION", "ARM_RESOURCEGROUP", "ARM_WORKSPACE_NAME")
    asked = " ".join(f"$AZUREML_{name}" for name in names)
    command = f'echo {asked} $COLOUR; test -z "$MSI_SECRET$IDENTITY_HEADER$HTTPS_PROXY" && ls ${{{{inputs.data}}}}'
    step = work.command("env", command, inputs={"data": FOLDER})
    node = {"component": step, "inputs": FROM_PARENT, "environment_variables": {"COLOUR": "green"}}
    pipeline = work.pipeline("pipe", {"env": node}, inputs={"data": FOLDER})
    job = work.run(pipeline, inputs={"data": work.put("in", {"a": "x"})})
    run = work.steps(job.name)["env"]
    told = f"{run['runId']} {job.name} {DEV.subscription_id} {DEV.resource_group} {DEV.name} green\na\n"
    assert (job.status, work.log(run["runId"])) == ("Completed", told)


def test_registered_models_and_single_files_are_inputs(work: BatchWorkspace, tmp_path: Path) -> None:
    folder = work.code({"model.txt": "weights", "code/x.py": ""})
    model = work.ml.models.create_or_update(Model(name=work.name, path=folder, type=AssetTypes.CUSTOM_MODEL))
    shown = work.command(
        "show",
        "find ${{inputs.model}} -type f -printf '%P\\n' | sort > ${{outputs.list}}; cat ${{inputs.file}} >> ${{outputs.list}}",
        inputs={"model": {"type": "custom_model"}, "file": FILE},
        outputs={"list": FILE},
    )
    pinned = {"type": "custom_model", "path": f"azureml:{model.id}", "mode": "download"}
    step = {
        "component": shown,
        "inputs": {"model": pinned, "file": "${{parent.inputs.file}}"},
        "outputs": {"list": "${{parent.outputs.list}}"},
    }
    pipeline = work.pipeline("pipe", {"show": step}, inputs={"file": FILE}, outputs={"list": FILE})
    work.put("in", {"one.txt": "the file"})
    file = Input(type="uri_file", path=f"{DATASTORE}/{work.name}/in/one.txt")
    job = work.run(pipeline, inputs={"file": file}, outputs={"list": work.place("list.txt", "uri_file")})
    assert job.status == "Completed", work.why(job.name)
    assert work.files("list.txt") == {"": "code/x.py\nmodel.txt\nthe file"}


def test_a_file_that_is_not_there_is_named(work: BatchWorkspace) -> None:
    step = work.command("cat", "cat ${{inputs.file}}", inputs={"file": FILE})
    node = {"component": step, "inputs": {"file": "${{parent.inputs.file}}"}}
    pipeline = work.pipeline("pipe", {"cat": node}, inputs={"file": FILE})
    missing = f"{DATASTORE}/{work.name}/nowhere.csv"
    job = work.run(pipeline, inputs={"file": Input(type="uri_file", path=missing)})
    assert job.status == "Failed"
    assert "Input file of step cat is not there" in work.why(job.name)["cat"]
    assert "nowhere.csv" in work.why(job.name)["cat"]


def test_a_read_write_mount_shows_what_is_there_and_forgets_what_was_deleted(work: BatchWorkspace) -> None:
    command = (
        "ls ${{outputs.state}} | tr '\\n' ' '; rm ${{outputs.state}}/old; echo new > ${{outputs.state}}/new; exit 3"
    )
    step = work.command("state", command, outputs={"state": FOLDER})
    node = {"component": step, "outputs": {"state": "${{parent.outputs.state}}"}}
    pipeline = work.pipeline("pipe", {"state": node}, outputs={"state": FOLDER})
    work.put("state", {"old": "x", "kept": "y"})
    job = work.run(pipeline, outputs={"state": work.place("state/", mode="rw_mount")})
    assert work.log(work.steps(job.name)["state"]["runId"]) == "kept old "
    assert job.status == "Failed", "a mount keeps what a step wrote before it failed"
    assert work.files("state/") == {"kept": "y", "new": "new\n"}


def test_steps_may_stand_in_the_job_itself(work: BatchWorkspace) -> None:
    """And a pipeline component may be one of them: the form of a job that Azure ML documents."""
    copying(work)
    single(work, f"{DEV.arm_id}/components/{work.name}_copy/versions/1")
    copy: Any = work.ml.components.get(f"{work.name}_copy", "1")
    inner: Any = work.ml.components.get(f"{work.name}_pipe", "1")

    def both(data: Input) -> Any:
        first = copy(data=data)
        second = inner(data=first.outputs["copy"])
        return {"result": second.outputs["copy"]}

    wanted: Any = dsl.pipeline(both)(data=work.put("in", {"a": "x"}))
    wanted.settings.default_compute = "cpu-cluster"
    wanted.outputs.result = work.place("out/")
    job = work.ended(work.ml.jobs.create_or_update(wanted, experiment_name=work.name).name)
    assert job.status == "Completed", work.why(job.name)
    assert work.files("out/") == {"a": "x"}


# How a job ends


def test_what_a_failed_step_wrote_is_its_reason(azure: Azure, work: BatchWorkspace) -> None:
    step = work.command("fail", "echo begins; echo the reason >&2; exit 7", inputs={"data": FOLDER})
    never = work.command("never", "touch ${{outputs.copy}}/x", inputs={"data": FOLDER}, outputs={"copy": FOLDER})
    after = copying(work)
    jobs = {
        "fail": {"component": step, "inputs": FROM_PARENT},
        "never": {"component": never, "inputs": FROM_PARENT},
        "copy": {"component": after, "inputs": {"data": "${{parent.jobs.never.outputs.copy}}"}},
    }
    pipeline = work.pipeline("pipe", jobs, inputs={"data": FOLDER})
    job = work.run(pipeline, inputs={"data": work.put("in", {"a": "x"})})
    assert job.status == "Failed"
    assert "exit code 7" in work.why(job.name)["fail"]
    assert "the reason" in work.why(job.name)["fail"]
    run = work.steps(job.name)["fail"]["runId"]
    assert work.log(run) == "begins\nthe reason\n"
    ends = {event["data"]["runId"]: event for event in azure.events() if event["subject"].startswith("experiments/")}
    assert ends[job.name]["eventType"].endswith(".RunStatusChanged")
    assert ends[job.name]["data"]["runStatus"] == "failed"
    details = azure.data_plane("GET", DEV, f"/history/v1.0{DEV.arm_id}/runs/{run}/details").json()
    assert azure.score(details["logFiles"]["user_logs/std_log.txt"], None, None, method="GET").text == work.log(run)


def test_the_end_of_a_job_is_announced(azure: Azure, work: BatchWorkspace) -> None:
    job = work.run(single(work, copying(work)), inputs={"data": work.put("in", {"a": "x"})}, tags={"a": "b"})
    (event,) = [each for each in azure.events() if each["subject"].endswith(f"/runs/{job.name}")]
    assert event["eventType"] == "Microsoft.MachineLearningServices.RunCompleted"
    assert event["data"]["runTags"] == {"a": "b"}
    assert work.files(f"/azureml/{job.name}/copy/") == {"a": "x"}


def test_a_job_is_started_once(work: BatchWorkspace) -> None:
    """Its name is its own: a second PUT changes tags."""
    pipeline = single(work, copying(work))
    wanted = work.job(pipeline, inputs={"data": work.put("in", {"a": "x"})}, name=f"{work.name}-job")
    for tag in ("first", "second"):
        wanted.tags = {"put": tag}
        work.ml.jobs.create_or_update(wanted)
    job = work.ended(str(wanted.name))
    assert (job.status, job.tags, len(work.steps(job.name))) == ("Completed", {"put": "second"}, 1)


def test_a_cancelled_job_is_stopped(work: BatchWorkspace, tmp_path: Path) -> None:
    command = f"touch {tmp_path}/begun; sleep 300 & wait; touch {tmp_path}/over"
    step = work.command("sleep", command, inputs={"data": FOLDER})
    pipeline = work.pipeline("pipe", {"sleep": {"component": step, "inputs": FROM_PARENT}}, inputs={"data": FOLDER})
    job = work.ml.jobs.create_or_update(work.job(pipeline, inputs={"data": work.put("in", {"a": "x"})}))
    until((tmp_path / "begun").exists, "the step begins")
    work.ml.jobs.begin_cancel(job.name).result()
    assert work.ml.jobs.get(job.name).status == "Canceled"
    assert work.steps(job.name)["sleep"]["status"] == "Canceled"
    assert not (tmp_path / "over").exists()


def test_steps_end_with_the_local_azure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No process is left behind, nor what it started."""
    pids = tmp_path / "pids"
    with on_a_thread(lambda: Emulator(tmp_path)) as emulator:
        for name, value in emulator.identities.environment(DATA_SCIENTIST).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("HTTPS_PROXY", emulator.gateway.proxy_url)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(emulator.ca.ca_bundle))
        work = BatchWorkspace(Azure(emulator), DEV, tmp_path)
        step = work.command("sleep", f"sleep 300 & echo $$ $! > {pids}.new; mv {pids}.new {pids}; wait")
        pipeline = work.pipeline("pipe", {"sleep": {"component": step}})
        work.ml.jobs.create_or_update(work.job(pipeline))
        until(pids.exists, "the step begins")
        running = [int(pid) for pid in pids.read_text().split()]
        assert all(psutil.pid_exists(pid) for pid in running)
    assert len(running) == 2
    # What was killed is gone once whoever inherited it has looked.
    until(lambda: not any(map(psutil.pid_exists, running)), "all of them end", seconds=10)


def test_jobs_of_one_name_in_two_workspaces_are_two(work: BatchWorkspace, azure: Azure, tmp_path: Path) -> None:
    other = BatchWorkspace(azure, TEST, tmp_path)
    command = (
        f"until test -e {tmp_path}/go; do sleep 0.05; done; echo $AZUREML_ARM_WORKSPACE_NAME > ${{{{outputs.o}}}}/w"
    )
    for each in (work, other):
        step = each.command("wait", command, outputs={"o": FOLDER})
        node = {"component": step, "outputs": {"o": "${{parent.outputs.o}}"}}
        pipeline = each.pipeline("pipe", {"wait": node}, outputs={"o": FOLDER})
        each.ml.jobs.create_or_update(each.job(pipeline, name=f"{work.name}-job", outputs={"o": each.place("out/")}))
        until(partial(each.steps, f"{work.name}-job"), "its step begins")
    (tmp_path / "go").touch()
    assert [each.ended(f"{work.name}-job").status for each in (work, other)] == ["Completed"] * 2
    assert [each.files("out/")["w"] for each in (work, other)] == [f"{DEV.name}\n", f"{TEST.name}\n"]


def test_a_job_that_nothing_runs_can_be_cancelled(azure: Azure, work: BatchWorkspace) -> None:
    azure.control("POST", "/azure-ml/dev/jobs", {"name": work.name, "jobType": "Command"})
    work.ml.jobs.begin_cancel(work.name).result()
    assert work.ml.jobs.get(work.name).status == "Canceled"


def test_jobs_fail_and_wait_as_planted(
    azure: Azure, work: BatchWorkspace, outcomes: Callable[..., dict[str, Any]]
) -> None:
    """By a pattern of the job's name, display name or experiment."""
    pipeline, data = single(work, copying(work)), work.put("in", {"a": "x"})
    outcomes(kind="job", job=work.name, message="No node could be had.")
    failed = work.run(pipeline, inputs={"data": data})
    assert failed.status == "Failed"
    path = f"/history/v1.0{DEV.arm_id}/runs/{failed.name}"
    assert "No node could be had." in azure.data_plane("GET", DEV, path).json()["error"]["error"]["message"]
    held = outcomes(kind="job", job=f"{work.name}-held*", outcome="stick")
    waiting = work.ml.jobs.create_or_update(work.job(pipeline, inputs={"data": data}, name=f"{work.name}-held-1"))
    other = work.run(pipeline, inputs={"data": data})
    assert (other.status, work.ml.jobs.get(waiting.name).status) == ("Completed", "Starting")
    azure.control("DELETE", f"/azure-ml/outcomes/{held['number']}")
    assert work.ended(waiting.name).status == "Completed"


# What is refused


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"componentId": "{workspace}/components/nowhere/versions/1"}, "nowhere"),
        ({"settings": {"default_compute": "{workspace}/computes/gpu"}}, "gpu"),
        ({"inputs": {}}, "data"),
        (
            {"inputs": {"data": {"jobInputType": "custom_model", "uri": "{workspace}/models/gone/versions/1"}}},
            "models/gone/versions/1",
        ),
        ({"componentId": "{workspace}/components/{name}_copy/versions/1"}, "pipeline"),
    ],
)
def test_a_job_that_refers_to_what_is_not_there_is_refused(
    azure: Azure, work: BatchWorkspace, changes: dict[str, Any], named: str
) -> None:
    good = {
        "jobType": "Pipeline",
        "componentId": single(work, copying(work)),
        "settings": {"default_compute": "cpu-cluster"},
        "inputs": {"data": {"jobInputType": "uri_folder", "uri": f"{DATASTORE}/x/"}},
    }
    text = json.dumps(changes).replace("{workspace}", DEV.arm_id).replace("{name}", work.name)
    body = {"properties": good | json.loads(text)}
    answer = azure.arm("PUT", f"{DEV.arm_id}/jobs/{work.name}", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "UserError"
    assert named in answer.json()["error"]["message"]
    assert azure.arm("GET", f"{DEV.arm_id}/jobs/{work.name}").status_code == 404


@pytest.mark.parametrize(
    ("bound", "named"), [("${{parent.inputs.nothing}}", "nothing"), ("${{parent.jobs.nobody.outputs.copy}}", "nobody")]
)
def test_a_binding_to_what_the_pipeline_does_not_have_is_refused(
    azure: Azure, work: BatchWorkspace, bound: str, named: str
) -> None:
    node = {"componentId": copying(work), "inputs": {"data": {"job_input_type": "literal", "value": bound}}}
    properties = {"jobType": "Pipeline", "jobs": {"a": node}, "settings": {"default_compute": "cpu-cluster"}}
    answer = azure.arm("PUT", f"{DEV.arm_id}/jobs/{work.name}", json={"properties": properties})
    assert answer.status_code == 400, answer.text
    assert named in answer.json()["error"]["message"]


# Parallel steps


def test_a_parallel_step_scores_all_files_in_mini_batches(work: BatchWorkspace) -> None:
    step = work.parallel("score", SCORE, "--suffix '!'", mini_batch_size="2")
    pipeline = single(work, step, "scores", "uri_file", type="parallel")
    data = work.put("in", {"b": "2", "a": "1", "deep/c": "3"})
    job = work.run(pipeline, inputs={"data": data}, outputs={"scores": work.place("scores.txt", "uri_file")})
    assert job.status == "Completed", work.why(job.name)
    assert work.files("scores.txt") == {"": "a=1!\nb=2!\nc=3!\n"}
    log = work.log(work.steps(job.name)["step"]["runId"])
    assert (log.count("scoring 2"), log.count("scoring 1")) == (1, 1)


@pytest.mark.parametrize(
    ("more", "arguments", "status"),
    [
        ({}, "", "Completed"),
        ({"mini_batch_error_threshold": 0}, "", "Failed"),
        ({"mini_batch_error_threshold": 1}, "", "Completed"),
        ({"error_threshold": 0}, "", "Failed"),
        ({}, "--error_threshold 0", "Failed"),
        ({"error_threshold": 1}, "--allowed_failed_percent=49", "Failed"),
        ({}, "--allowed_failed_percent 50", "Completed"),
    ],
)
def test_thresholds_decide_whether_failures_matter(
    work: BatchWorkspace, more: dict[str, Any], arguments: str, status: str
) -> None:
    """One of two files fails; unless thresholds say so, nobody minds."""
    step = work.parallel("score", SCORE, arguments, **more)
    data = work.put("in", {"good": "1", "bad": "2"})
    job = work.run(single(work, step, "scores", "uri_file", type="parallel"), inputs={"data": data})
    assert job.status == status, work.why(job.name)
    if status == "Failed":
        run = work.steps(job.name)["step"]["runId"]
        assert "failed" in work.log(run, "logs/job_error.txt")


def test_a_parallel_step_without_any_file_fails(work: BatchWorkspace) -> None:
    pipeline = single(work, work.parallel("score", SCORE), "scores", "uri_file", type="parallel")
    empty = Input(type="uri_folder", path=f"{DATASTORE}/{work.name}/empty/")
    job = work.run(pipeline, inputs={"data": empty})
    assert job.status == "Failed"
    assert "is empty" in work.why(job.name)["step"]
