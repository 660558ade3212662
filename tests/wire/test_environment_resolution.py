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
MLFLOW = "dependencies:\n- python={python}\n- pip:\n  - mlflow=={mlflow}\n  - scikit-learn=={sklearn}\n"


def resolved(environment: Environment) -> dict[str, str]:
    """The packages, by name, and their versions. Fails with the resolver's own words."""
    wanted = from_conda(environment.conda_file)
    assert wanted.python is not None
    python = ".".join(wanted.python.split(".")[:2])
    command = [str(UV), "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--python-platform", "linux"]
    command += ["--python-version", python, "-"]
    ran = subprocess.run(command, input="\n".join(wanted.requirements), capture_output=True, text=True, timeout=120)
    if "error sending request" in ran.stderr.lower() or "connect" in ran.stderr.lower():
        pytest.skip("the package index cannot be reached")
    assert ran.returncode == 0, ran.stderr
    lines = [line for line in ran.stdout.splitlines() if "==" in line]
    return {name: version for name, _, version in (line.partition("==") for line in lines)}


@pytest.mark.parametrize(("python", "mlflow", "sklearn"), [("3.8.16", "2.3.0", "1.2.2"), ("3.10", "2.9.2", "1.3.2")])
def test_an_older_mlflow_model_gets_a_server_that_goes_with_it(python: str, mlflow: str, sklearn: str) -> None:
    """Newer servers want gunicorn 23, which MLflow of that time forbids."""
    conda = MLFLOW.format(python=python, mlflow=mlflow, sklearn=sklearn)
    environment = environments.for_batch(environments.for_mlflow(conda, None, None, where="conda.yaml"))
    found = resolved(environment)
    assert (found["mlflow"], found["scikit-learn"]) == (mlflow, sklearn)
    assert {"azureml-inference-server-http", "azureml-core", "pyarrow", "pandas"} <= set(found)


def test_automl_brings_a_server_of_its_time() -> None:
    conda = AUTOML.format(python="3.9.22", sdk="1.60.0")
    found = resolved(environments.for_automl(conda, where="conda_env_v_1_0_0.yml"))
    assert found["azureml-defaults"] == "1.60.0"
    assert {"azureml-inference-server-http", "inference-schema", "azureml-automl-core"} <= set(found)


def test_a_script_of_today_gets_the_server_of_today() -> None:
    found = resolved(environments.for_script("dependencies:\n- python=3.11\n- pip:\n  - pandas\n", where="conda.yaml"))
    assert found["azureml-inference-server-http"] == "1.5.1"
