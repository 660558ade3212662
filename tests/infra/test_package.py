"""The deployed folder is complete: with nothing beside it but the packages of requirements.txt, everything can be imported."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.infra.package import POLICY, REPOSITORY, SETTINGS, deployed, distributions, installed
from tests.unit.test_architecture import IMPORTS

# What takes long to load, or is only needed once there is work.
HEAVY = (
    *("azure.ai", "azure.core", "azure.data", "azure.eventgrid", "azure.identity", "azure.monitor", "azure.servicebus"),
    *("azure.storage", "jsonschema", "marshmallow", "mlflow", "numpy", "opentelemetry", "requests"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`app` as it is deployed, and `site` with the packages that Azure Functions would install for it."""
    folder = tmp_path_factory.mktemp("package")
    for path in deployed():
        (folder / "app" / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / path, folder / "app" / path)
    shutil.copy(REPOSITORY / "promotion.sample.yaml", folder / "app" / POLICY)
    for each in distributions():
        for relative, where in installed(each):
            there = folder / "site" / relative
            there.parent.mkdir(parents=True, exist_ok=True)
            there.symlink_to(where)
            compiled, kept = there.parent / "__pycache__", where.parent / "__pycache__"
            if kept.is_dir() and not compiled.exists():
                compiled.symlink_to(kept)
    return folder


def ran(folder: Path, code: str, **settings: str) -> list[str]:
    """What a program prints as JSON, that has this folder and the standard library, and nothing else."""
    begin = f"import json, sys; sys.path[:0] = {[str(folder / 'app'), str(folder / 'site')]}; "
    command = [sys.executable, "-I", "-S", "-B", "-W", "ignore", "-c", begin + code]
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), **SETTINGS, **settings}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found: list[str] = json.loads(done.stdout)
    return found


def test_the_app_loads_without_what_is_heavy(folder: Path) -> None:
    loaded = ran(folder, "import function_app; print(json.dumps(sorted(sys.modules)))")
    assert {"function_app", "azure.functions", "core.promotion", "functions.worker"} <= {*loaded}
    assert [name for name in loaded if name.startswith(HEAVY)] == []


def test_with_telemetry_the_app_itself_loads_the_interface_only(folder: Path) -> None:
    """SDK and exporters are loaded by the worker before; where they cannot be, the app runs without."""
    code = "import function_app; print(json.dumps(sorted(sys.modules)))"
    loaded = ran(folder, code, PYTHON_APPLICATIONINSIGHTS_ENABLE_TELEMETRY="true")
    assert "opentelemetry.trace" in loaded
    more = tuple(name for name in HEAVY if name != "opentelemetry")
    assert [name for name in loaded if name.startswith((*more, "opentelemetry.sdk", "opentelemetry.exporter"))] == []


def test_everything_that_is_ever_imported_is_there(folder: Path) -> None:
    """Also what is imported when it is first needed; and Azure Monitor, which the worker loads."""
    modules = {found.module for found in IMPORTS if not found.file.startswith("core/scoring/")}
    code = (
        "import importlib\n"
        "def is_there(name):\n"
        "    try:\n"
        "        return bool(importlib.import_module(name))\n"
        "    except ModuleNotFoundError as error:\n"
        "        above, _, last = name.rpartition('.')\n"
        "        return error.name == name and bool(above) and hasattr(importlib.import_module(above), last)\n"
        f"print(json.dumps([name for name in {sorted(modules)} if not is_there(name)]))"
    )
    assert len(modules) > 100
    assert ran(folder, code) == []
    assert ran(folder, "import azure.monitor.opentelemetry; print('[]')") == []


def test_what_is_not_deployed_cannot_be_imported(folder: Path) -> None:
    """Or the tests above would hold for nothing."""
    code = (
        "import importlib.util; found = importlib.util.find_spec\n"
        "print(json.dumps([n for n in ('tests', 'emulator', 'demo', 'typer', 'numpy', 'pytest') if found(n)]))"
    )
    assert ran(folder, code) == []
