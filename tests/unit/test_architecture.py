"""Which way imports go, held against the source: decisions know nothing of Azure, the product nothing of the local Azure."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

REPOSITORY = Path(__file__).parents[2]
PRODUCT = sorted(
    [REPOSITORY / "function_app.py", *REPOSITORY.glob("core/**/*.py"), *REPOSITORY.glob("functions/**/*.py")]
)


class Import(NamedTuple):
    """An import as it stands in a file; `deferred` if it happens only when a function is called."""

    file: str
    module: str
    deferred: bool

    def is_of(self, *packages: str) -> bool:
        return any(self.module == package or self.module.startswith(f"{package}.") for package in packages)


def _imports(node: ast.AST, deferred: bool = False) -> Iterator[tuple[str, bool]]:
    """Modules, with the names taken from them (`from a import b` may be the module a.b); those for types alone left out."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((alias.name, deferred) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "imports are absolute"
            yield from ((f"{child.module}.{alias.name}", deferred) for alias in child.names)
        elif isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            yield from _imports(ast.Module(body=child.orelse, type_ignores=[]), deferred)
        else:
            is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _imports(child, deferred or is_function)


def imports_of(path: Path) -> list[Import]:
    name = str(path.relative_to(REPOSITORY))
    return [
        Import(name, module, deferred) for module, deferred in _imports(ast.parse(path.read_text(encoding="utf-8")))
    ]


IMPORTS = [found for path in PRODUCT for found in imports_of(path)]
# Adapters know Azure; scoring scripts run in the target, in environments of the models that they score.
DECISIONS = [
    found
    for found in IMPORTS
    if found.file.startswith("core/") and not found.file.startswith(("core/adapters/", "core/scoring/"))
]


def test_the_product_is_looked_at() -> None:
    """Or the tests below would hold for nothing."""
    files = {found.file for found in IMPORTS}
    assert {"function_app.py", "functions/worker.py", "core/realtime.py", "core/adapters/azure_ml_target.py"} <= files
    assert any(found.is_of("azure.ai.ml") for found in IMPORTS)


def test_decisions_import_the_standard_library_pydantic_and_yaml_only() -> None:
    allowed = ("core", "pydantic", "pydantic_core", "yaml", *sys.stdlib_module_names)
    assert [found for found in DECISIONS if not found.is_of(*allowed)] == []


def test_decisions_do_not_know_the_adapters() -> None:
    assert [found for found in DECISIONS if found.is_of("core.adapters")] == []


def test_scoring_scripts_know_nothing_of_the_service() -> None:
    """They are shipped alone."""
    shipped = [found for found in IMPORTS if found.file.startswith("core/scoring/")]
    assert shipped
    assert [found for found in shipped if found.is_of("core", "functions", "azure")] == []
    service = [found for found in IMPORTS if not found.file.startswith("core/scoring/")]
    assert [found for found in service if found.is_of("core.scoring")] == []


def test_core_does_not_know_the_functions() -> None:
    inside = [found for found in IMPORTS if found.file.startswith("core/")]
    assert [found for found in inside if found.is_of("functions", "azure.functions")] == []


def test_azure_functions_stays_at_the_edge() -> None:
    users = {found.file for found in IMPORTS if found.is_of("azure.functions")}
    assert {file for file in users if file != "function_app.py" and not file.startswith("functions/")} == set()


def test_the_edge_does_not_know_azures_clients() -> None:
    edge = [found for found in IMPORTS if found.file.startswith("functions/")]
    assert [found for found in edge if found.is_of("azure") and not found.is_of("azure.functions")] == []


def test_azure_ml_is_imported_by_adapters_when_it_is_needed() -> None:
    """It takes seconds and a hundred megabytes."""
    users = [found for found in IMPORTS if found.is_of("azure.ai.ml")]
    assert [found for found in users if not (found.deferred and found.file.startswith("core/adapters/"))] == []


def test_the_product_does_not_know_what_only_tests_it() -> None:
    outside = ("emulator", "tests", "demo", "benchmarks", "function_app")
    assert [found for found in IMPORTS if found.is_of(*outside)] == []


@pytest.mark.parametrize(
    "modules",
    [
        pytest.param(
            ["functions.intake", "core.intake", "core.adapters.azure_ml_source", "core.adapters.ledger_storage",
             "core.adapters.service_bus"],
            id="intake",
        ),
        pytest.param(["functions.worker", "core.promotion", "core.adapters.azure_ml_target"], id="worker, until it works"),
    ],
)  # fmt: skip
def test_a_host_starts_without_azure_ml_and_telemetry(modules: list[str]) -> None:
    """Whatever imports whatever: a fresh interpreter tells."""
    code = f"import json, sys, {', '.join(modules)}; print(json.dumps(sorted(sys.modules)))"
    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=60)
    loaded = json.loads(ran.stdout)
    assert set(modules) <= set(loaded)
    assert [
        name for name in loaded if name.startswith(("azure.ai", "marshmallow", "opentelemetry", "emulator", "tests"))
    ] == []
