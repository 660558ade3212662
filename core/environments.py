"""From the conda file that a tool left behind to an environment that can be built and that serves. Pure.

Each change is a repair with its reason; what a file has otherwise stays as it is and in its order. Versions of packages
were read from their metadata in the Python Package Index.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict

from core import bounded_yaml
from core.errors import not_servable

# Azure ML's base images for environments that are built from a conda file. Their newest build brings security updates;
# the packages come from the conda file alone.
BASE_IMAGE = "mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu22.04:latest"
# Packages of Designer need Python 3.8 or older, and libraries of that time.
DESIGNER_IMAGE = "mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu20.04:latest"

SERVER, DEFAULTS, MONITORING = "azureml-inference-server-http", "azureml-defaults", "azureml-ai-monitoring"
# Servers by the Python that they run on: up to the last one for a Python, or that this service is tested with. Ranges and
# no pins: newer servers want a newer gunicorn than the MLflow of some years ago allows. Servers before 1.0 allow libraries
# with which they do not start, so there are none among those that newer Pythons may get.
_SERVERS = {(3, 6): "==0.7.7", (3, 7): ">=0.7.7,<=0.8.4.2", (3, 8): ">=1.0,<=1.3.4"}
_NEWEST_SERVERS = ">=1.0,<=1.5.1"
# From here on azureml-defaults brings a server; what older ones depend on (azureml-dataprep-rslex) is deleted.
_FIRST_DEFAULTS = (1, 34)
# Up to here its server allows libraries that have dropped what its Flask imports.
_FIRST_DEFAULTS_WITH_NEWER_FLASK = (1, 49)
# Up to here gunicorn is 20.1, which imports pkg_resources without asking for setuptools.
_FIRST_WITH_NEWER_GUNICORN = {DEFAULTS: (1, 58), "mlflow": (2, 12)}
# What the modules of Designer depend on through one another, by the version of azureml-designer-classic-modules.
_DESIGNER_MODULES = "azureml-designer-classic-modules"
_DESIGNER_PINS = {
    "0.0.160": ("0.0.67", "1.35.0"),
    "0.0.161": ("0.0.68", "1.36.0"),
    **dict.fromkeys(("0.0.175", "0.0.176", "0.0.177"), ("0.0.77", "1.43.0")),
    "0.0.178": ("0.0.78", "1.54.0"),
    **dict.fromkeys([f"0.0.{number}" for number in range(179, 187)], ("0.0.80", "1.54.0")),
}
_AUTOML = (
    "azureml-train-automl-runtime",
    "azureml-automl-runtime",
    "azureml-automl-dnn-nlp",
    "azureml-automl-dnn-vision",
)
# The Python of Automated ML's environments, for the versions of which it is known: from, to, Python.
_AUTOML_PYTHONS = (((1, 42), (1, 44), "3.7"), ((1, 50), (1, 52), "3.8"), ((1, 60), (1, 60), "3.9"))
# What jobs need, why, and the packages that bring it in the version that goes with them.
_FOR_JOBS = (
    ("azureml-core", "Azure ML's runner of parallel jobs imports it", (DEFAULTS,)),
    ("pandas", "input files are read with it", ("mlflow", _DESIGNER_MODULES, "azureml-designer-core", *_AUTOML)),
    ("pyarrow", "Parquet files are read with it", ("mlflow", "azureml-designer-core", DEFAULTS, *_AUTOML)),
)
_NODE_LIMIT = 10_000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Environment(BaseModel):
    """An Azure ML environment: base image and conda file (YAML text), and what was changed about the latter, and why."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image: str
    conda_file: str
    repairs: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256 of what is built: equal environments are one, whatever was repaired on the way."""
        canonical = json.dumps([self.image, self.conda_file], ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()


@dataclass
class _Conda:
    """A conda file under repair."""

    document: dict[str, Any]
    repairs: list[str] = field(default_factory=list)

    @property
    def dependencies(self) -> list[Any]:
        found: list[Any] = self.document["dependencies"]
        return found

    @property
    def pip(self) -> list[str]:
        """The list of pip packages, added to the file if it has none."""
        for each in self.dependencies:
            if isinstance(each, dict) and isinstance(each.get("pip"), list):
                found: list[str] = each["pip"]
                return found
        if not any(isinstance(each, str) and _name(each) == "pip" for each in self.dependencies):
            self.dependencies.append("pip")
        self.dependencies.append({"pip": []})
        return self.pip

    def lines(self) -> Iterator[str]:
        for each in self.dependencies:
            if isinstance(each, dict):
                yield from (line for line in each.get("pip") or () if isinstance(line, str))
            elif isinstance(each, str):
                yield each

    def has(self, *names: str) -> bool:
        return any(_name(line) in names for line in self.lines())

    def version_of(self, name: str) -> str | None:
        """The version that a package is pinned to, exactly or but for its last number (`~=`)."""
        for line in self.lines():
            if _name(line) == name and (found := re.match(r"[^<>=!~;]*(?:={1,3}|~=)\s*([0-9][0-9a-zA-Z.]*)", line)):
                return found[1]
        return None

    def release_of(self, *names: str) -> tuple[int, int] | None:
        """The first two numbers of the version of the first of these packages that has one."""
        for name in names:
            if found := re.match(r"(\d+)\.(\d+)", self.version_of(name) or ""):
                return int(found[1]), int(found[2])
        return None

    @property
    def python(self) -> tuple[int, int] | None:
        """None if the file leaves open which it is."""
        for line in self.dependencies:
            if isinstance(line, str) and _name(line) == "python":
                found = re.match(r"[^<>=!~]*?(?:={1,2}|\s)\s*(\d+)\.(\d+)", line)
                return (int(found[1]), int(found[2])) if found else None
        return None

    def add(self, line: str, why: str) -> None:
        self.pip.append(line)
        self.repairs.append(f"{line} added: {why}")

    def environment(self, image: str) -> Environment:
        text = yaml.safe_dump(self.document, sort_keys=False, allow_unicode=True, default_flow_style=False)
        return Environment(image=image, conda_file=text, repairs=tuple(self.repairs))


# ------------------------------------------------------------------------------------------------------------- origins


def for_automl(conda: str, *, where: str) -> Environment:
    """Automated ML's `conda_env_v_1_0_0.yml`. Raises Refusal if it cannot be read, or tells nothing of its Python."""
    found = _read(conda, where)
    if not found.has("python"):
        _add_automl_python(found, where)
    if not found.has("inference-schema"):
        found.add("inference-schema", "the scoring file imports it")
    release = found.release_of(*_AUTOML)
    if release and not found.has(DEFAULTS):
        # By itself a server would be one that the older packages of Automated ML contradict.
        found.add(f"{DEFAULTS}~={release[0]}.{release[1]}.0", "it brings the inference server that goes with the rest")
    _add_server(found, where)
    return found.environment(BASE_IMAGE)


def for_designer(conda: str, *, where: str) -> Environment:
    """Designer's `conda_env.yaml`: with pins, because newer versions of its packages are empty.

    pip stays at 20.2: what these packages ask of each other cannot be had at once, and pip 20.2 takes what is named first.
    So the pins also keep azureml-defaults from its newest version, whose server needs a newer Python.
    """
    found = _read(conda, where)
    if "channels" not in found.document:
        found.document = {"channels": ["conda-forge"], **found.document}
        found.repairs.append("channel conda-forge added: the file names none")
    modules = found.version_of(_DESIGNER_MODULES)
    if modules in _DESIGNER_PINS:
        core, defaults = _DESIGNER_PINS[modules]
        _limit(found, "azureml-designer-core", f"=={core}", "newer versions of it are empty packages")
        _limit(found, DEFAULTS, f"=={defaults}", f"{_DESIGNER_MODULES} {modules} was made for it")
    else:
        _limit(found, "azureml-designer-core", "<0.0.87", "newer versions of it are empty packages")
        newest = "<1.48" if found.python == (3, 6) else "<1.56"
        _limit(found, DEFAULTS, newest, "newer versions of it need a newer Python than Designer's packages run on")
    return found.environment(DESIGNER_IMAGE)


def for_script(conda: str, *, where: str) -> Environment:
    """The conda file of a model with a scoring script of its own: served if the server is in it."""
    found = _read(conda, where)
    _add_server(found, where)
    return found.environment(BASE_IMAGE)


def for_mlflow(conda: str | None, requirements: str | None, python_env: str | None, *, where: str) -> Environment:
    """An MLflow model's conda file, or one made of its requirements.txt and python_env.yaml."""
    found = _read(conda, where) if conda is not None else _from_requirements(requirements or "", python_env)
    _add_server(found, where)
    return found.environment(BASE_IMAGE)


def for_batch(environment: Environment) -> Environment:
    """The same for jobs: Azure ML's parallel runner and our driver import packages of their own.

    None is added that another one brings: without a version it would take the place of the one that the model needs.
    """
    found = _read(environment.conda_file, "conda file")
    found.repairs = list(environment.repairs)
    for name, why, bringers in _FOR_JOBS:
        if not found.has(name, *bringers):
            found.add(name, why)
    return found.environment(environment.image)


def needs_own_script(conda: str) -> bool:
    """Whether Azure's generated script for MLflow models would fail: it imports azureml-ai-monitoring."""
    return MONITORING not in {_name(line) for line in _read(conda, "conda.yaml").lines()} if conda else True


# ------------------------------------------------------------------------------------------------------------- repairs


def _add_server(found: _Conda, where: str) -> None:
    """The inference server, and limits to the libraries with which older ones do not start any more."""
    defaults = found.release_of(DEFAULTS)
    if defaults and defaults < _FIRST_DEFAULTS:
        raise not_servable(
            f"{where} asks for {DEFAULTS} {found.version_of(DEFAULTS)}, which cannot be installed any more: "
            "packages that it depends on were deleted from the Python Package Index",
            "Train the model again with a newer version, or name a conda file in the rule: `scoring.environment.conda_file`.",
        )
    if not found.has(SERVER, DEFAULTS):
        python = found.python
        why = f", at most the last for Python {python[0]}.{python[1]}" if python in _SERVERS else ""
        found.add(SERVER + _server_range(python), f"Azure's inference server{why}")
    if defaults and defaults < _FIRST_DEFAULTS_WITH_NEWER_FLASK:
        for name in ("werkzeug", "itsdangerous", "markupsafe"):
            _limit(
                found,
                name,
                "<2.1",
                f"newer ones lack what the Flask of {DEFAULTS} {found.version_of(DEFAULTS)} imports",
            )
    if _may_lack_pkg_resources(found):
        _limit(found, "setuptools", "<81", "the server's gunicorn imports pkg_resources, which newer ones do not have")


def _server_range(python: tuple[int, int] | None) -> str:
    return _SERVERS.get(python, _NEWEST_SERVERS) if python else _NEWEST_SERVERS


def _may_lack_pkg_resources(found: _Conda) -> bool:
    """Setuptools for Python 3.8 and older all have it."""
    if found.python and found.python < (3, 9):
        return False
    releases = ((found.release_of(name), newer) for name, newer in _FIRST_WITH_NEWER_GUNICORN.items())
    return any(release is not None and release < newer for release, newer in releases)


def _limit(found: _Conda, name: str, versions: str, why: str) -> None:
    """Add the package in these versions, or limit the one that is there without any; what has versions keeps them."""
    if not found.has(name):
        found.add(name + versions, why)
        return
    for index, line in enumerate(found.pip):
        if isinstance(line, str) and _name(line) == name and not re.search(r"[<>=!~@;]", line):
            found.pip[index] = line.strip() + versions
            found.repairs.append(f"{name}{versions} instead of any version: {why}")


def _add_automl_python(found: _Conda, where: str) -> None:
    release = found.release_of(*_AUTOML)
    python = next((each for first, last, each in _AUTOML_PYTHONS if release and first <= release <= last), None)
    if release is None or python is None:
        raise not_servable(
            f"{where} names no Python version", "Add the line `- python=3.x` of the training environment."
        )
    found.dependencies.insert(0, f"python={python}")
    version = f"{release[0]}.{release[1]}"
    found.repairs.append(f"python={python} added: Automated ML {version} was made for it, and the file names none")


def _from_requirements(requirements: str, python_env: str | None) -> _Conda:
    lines = [line.strip() for line in requirements.splitlines() if line.strip() and not line.strip().startswith("#")]
    python = re.search(r"python:\s*['\"]?(\d+\.\d+(?:\.\d+)?)", python_env or "")
    dependencies: list[Any] = [f"python={python[1]}"] if python else []
    document = {"channels": ["conda-forge"], "dependencies": [*dependencies, "pip", {"pip": lines}]}
    return _Conda(document, ["made of requirements.txt: the model has no conda.yaml"])


# ---------------------------------------------------------------------------------------------------------------- read


def _read(conda: str, where: str) -> _Conda:
    try:
        parsed = bounded_yaml.load(conda, _NODE_LIMIT)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise not_servable(f"{where} cannot be read: {str(error)[:300]}") from error
    if not isinstance(parsed, dict) or not isinstance(parsed.get("dependencies"), list):
        raise not_servable(f"{where} is no conda file: it has no list of dependencies")
    return _Conda(parsed)


def _name(line: str) -> str:
    """The package of a line, without channel, extras and version, in the index's spelling."""
    found = _NAME.match(line.partition("::")[2] or line)
    return re.sub(r"[-_.]+", "-", found[0]).lower() if found else ""
