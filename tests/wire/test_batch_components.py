"""Components and computes, by the unmodified client library."""

from typing import Any

import pytest
from azure.ai.ml.constants import ListViewType
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

from emulator.topology import DEV, PROD
from tests.wire.azure_ml_clients import Azure, azure
from tests.wire.batch_workspace import BatchWorkspace, work

__all__ = ["azure", "work"]

FOLDER = {"type": "uri_folder"}
SCORE = "def init(): pass\ndef run(batch): return batch\n"


def echo(work: BatchWorkspace, text: str = "hello", version: str | None = "1", **more: Any) -> str:
    description = {"type": "command", "command": f"echo {text}", "environment": f"azureml:{work.environment}"}
    return work.component("echo", description | more, version)


def test_a_component_of_each_type_comes_back(work: BatchWorkspace) -> None:
    arguments = "--out ${{outputs.scores}}"
    score = work.parallel("score", SCORE, arguments, error_threshold=0, retry_settings={"timeout": 9, "max_retries": 1})
    node = {"type": "parallel", "component": score, "inputs": {"data": "${{parent.inputs.data}}"}}
    work.pipeline("pipe", {"score": node}, inputs={"data": FOLDER}, outputs={"scores": FOLDER})
    parallel: Any = work.ml.components.get(f"{work.name}_score", "1")
    assert parallel.type == "parallel"
    assert (parallel.mini_batch_size, parallel.error_threshold, parallel.retry_settings.timeout) == (1, 0, 9)
    assert parallel.task.environment.endswith(f"/environments/{work.name}/versions/1")
    assert parallel.task.program_arguments == arguments
    assert parallel.creation_context.created_by == "data-scientist"
    pipeline: Any = work.ml.components.get(f"{work.name}_pipe", "1")
    assert pipeline.type == "pipeline"
    assert list(pipeline.jobs) == ["score"]
    echo(work, tags={"a": "b"})
    command: Any = work.ml.components.get(f"{work.name}_echo", "1")
    assert (command.command, command.tags) == ("echo hello", {"a": "b"})


def test_a_version_keeps_its_content(work: BatchWorkspace) -> None:
    """The same again is fine, and so are other tags."""
    made = echo(work)
    assert echo(work, tags={"a": "b"}) == made
    with pytest.raises(HttpResponseError, match="already exists with another componentSpec") as refused:
        echo(work, "other")
    assert refused.value.status_code == 409
    kept: Any = work.ml.components.get(f"{work.name}_echo", "1")
    assert (kept.command, kept.tags) == ("echo hello", {"a": "b"})


def test_code_that_was_uploaded_once_is_used_again(work: BatchWorkspace) -> None:
    files = {"main.py": f"print('{work.name}')"}
    first, second = (work.command(suffix, "python main.py", files) for suffix in ("one", "two"))
    one, two = (work.ml.components.get(f"{work.name}_{suffix}", "1") for suffix in ("one", "two"))
    assert first != second
    assert getattr(one, "code", None) == getattr(two, "code", "") != ""


def test_versions_are_counted_listed_and_archived(work: BatchWorkspace) -> None:
    name = f"{work.name}_echo"
    for version in ("1", "7"):
        echo(work, version, version)
    assert echo(work, "more", version=None).endswith("/versions/8")
    assert {each.version for each in work.ml.components.list(name)} == {"1", "7", "8"}
    work.ml.components.archive(name, version="7")
    assert {each.version for each in work.ml.components.list(name)} == {"1", "8"}
    archived = work.ml.components.list(name, list_view_type=ListViewType.ARCHIVED_ONLY)
    assert [each.version for each in archived] == ["7"]
    work.ml.components.restore(name, version="7")
    assert work.ml.components.get(name, version="7").version == "7"
    with pytest.raises(ResourceNotFoundError):
        work.ml.components.get(name, "2")


@pytest.mark.parametrize(
    ("specification", "missing"),
    [
        (
            {"type": "command", "command": "x", "environment": "azureml:{ws}/environments/gone/versions/1"},
            "environments",
        ),
        ({"type": "parallel", "task": {"environment": "{env}", "code": "azureml:{ws}/codes/gone/versions/1"}}, "codes"),
        ({"type": "pipeline", "jobs": {"a": {"componentId": "{ws}/components/gone/versions/1"}}}, "components"),
        (
            {
                "type": "pipeline",
                "jobs": {
                    "a": {
                        "componentId": "{ws}/components/{name}_echo/versions/1",
                        "inputs": {"m": {"job_input_type": "custom_model", "uri": "{ws}/models/gone/versions/1"}},
                    }
                },
            },
            "models",
        ),
    ],
)
def test_what_a_component_refers_to_must_be_there(
    azure: Azure, work: BatchWorkspace, specification: dict[str, Any], missing: str
) -> None:
    echo(work)
    filled = _filled(specification, {"{ws}": DEV.arm_id, "{env}": f"azureml:{work.environment}", "{name}": work.name})
    path = f"{DEV.arm_id}/components/{work.name}_new/versions/1"
    answer = azure.arm("PUT", path, json={"properties": {"componentSpec": filled}})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "UserError")
    assert f"{missing}/gone/versions/1" in error["message"]
    assert azure.arm("GET", f"{DEV.arm_id}/components/{work.name}_new").status_code == 404


def test_each_workspace_has_a_cluster(azure: Azure) -> None:
    for spec in (DEV, PROD):
        ml = azure.client(spec)
        cluster: Any = ml.compute.get("cpu-cluster")
        assert (cluster.provisioning_state, cluster.location, cluster.type) == (
            "Succeeded",
            spec.location,
            "amlcompute",
        )
        assert cluster.min_instances < cluster.max_instances
        assert cluster.identity.type == "system_assigned"
        assert [each.name for each in ml.compute.list()] == ["cpu-cluster"]
        with pytest.raises(ResourceNotFoundError, match="gpu"):
            ml.compute.get("gpu")


def _filled(value: Any, names: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _filled(each, names) for key, each in value.items()}
    for name, text in names.items():
        value = value.replace(name, text)
    return value
