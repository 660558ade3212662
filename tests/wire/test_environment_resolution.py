"""Repaired environments against the package index: what pip would install for each, without building anything.

Of conda packages, the pip packages of the same name and version stand in.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from core import environments
from core.environments import Environment
from emulator.serving.environments import from_conda

UV = Path(sys.executable).with_name("uv")
AUTOML = """\
dependencies:
- python={python}
- pip:
  - azureml-train-automl-runtime=={sdk}
  - inference-schema
  - azureml-interpret=={sdk}
  - azureml-defaults=={sdk}
"""
TEXTS = "dependencies:\n- python=3.7.9\n- pip:\n  - azureml-automl-dnn-nlp==1.42.0\n"
DESIGNER = """\
dependencies:
- python=3.8.10
- pip=20.2
- pip:
  - azureml-defaults
  - azureml-designer-classic-modules==0.0.182
  - azureml-designer-serving==0.0.13
"""
MLFLOW = "dependencies:\n- python={python}\n- pip:\n  - mlflow=={mlflow}\n  - scikit-learn=={sklearn}\n"


def resolved(environment: Environment, overrides: Path | None = None) -> dict[str, str]:
    """The packages, by name, and their versions. Fails with the resolver's own words.

    `overrides` lists versions that hold whatever packages ask for.
    """
    wanted = from_conda(environment.conda_file)
    assert wanted.python is not None
    python = ".".join(wanted.python.split(".")[:2])
    command = [str(UV), "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--python-platform", "linux"]
    command += ["--python", sys.executable, "--python-version", python, "-"]
    command += ["--override", str(overrides)] if overrides else []
    ran = subprocess.run(command, input="\n".join(wanted.requirements), capture_output=True, text=True, timeout=120)
    if "error sending request" in ran.stderr.lower() or "failed to connect" in ran.stderr.lower():
        pytest.skip("the package index cannot be reached")
    assert ran.returncode == 0, ran.stderr
    lines = [line for line in ran.stdout.splitlines() if "==" in line]
    return {name: version for name, _, version in (line.partition("==") for line in lines)}


def release(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in version.split(".")[:2])


@pytest.mark.parametrize(("python", "mlflow", "sklearn"), [("3.8.16", "2.3.0", "1.2.2"), ("3.10", "2.9.2", "1.3.2")])
def test_an_older_mlflow_model_gets_a_server_that_goes_with_it(python: str, mlflow: str, sklearn: str) -> None:
    """Newer servers want gunicorn 23, which MLflow of that time forbids; older ones want pkg_resources, unsaid."""
    conda = MLFLOW.format(python=python, mlflow=mlflow, sklearn=sklearn)
    environment = environments.for_batch(environments.for_mlflow(conda, None, None, where="conda.yaml"))
    found = resolved(environment)
    assert (found["mlflow"], found["scikit-learn"]) == (mlflow, sklearn)
    assert {"azureml-core", "pyarrow", "pandas"} <= set(found)
    assert release(found["azureml-inference-server-http"]) >= (1, 0)
    assert release(found["setuptools"]) < (81, 0) if python == "3.10" else "setuptools<81" not in environment.conda_file


def test_automl_brings_a_server_of_its_time() -> None:
    conda = AUTOML.format(python="3.9.22", sdk="1.60.0")
    found = resolved(environments.for_automl(conda, where="conda_env_v_1_0_0.yml"))
    assert found["azureml-defaults"] == "1.60.0"
    assert {"azureml-inference-server-http", "inference-schema", "azureml-automl-core"} <= set(found)


@pytest.mark.parametrize(
    ("conda", "sdk"),
    [
        pytest.param(TEXTS, "1.42.0", marks=pytest.mark.exhaustive),
        (AUTOML.format(python="3.7.9", sdk="1.44.0"), "1.44.0"),
    ],
    ids=["texts", "table"],
)
def test_older_automl_brings_a_server_and_libraries_with_which_it_starts(conda: str, sdk: str) -> None:
    found = resolved(environments.for_automl(conda, where="conda_env_v_1_0_0.yml"))
    assert found["azureml-defaults"] == sdk
    assert "azureml-inference-server-http" in found
    assert all(release(found[name]) < (2, 1) for name in ("werkzeug", "itsdangerous", "markupsafe"))


def test_designers_packages_are_those_with_something_inside(tmp_path: Path) -> None:
    """Their requirements contradict each other twice, which pip 20.2 overlooks and no resolver does: set aside here."""
    environment = environments.for_batch(environments.for_designer(DESIGNER, where="conda_env.yaml"))
    overrides = tmp_path / "overrides.txt"
    with pytest.raises(AssertionError, match="No solution found"):
        resolved(environment)
    overrides.write_text("azureml-core==1.54.0.post1\npillow==10.2.0\n", encoding="utf-8")
    found = resolved(environment, overrides)
    assert (found["azureml-designer-core"], found["azureml-designer-internal"]) == ("0.0.80", "0.0.70")
    assert (found["azureml-defaults"], found["pandas"], found["pyarrow"]) == ("1.54.0", "1.0.5", "14.0.1")
    assert "azureml-inference-server-http" in found


def test_a_script_of_today_gets_the_server_of_today() -> None:
    found = resolved(environments.for_script("dependencies:\n- python=3.11\n- pip:\n  - pandas\n", where="conda.yaml"))
    assert found["azureml-inference-server-http"] == "1.5.1"
