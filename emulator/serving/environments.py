"""Which Python a deployment runs in: the serving image as it is, or an environment built from its own pins."""

import asyncio
import functools
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

import yaml
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from emulator.serving.servers import IMAGE_PYTHON, REPOSITORY
from emulator.serving.stand_ins import StandIn, stand_in_for

IMAGE_REQUIREMENTS = REPOSITORY / "requirements-serving.txt"
BUILD_SECONDS = 300.0
# The machine's own way to its package registry, before a process makes itself a client of the local Azure.
MACHINE = dict(os.environ)

# A pickled model depends on these down to the minor version; of everything else the major version is enough.
MODEL_LIBRARIES = {"scikit-learn", "xgboost", "lightgbm", "catboost", "torch", "tensorflow", "onnxruntime"}
# What Azure's images bring for the server's own sake.
SERVER_LIBRARIES = {"azureml-inference-server-http", "azureml-defaults", "azureml-core", "pip"}
SAME_LIBRARY = {"mlflow-skinny": "mlflow", "py-xgboost": "xgboost", "sklearn": "scikit-learn"}


@dataclass(frozen=True)
class Wanted:
    """What a model or an environment asks for: pip requirements, and a Python version if it names one."""

    requirements: tuple[str, ...] = ()
    python: str | None = None


def from_conda(text: str) -> Wanted:
    """Read a conda file. Its conda packages count as pip packages of the same name and version."""
    document = yaml.safe_load(text) or {}
    found: list[str] = []
    python = None
    for dependency in document.get("dependencies") or ():
        if isinstance(dependency, Mapping):
            found += [str(line) for line in dependency.get("pip") or ()]
            continue
        name, _, version = str(dependency).replace("==", "=").partition("=")
        if name.strip() == "python":
            python = version.strip() or None
        elif version and not any(sign in str(dependency) for sign in "<>!~"):
            found.append(f"{SAME_LIBRARY.get(name.strip(), name.strip())}=={version.split('=')[0].strip()}")
        else:
            found.append(str(dependency))
    return Wanted(tuple(found), python)


def from_model(folder: Path) -> Wanted:
    """What an MLflow model was saved with: its conda file, else its list of requirements."""
    conda = folder / "conda.yaml"
    if conda.is_file():
        return from_conda(conda.read_text(encoding="utf-8"))
    requirements = folder / "requirements.txt"
    if requirements.is_file():
        return Wanted(tuple(requirements.read_text(encoding="utf-8").splitlines()))
    return Wanted()


def absent_modules(wanted: Wanted) -> tuple[str, ...]:
    """Modules of the image that an environment of these requirements would not have, and that Azure does not add.

    The script that Azure generates for a model without code imports azureml.ai.monitoring, so the package must be among
    the model's own requirements (azureml-examples, pull requests 3904 and 4008).
    """
    names = {_library(each.name) for line in wanted.requirements if (each := _parse(line))}
    return ("azureml.ai",) if names and "azureml-ai-monitoring" not in names else ()


@functools.cache
def image_packages(python: Path = IMAGE_PYTHON) -> dict[str, Version]:
    """The packages of the serving image, by the name under which models ask for them."""
    packages: dict[str, Version] = {}
    for site in python.parent.parent.glob("lib/python3*/site-packages"):
        for distribution in distributions(path=[str(site)]):
            packages[_library(distribution.metadata["Name"])] = Version(distribution.version)
    return packages


def unsatisfied(requirements: Iterable[str], packages: Mapping[str, Version]) -> list[str]:
    """The requirements that `packages` do not meet, each as it was written."""
    return [line.strip() for line in requirements if not _satisfied(line, packages)]


def _satisfied(line: str, packages: Mapping[str, Version]) -> bool:
    requirement = _parse(line)
    if requirement is None:
        return True
    name = _library(requirement.name)
    if name in SERVER_LIBRARIES or (requirement.marker and not requirement.marker.evaluate()):
        return True
    if name not in packages:
        return False
    precision = 2 if name in MODEL_LIBRARIES else 1
    installed = packages[name]
    exact = [
        Version(each.version) for each in requirement.specifier if each.operator == "==" and "*" not in each.version
    ]
    if exact:
        return all(each.release[:precision] == installed.release[:precision] for each in exact)
    return requirement.specifier.contains(installed, prereleases=True)


def _library(name: str) -> str:
    canonical = canonicalize_name(name)
    return SAME_LIBRARY.get(canonical, canonical)


def _parse(line: str) -> Requirement | None:
    """None for what is not a requirement: blank lines, comments, options, files."""
    text = line.split(" #")[0].strip()
    if not text or text.startswith(("#", "-")):
        return None
    try:
        return Requirement(text)
    except InvalidRequirement:
        return None


class Environments:
    """Builds what the image lacks, once for each set of requirements, into a cache that outlives a run."""

    def __init__(self, *, directory: Path, image_python: Path = IMAGE_PYTHON) -> None:
        self._directory = directory
        self._image_python = image_python
        self._builds: dict[str, asyncio.Task[str | None]] = {}

    async def python_for(self, wanted: Wanted) -> tuple[Path | None, list[str]]:
        """The interpreter to use (None is the serving image) and lines for the head of the deployment's log."""
        packages = await asyncio.to_thread(image_packages, self._image_python)
        notes = self._python_notes(wanted)
        missing = unsatisfied(wanted.requirements, packages)
        if not missing:
            return None, notes
        parsed = [each for line in wanted.requirements if (each := _parse(line))]
        stand_in = stand_in_for(_library(each.name) for each in parsed)
        if stand_in:
            notes.append(stand_in.note(parsed, f"Python {self._python_version}"))
        key = _key(wanted, stand_in)
        python = self._directory / key / "bin" / "python"
        if key not in self._builds:
            self._builds[key] = asyncio.create_task(self._build(parsed, stand_in, python))
        problem = await asyncio.shield(self._builds[key])
        asked = ", ".join(missing)
        if problem is None:
            return python, [*notes, f"Environment {key} was built, because the serving image does not have: {asked}"]
        return None, [
            *notes,
            f"WARNING: the serving image does not have: {asked}",
            f"WARNING: an environment with them cannot be built here, the image is used as it is: {problem}",
        ]

    async def close(self) -> None:
        """Give up builds that are under way."""
        for build in self._builds.values():
            build.cancel()
        await asyncio.gather(*self._builds.values(), return_exceptions=True)

    @property
    def _python_version(self) -> str:
        return self._image_python.resolve().name.removeprefix("python")

    def _python_notes(self, wanted: Wanted) -> list[str]:
        ours = self._python_version
        if wanted.python and wanted.python.split(".")[:2] != ours.split(".")[:2]:
            return [f"WARNING: Python {wanted.python} is asked for; the local Azure serves with Python {ours}"]
        return []

    async def _build(self, asked: list[Requirement], stand_in: StandIn | None, python: Path) -> str | None:
        """None when `python` is usable, else why it could not be built."""
        if await asyncio.to_thread(python.exists):
            return None
        uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
        if uv is None:
            return "uv is not installed"
        place = python.parent.parent
        unfinished = place.with_name(f"{place.name}.{os.getpid()}")
        install = [uv, "pip", "install", "--quiet", "--python", str(unfinished / "bin" / "python")]
        server = [line for line in IMAGE_REQUIREMENTS.read_text(encoding="utf-8").split() if "inference-server" in line]
        rest = [str(each) for each in asked if not _brought(each, stand_in)]
        commands = [
            [uv, "venv", "--quiet", "--relocatable", "--python", str(self._image_python), str(unfinished)],
            *([[*install, "--no-deps", "-r", str(stand_in.lock)]] if stand_in else []),
            [*install, *server, *rest],
        ]
        try:
            for command in commands:
                if problem := await _run(command):
                    return problem
            await asyncio.to_thread(_settle, unfinished, place, stand_in)
        finally:
            await asyncio.to_thread(shutil.rmtree, unfinished, True)
        return None


def _key(wanted: Wanted, stand_in: StandIn | None) -> str:
    contents = json.dumps(sorted(set(wanted.requirements))) + (stand_in.contents() if stand_in else "")
    return hashlib.sha256(contents.encode()).hexdigest()[:16]


def _brought(requirement: Requirement, stand_in: StandIn | None) -> bool:
    name = _library(requirement.name)
    return name in SERVER_LIBRARIES or bool(stand_in and stand_in.replaces(name))


def _settle(unfinished: Path, place: Path, stand_in: StandIn | None) -> None:
    """Put a finished environment where it is looked for, unless another process was first."""
    if stand_in and stand_in.startup:
        (site,) = unfinished.glob("lib/python3*/site-packages")
        shutil.copy(stand_in.startup, site / "sitecustomize.py")
    try:
        unfinished.rename(place)
    except OSError:
        if not (place / "bin" / "python").exists():
            raise


async def _run(command: list[str]) -> str | None:
    process = await asyncio.create_subprocess_exec(
        *command, env=MACHINE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), BUILD_SECONDS)
    except BaseException as error:
        if process.returncode is None:
            process.kill()
            await process.wait()
        if isinstance(error, TimeoutError):
            return f"it took longer than {BUILD_SECONDS:.0f} s"
        raise
    return None if process.returncode == 0 else " ".join(output.decode(errors="replace").split())[-500:]
