"""What a cold start costs: what is loaded when, and what is deployed. Each figure against an alternative in the same run.

CPU seconds of fresh interpreters, median of several; the two sides of a row take turns. `aiohttp` is kept out of both: the local
Azure needs it, a deployed app does not have it, and `azure-storage-blob` imports it where it is found.
"""

import os
import statistics
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import Distribution, distribution, distributions
from pathlib import Path

from rich.console import Console
from rich.table import Table

from emulator import application_insights
from tests.infra import package

RUNS = 7
ENVIRONMENT = {
    **os.environ,
    **package.SETTINGS,
    **application_insights.SETTINGS,
    "PROMOTION_POLICY": "promotion.sample.yaml",
}
WITHOUT = {**ENVIRONMENT, "PYTHON_APPLICATIONINSIGHTS_ENABLE_TELEMETRY": "false"}
LOAD = "import function_app"
SDKS = "import azure.core.rest, azure.identity, azure.storage.blob, azure.data.tables, azure.servicebus"
FIRST_EVENT = f"{LOAD}; import azure.identity; function_app._intake()"
AZURE_ML = "import azure.ai.ml"
# What Microsoft's worker does before it loads the app, where telemetry is switched on. The library itself is there already.
LIBRARY = "from azure_functions_runtime.otel import initialize_azure_monitor, otel_manager"
TELEMETRY = "initialize_azure_monitor(); assert otel_manager.get_azure_monitor_available()"


def cpu_seconds(code: str, before: str = "", environment: dict[str, str] = WITHOUT) -> float:
    """Of a fresh interpreter that has done `before`. It ends at once: nothing is sent anywhere on its way out."""
    program = (
        f"import os, sys, time; sys.modules['aiohttp'] = None\n{before}\nbegan = time.process_time()\n"
        f"{code}\nprint(time.process_time() - began, flush=True); os._exit(0)"
    )
    command = [sys.executable, "-W", "ignore", "-c", program]
    ran = subprocess.run(command, env=environment, cwd=package.REPOSITORY, capture_output=True, text=True, check=True)
    return float(ran.stdout)


def loading() -> Table:
    table = Table(title=f"Cold start: CPU seconds, median of {RUNS} fresh interpreters", title_justify="left")
    for column in ("what", "seconds", "against", "seconds", "ratio"):
        table.add_column(column)

    def row(
        what: str, code: str, against: str, other: str, before: str = "", environment: dict[str, str] = WITHOUT
    ) -> None:
        pairs = [(cpu_seconds(code, before), cpu_seconds(other, before, environment)) for _ in range(RUNS)]
        ours, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
        table.add_row(what, f"{ours:.2f}", against, f"{theirs:.2f}", f"{ours / theirs:.2f}")

    row("load the app", LOAD, "the same and azure.ai.ml", f"{LOAD}; {AZURE_ML}")
    row("load the app", LOAD, "the same with telemetry", f"{TELEMETRY}\n{LOAD}", LIBRARY, ENVIRONMENT)
    row("load, and clients of the first event", FIRST_EVENT, "the same and azure.ai.ml", f"{FIRST_EVENT}; {AZURE_ML}")
    row("Azure's SDKs that these need, alone", SDKS, "load, and clients of the first event", FIRST_EVENT)
    return table


def packaging() -> Table:
    table = Table(title="Package", title_justify="left")
    for column in ("what", "files", "kB", "against", "files", "kB", "ratio of kB"):
        table.add_column(column)

    def row(what: str, files: Iterable[Path], against: str, others: Iterable[Path]) -> None:
        ours, theirs = ([path.stat().st_size for path in side] for side in (files, others))
        table.add_row(
            *(what, str(len(ours)), f"{sum(ours) / 1000:.0f}"),
            *(against, str(len(theirs)), f"{sum(theirs) / 1000:.0f}", f"{sum(ours) / sum(theirs):.2f}"),
        )

    below = package.REPOSITORY.joinpath
    row("app, by .funcignore", map(below, package.deployed()), "repository", map(below, package.tracked()))
    needed = files_of(package.distributions())
    row("packages of requirements.txt", needed, "of development", files_of(distributions()))
    row("azure-ai-ml", files_of([distribution("azure-ai-ml")]), "packages of requirements.txt", needed)
    return table


def files_of(packages: Iterable[Distribution]) -> set[Path]:
    return {where for each in packages for _, where in package.installed(each)}


def main() -> None:
    console = Console(width=120)
    console.print(loading())
    console.print(packaging())


if __name__ == "__main__":
    main()
