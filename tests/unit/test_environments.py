"""Conda files of the tools: repaired where they could not be built or would not serve, and left alone elsewhere."""

import pytest
import yaml

from core import environments
from core.environments import Environment
from core.errors import Reason, Refusal

AUTOML = """\
# Conda environment specification.
name: project_environment
dependencies:
- python=3.8.17
- pip:
  - azureml-train-automl-runtime==1.51.0.post2
  - inference-schema
  - azureml-interpret==1.51.0
  - azureml-defaults==1.51.0
- numpy==1.22.3
- scikit-learn==0.22.1
channels:
- anaconda
- conda-forge
"""
DESIGNER = """\
name: project_environment
channels:
- conda-forge
dependencies:
- python=3.8.10
- pip=20.2
- pip:
  - azureml-defaults
  - azureml-designer-classic-modules==0.0.182
  - azureml-designer-serving==0.0.13
"""
PLAIN = "dependencies:\n- python=3.11\n- pip\n- pip:\n  - pandas==2.3.3\n"


def lines(environment: Environment) -> list[str]:
    found: list[str] = []
    for each in yaml.safe_load(environment.conda_file)["dependencies"]:
        found += each["pip"] if isinstance(each, dict) else [each]
    return found


def test_a_file_that_is_well_is_left_alone() -> None:
    found = environments.for_automl(AUTOML, where="c.yml")
    assert yaml.safe_load(found.conda_file) == yaml.safe_load(AUTOML)
    assert (found.repairs, found.image) == ((), environments.BASE_IMAGE)


def test_automl_for_texts_gets_what_its_scoring_file_imports() -> None:
    """A server by itself would contradict the azureml-defaults that these packages depend on, unseen by this file."""
    conda = "dependencies:\n- python=3.8\n- pip:\n  - azureml-automl-dnn-nlp==1.50.0.post1\n"
    found = environments.for_automl(conda, where="c.yml")
    assert lines(found)[2:] == ["inference-schema", "azureml-defaults~=1.50.0"]


@pytest.mark.parametrize(
    ("version", "limited"), [("1.34.0", True), ("1.48.0", True), ("1.49.0", False), ("1.60.0", False)]
)
def test_servers_of_some_years_are_kept_from_libraries_with_which_they_do_not_start(
    version: str, limited: bool
) -> None:
    conda = AUTOML.replace("azureml-defaults==1.51.0", f"azureml-defaults=={version}")
    found = environments.for_automl(conda, where="c.yml")
    limits = {"werkzeug<2.1", "itsdangerous<2.1", "markupsafe<2.1"}
    assert limits & set(lines(found)) == (limits if limited else set())


def test_what_cannot_be_installed_any_more_is_refused() -> None:
    conda = AUTOML.replace("azureml-defaults==1.51.0", "azureml-defaults==1.33.0")
    with pytest.raises(
        Refusal, match=r"c\.yml asks for azureml-defaults 1\.33\.0, which cannot be installed"
    ) as refused:
        environments.for_automl(conda, where="c.yml")
    assert "scoring.environment.conda_file" in refused.value.remedy


@pytest.mark.parametrize(
    ("python", "line", "limited"),
    [
        ("3.10", "mlflow==2.9.2", True),
        ("3.10", "azureml-defaults==1.54.0", True),
        ("3.8", "mlflow==2.9.2", False),
        ("3.10", "mlflow==2.12.2", False),
        ("3.10", "mlflow", False),
    ],
)
def test_gunicorn_gets_the_setuptools_that_it_forgot_to_ask_for(python: str, line: str, limited: bool) -> None:
    found = environments.for_script(PLAIN.replace("3.11", python) + f"  - {line}\n", where="c.yml")
    assert ("setuptools<81" in lines(found)) is limited
    own = environments.for_script(PLAIN + f"  - {line}\n  - setuptools==65.0\n", where="c.yml")
    assert "setuptools<81" not in lines(own)


@pytest.mark.parametrize(("version", "python"), [("1.60.0", "3.9"), ("1.52.0.post1", "3.8"), ("1.44.0", "3.7")])
def test_a_python_that_was_taken_out_is_put_back(version: str, python: str) -> None:
    """A pickle cannot be loaded by any Python."""
    conda = AUTOML.replace("- python=3.8.17\n", "# - python=3.8.17\n").replace("1.51.0.post2", version)
    assert lines(environments.for_automl(conda, where="c.yml"))[0] == f"python={python}"


@pytest.mark.parametrize(
    "line", ["numpy", "azureml-train-automl-runtime==1.47.0", "azureml-train-automl-runtime>=1.50"]
)
def test_a_python_that_nothing_tells_is_refused(line: str) -> None:
    with pytest.raises(Refusal, match=r"c\.yml names no Python version") as refused:
        environments.for_automl(f"dependencies:\n- pip: ['{line}']\n", where="c.yml")
    assert "python=3.x" in refused.value.remedy


@pytest.mark.parametrize(
    ("modules", "core", "defaults"),
    [
        ("0.0.182", "0.0.80", "1.54.0"),
        ("0.0.185", "0.0.80", "1.54.0"),
        ("0.0.177", "0.0.77", "1.43.0"),
        ("0.0.160", "0.0.67", "1.35.0"),
    ],
)
def test_designers_packages_are_kept_from_their_empty_versions(modules: str, core: str, defaults: str) -> None:
    found = environments.for_designer(DESIGNER.replace("0.0.182", modules), where="c.yml")
    assert {f"azureml-designer-core=={core}", f"azureml-defaults=={defaults}"} <= set(lines(found))
    assert "azureml-defaults" not in lines(found)
    assert not any("inference-server" in line for line in lines(found)), "azureml-defaults brings the one of its time"
    assert "pip=20.2" in lines(found), "a newer pip refuses what these packages ask of each other"
    assert found.image == environments.DESIGNER_IMAGE


@pytest.mark.parametrize(("python", "defaults"), [("3.8.10", "<1.56"), ("3.6.8", "<1.48")])
def test_designers_packages_of_a_version_that_nobody_has_seen(python: str, defaults: str) -> None:
    conda = DESIGNER.replace("classic-modules==0.0.182", "pytorch-modules==0.0.69").replace("3.8.10", python)
    found = environments.for_designer(conda, where="c.yml")
    assert {"azureml-designer-core<0.0.87", f"azureml-defaults{defaults}"} <= set(lines(found))
    assert "azureml-defaults" not in lines(found)


def test_jobs_leave_the_pandas_that_designers_packages_bring() -> None:
    """pip 20.2 takes what is named first: pandas without a version would be the newest, and the model could not be loaded."""
    found = environments.for_designer(DESIGNER, where="c.yml")
    assert lines(environments.for_batch(found)) == lines(found)


@pytest.mark.parametrize("line", ["mlflow==2.9.2", "azureml-defaults==1.60.0", "azureml-train-automl-runtime==1.60.0"])
def test_jobs_leave_what_other_packages_bring(line: str) -> None:
    conda = f"dependencies:\n- python=3.9\n- pip: ['{line}', azureml-core, azureml-inference-server-http]\n"
    found = lines(environments.for_batch(environments.for_script(conda, where="c.yml")))
    assert "pyarrow" not in found
    assert ("pandas" in found) is ("defaults" in line)


def test_what_designer_asks_for_beside_its_modules_stays() -> None:
    conda = DESIGNER.replace("- pip=20.2\n", "- pip=20.2\n- scikit-surprise=1.1.0\n").replace(
        "channels:\n- conda-forge\n", ""
    )
    found = environments.for_designer(conda, where="c.yml")
    assert "scikit-surprise=1.1.0" in lines(found)
    assert yaml.safe_load(found.conda_file)["channels"] == ["conda-forge"]


@pytest.mark.parametrize(
    ("python", "server"),
    [
        ("python=3.6.8", "==0.7.7"),
        ("python=3.7", ">=0.7.7,<=0.8.4.2"),
        ("python==3.8.10", ">=1.0,<=1.3.4"),
        ("conda-forge::python=3.9", ">=1.0,<=1.5.1"),
        ("python 3.13.*", ">=1.0,<=1.5.1"),
        ("python>=3.6", ">=1.0,<=1.5.1"),
        ("python", ">=1.0,<=1.5.1"),
    ],
)
def test_the_server_is_one_that_the_python_can_run(python: str, server: str) -> None:
    found = environments.for_script(PLAIN.replace("python=3.11", python), where="c.yml")
    assert f"azureml-inference-server-http{server}" in lines(found)


@pytest.mark.parametrize("line", ["azureml-inference-server-http==1.2.0", "azureml_defaults>=1.50", "AzureML-Defaults"])
def test_a_server_that_is_there_is_enough(line: str) -> None:
    assert environments.for_script(PLAIN + f"  - {line}\n", where="c.yml").repairs == ()


def test_a_file_without_pip_gets_it() -> None:
    found = environments.for_script("dependencies:\n- python=3.11\n- numpy\n", where="c.yml")
    assert lines(found) == ["python=3.11", "numpy", "pip", "azureml-inference-server-http>=1.0,<=1.5.1"]


def test_jobs_get_what_runner_and_driver_import() -> None:
    found = environments.for_batch(environments.for_script("dependencies:\n- python=3.11\n", where="c.yml"))
    assert [line for line in lines(found) if line in ("azureml-core", "pandas", "pyarrow")] == [
        "azureml-core",
        "pandas",
        "pyarrow",
    ]
    again = environments.for_batch(found)
    assert again == found


def test_an_mlflow_model_without_conda_file_gets_one_of_its_requirements() -> None:
    found = environments.for_mlflow(
        None, "mlflow==3.17.2\n# a comment\n\nscikit-learn\n", "python: 3.10.4\n", where="r"
    )
    assert lines(found) == [
        "python=3.10.4",
        "pip",
        "mlflow==3.17.2",
        "scikit-learn",
        "azureml-inference-server-http>=1.0,<=1.5.1",
    ]


@pytest.mark.parametrize(
    ("conda", "needs"),
    [
        (PLAIN, True),
        (PLAIN + "  - azureml-ai-monitoring\n", False),
        (PLAIN + "  - azureml_ai_monitoring==1.0.0\n", False),
        ("", True),
    ],
)
def test_whether_azures_own_script_would_fail(conda: str, needs: bool) -> None:
    assert environments.needs_own_script(conda) is needs


BOMB = (
    "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60)) + "dependencies: *a59\n"
)


@pytest.mark.parametrize(
    "conda",
    [
        "",
        "[",
        "- a\n",
        "dependencies:\n",
        "dependencies: text\n",
        "x: &x {y: *x}\ndependencies: []\n",
        BOMB,
        "[" * 5000,
    ],
)
def test_what_is_no_conda_file_is_refused_by_its_name(conda: str) -> None:
    with pytest.raises(Refusal, match=r"c\.yml") as refused:
        environments.for_script(conda, where="c.yml")
    assert refused.value.reason is Reason.NOT_SERVABLE


def test_odd_lines_are_carried_along() -> None:
    conda = "when: 2026-03-04\n1: 2\ndependencies:\n- conda-forge::numpy=1.2\n- 5\n- {npm: [x]}\n- pip:\n  - -r more.txt\n  - git+https://example.org/a\n"
    found = environments.for_script(conda, where="c.yml")
    assert "conda-forge::numpy=1.2" in found.conda_file
    assert "npm" in found.conda_file


def test_equal_environments_are_one_whatever_was_repaired() -> None:
    one = environments.for_script(PLAIN, where="c.yml")
    other = environments.for_script(one.conda_file, where="c.yml")
    assert (one.digest, other.repairs) == (other.digest, ())
    assert one.digest != one.model_copy(update={"image": "other"}).digest
