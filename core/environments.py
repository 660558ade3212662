"""From the conda file that a tool left behind to an environment that can be built and that serves. Pure.

Each change is a repair with its reason; what a file has otherwise stays as it is and in its order. Versions of packages
were read from their metadata in the Python Package Index.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict

from core.errors import Reason, Refusal

# Azure ML's base images for environments that are built from a conda file. Their newest build brings security updates;
# the packages come from the conda file alone.
BASE_IMAGE = "mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu22.04:latest"
# Packages of Designer need Python 3.8 or older, and libraries of that time.
DESIGNER_IMAGE = "mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu20.04:latest"

SERVER, DEFAULTS, MONITORING = "azureml-inference-server-http", "azureml-defaults", "azureml-ai-monitoring"
# The last server for each Python that it has left behind; for newer ones, the version that this service is tested with.
# A range and no pin: newer servers want a newer gunicorn than the MLflow of some years ago allows.
_SERVERS = {(3, 6): "0.7.7", (3, 7): "0.8.4.2", (3, 8): "1.3.4"}
_OLDEST_SERVER, _NEWEST_SERVER = "0.7.7", "1.5.1"
# What the modules of Designer depend on through one another, by the version of azureml-designer-classic-modules.
_DESIGNER_PINS = {
    "0.0.160": ("0.0.67", "1.35.0"),
    "0.0.161": ("0.0.68", "1.36.0"),
    "0.0.176": ("0.0.77", "1.43.0"),
    "0.0.177": ("0.0.77", "1.43.0"),
    "0.0.182": ("0.0.80", "1.54.0"),
}
# The Python of Automated ML's environments, from the first version of azureml-train-automl-runtime that had it.
_AUTOML_PYTHONS = (((1, 60), "3.9"), ((1, 45), "3.8"), ((1, 30), "3.7"), ((0, 0), "3.6"))
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
        """The exact version that a package is pinned to."""
        for line in self.lines():
            if _name(line) == name and (found := re.search(r"={1,3}\s*([0-9][0-9a-zA-Z.]*)", line)):
                return found[1]
        return None

    @property
    def python(self) -> tuple[int, int] | None:
        for line in self.dependencies:
            if isinstance(line, str) and _name(line) == "python" and (found := re.search(r"(\d+)\.(\d+)", line)):
                return int(found[1]), int(found[2])
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
    if found.python is None:
        _add_automl_python(found, where)
    if not found.has("inference-schema"):
        found.add("inference-schema", "the scoring file imports it")
    if not found.has(DEFAULTS):
        _add_server(found)
    return found.environment(BASE_IMAGE)


def for_designer(conda: str, *, where: str) -> Environment:
    """Designer's `conda_env.yaml`: with pins, because newer versions of its packages are empty."""
    found = _read(conda, where)
    if "channels" not in found.document:
        found.document = {"channels": ["conda-forge"], **found.document}
        found.repairs.append("channel conda-forge added: the file names none")
    modules = found.version_of("azureml-designer-classic-modules")
    if modules in _DESIGNER_PINS:
        core, defaults = _DESIGNER_PINS[modules]
        _pin(found, "azureml-designer-core", core, "newer versions of it are empty packages")
        _pin(found, DEFAULTS, defaults, f"azureml-designer-classic-modules {modules} was made for it")
    elif not found.has("azureml-designer-core"):
        # The last version of it with anything inside.
        found.add("azureml-designer-core<0.0.87", "newer versions of it are empty packages")
    if not found.has(SERVER) and found.version_of(DEFAULTS) is None:
        # Pinned, azureml-defaults brings the server of its time; unpinned, one that has left Designer's Python behind.
        _add_server(found)
    return found.environment(DESIGNER_IMAGE)


def for_script(conda: str, *, where: str) -> Environment:
    """The conda file of a model with a scoring script of its own: served if the server is in it."""
    found = _read(conda, where)
    if not found.has(SERVER, DEFAULTS):
        _add_server(found)
    return found.environment(BASE_IMAGE)


def for_mlflow(conda: str | None, requirements: str | None, python_env: str | None, *, where: str) -> Environment:
    """An MLflow model's conda file, or one made of its requirements.txt and python_env.yaml."""
    found = _read(conda, where) if conda is not None else _from_requirements(requirements or "", python_env)
    if not found.has(SERVER, DEFAULTS):
        _add_server(found)
    return found.environment(BASE_IMAGE)


def for_batch(environment: Environment) -> Environment:
    """The same for jobs: Azure ML's parallel runner needs azureml-core, our driver reads tables with pandas."""
    found = _read(environment.conda_file, "conda file")
    found.repairs = list(environment.repairs)
    if not found.has("azureml-core", DEFAULTS):
        found.add("azureml-core", "Azure ML's runner of parallel jobs imports it")
    if not found.has("pandas"):
        found.add("pandas", "input files are read with it")
    if not found.has("pyarrow", "mlflow"):
        found.add("pyarrow", "Parquet files are read with it")
    return found.environment(environment.image)


def needs_own_script(conda: str) -> bool:
    """Whether Azure's generated script for MLflow models would fail: it imports azureml-ai-monitoring."""
    return MONITORING not in {_name(line) for line in _read(conda, "conda.yaml").lines()} if conda else True


# ------------------------------------------------------------------------------------------------------------- repairs


def _add_server(found: _Conda) -> None:
    python = found.python
    version = _SERVERS.get(python, _NEWEST_SERVER) if python else _NEWEST_SERVER
    why = "Azure's inference server" + (
        f", in the last version for Python {python[0]}.{python[1]}" if python in _SERVERS else ""
    )
    found.add(f"{SERVER}>={_OLDEST_SERVER},<={version}", why)


def _pin(found: _Conda, name: str, version: str, why: str) -> None:
    """Add the package with its version, or give the version to the one that is there without."""
    pip = found.pip
    for index, line in enumerate(pip):
        if _name(line) == name:
            if found.version_of(name) is None:
                pip[index] = f"{name}=={version}"
                found.repairs.append(f"{name} pinned to {version}: {why}")
            return
    found.add(f"{name}=={version}", why)


def _add_automl_python(found: _Conda, where: str) -> None:
    version = next(
        (
            text
            for name in ("azureml-train-automl-runtime", "azureml-automl-runtime", "azureml-automl-dnn-nlp")
            if (text := found.version_of(name))
        ),
        None,
    )
    numbers = re.match(r"(\d+)\.(\d+)", version or "")
    if numbers is None:
        raise _refused(f"{where} names no Python version", "Add the line `- python=3.x` of the training environment.")
    release = int(numbers[1]), int(numbers[2])
    python = next(text for since, text in _AUTOML_PYTHONS if release >= since)
    found.dependencies.insert(0, f"python={python}")
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
        parsed = _plain(yaml.safe_load(conda), iter(range(_NODE_LIMIT)))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise _refused(f"{where} cannot be read: {str(error)[:300]}") from error
    if not isinstance(parsed, dict) or not isinstance(parsed.get("dependencies"), list):
        raise _refused(f"{where} is no conda file: it has no list of dependencies")
    return _Conda(parsed)


def _plain(value: Any, nodes: Iterator[int]) -> Any:
    """A copy without aliases, which let a few lines stand for more than memory holds."""
    if next(nodes, None) is None:
        raise ValueError(f"it stands for more than {_NODE_LIMIT} values")
    if isinstance(value, Mapping):
        return {str(key): _plain(item, nodes) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(item, nodes) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _name(line: str) -> str:
    """The package of a line, without channel, extras and version, in the index's spelling."""
    found = _NAME.match(line.partition("::")[2] or line)
    return re.sub(r"[-_.]+", "-", found[0]).lower() if found else ""


def _refused(message: str, remedy: str = "Correct it where it stands, and register the model again.") -> Refusal:
    return Refusal(Reason.NOT_SERVABLE, message, remedy=remedy)
