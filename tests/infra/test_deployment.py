"""What is deployed, and by whom: the package, and the pipelines."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.infra.package import REPOSITORY, deployed, ignored

NEEDED = ("core", "functions", "function_app.py", "host.json", "requirements.txt", "promotion.yaml")
GITHUB, DEVOPS = ".github/workflows/deploy.yml", "azure-pipelines.yml"


def pipeline(path: str) -> dict[Any, Any]:
    found: dict[Any, Any] = yaml.safe_load((REPOSITORY / path).read_text(encoding="utf-8"))
    return found


def texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for each in value.values() for text in texts(each)]
    return [text for each in value for text in texts(each)] if isinstance(value, list) else [str(value)]


def test_the_package_holds_the_app_and_nothing_else() -> None:
    assert [name for name in NEEDED if ignored(name)] == []
    assert {path.parts[0] for path in deployed()} == {*NEEDED} - {"promotion.yaml"}
    there = {path.name for path in REPOSITORY.iterdir()}
    assert {name for name in there if not ignored(name)} <= {*NEEDED, "node_modules"}


@pytest.mark.parametrize("path", [GITHUB, DEVOPS])
def test_a_pipeline_checks_and_then_deploys_and_has_no_secret(path: str) -> None:
    content = (REPOSITORY / path).read_text(encoding="utf-8")
    steps = texts(pipeline(path))

    assert "make check" in steps
    assert "az bicep build --file infra/main.bicep --stdout > /dev/null" in steps
    assert any("azd deploy --no-prompt" in step for step in steps)
    assert not any("azd provision" in step or "azd up" in step for step in steps)
    assert not re.search(r"secrets\.|password|client-secret|AZURE_CREDENTIALS", content, re.IGNORECASE)


def test_only_the_job_that_deploys_gets_a_token_of_github() -> None:
    workflow = pipeline(GITHUB)
    check, deploy = workflow["jobs"]["check"], workflow["jobs"]["deploy"]

    assert workflow["permissions"] == {"contents": "read"}
    assert "permissions" not in check
    assert deploy["permissions"] == {"contents": "read", "id-token": "write"}
    assert deploy["needs"] == "check"
    assert "refs/heads/main" in deploy["if"]
    assert deploy["env"]["PROMOTION_SUBSCRIBE"] == "true"


def test_the_stage_that_deploys_comes_after_the_check_in_azure_devops() -> None:
    check, deploy = pipeline(DEVOPS)["stages"]

    assert deploy["dependsOn"] == check["stage"] == "check"
    assert "refs/heads/main" in deploy["condition"]
    (job,) = deploy["jobs"]
    *_, step = job["strategy"]["runOnce"]["deploy"]["steps"]
    assert step["task"] == "AzureCLI@2"
    assert step["env"]["PROMOTION_SUBSCRIBE"] == "true"


@pytest.mark.parametrize(
    ("subscribed", "calls"),
    [("", ["env set PROMOTION_SUBSCRIBE true", "provision --no-prompt"]), ("true", [])],
)
def test_the_hook_subscribes_once(tmp_path: Path, subscribed: str, calls: list[str]) -> None:
    """The shell line of azure.yaml, with a program in place of azd that writes down how it was called."""
    log = tmp_path / "calls"
    azd = tmp_path / "azd"
    azd.write_text(f'#!/bin/sh\necho "$*" >> {log}\n', encoding="utf-8")
    azd.chmod(0o755)
    hook = pipeline("azure.yaml")["hooks"]["postdeploy"]["posix"]
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PROMOTION_SUBSCRIBE": subscribed}

    subprocess.run([hook["shell"], "-c", hook["run"]], env=environment, check=True)

    assert (log.read_text(encoding="utf-8").splitlines() if log.exists() else []) == calls
