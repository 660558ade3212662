"""What the README tells people to do is done here, as they would."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import models
from tests.local import REPOSITORY, LocalAzure

README = (REPOSITORY / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.fixture
def azure_of_make_up(directory: Path) -> Iterator[LocalAzure]:
    """`make up` with the sample policy, in a folder of its own; Ctrl-C ends it."""
    home = directory / "readme"
    (home / ".local").mkdir(parents=True)
    process = subprocess.Popen(
        ["make", "up", f"LOCAL={home / '.local'}"],
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None
    lines = iter(process.stdout.readline, b"")
    said = next((line for line in lines if b"is ready" in line), b"")
    try:
        assert b"endpoints.json" in said
        yield LocalAzure(json.loads((home / ".local" / "endpoints.json").read_text()), home)
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(30)
        process.stdout.close()


def test_the_ten_lines_of_python_bring_a_model_to_life(azure_of_make_up: LocalAzure, tmp_path: Path) -> None:
    """Run by another interpreter, in another folder, with nothing but what the README gives it."""
    home = azure_of_make_up.directory
    models.regression_with_example(tmp_path).folder.rename(home / "my-model")
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    (code,) = blocks("python")

    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=home, env=environment, capture_output=True, text=True, check=False
    )

    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == "1"
    assert azure_of_make_up.wait_for_end("my-model")["state"] == "succeeded"
    assert curl(azure_of_make_up)["promotions"][0]["model"] == "my-model"


def curl(azure: LocalAzure) -> dict[str, list[dict[str, str]]]:
    """The README's curl command, as it stands there."""
    (command,) = (block for block in blocks("sh") if "curl" in block)
    environment = {
        "PATH": os.environ["PATH"],
        "FUNCTION_KEY": azure.endpoints["function_key"],
        "FUNCTIONS_URL": azure.endpoints["functions_url"],
    }
    ran = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True, check=True)
    found: dict[str, list[dict[str, str]]] = json.loads(ran.stdout)
    return found


def test_every_make_command_that_is_named_exists() -> None:
    named = set(re.findall(r"\bmake ([a-z]+)\b", README))
    known = set(re.findall(r"^([a-z]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))

    assert {"demo", "test", "up", "check", "help"} <= named
    assert named <= known


def test_every_link_leads_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)

    assert [link for link in links if not link.startswith("http") and not (REPOSITORY / link).exists()] == []


def test_the_policy_in_the_readme_is_one() -> None:
    from core import policy_file

    (text,) = blocks("yaml")

    assert policy_file.parse(text.replace("...", "00000000-0000-0000-0000-000000000000").encode()).policy.rules
