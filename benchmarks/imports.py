"""What it costs to import the intake path, against importing it together with `azure.ai.ml`.

CPU seconds of a fresh interpreter, median of several. Two rows: what the host imports to load the app, and what the first
event makes it import besides (clients of storage, tables, Service Bus and identity). `aiohttp` is kept out of both sides:
the local Azure needs it, a deployed app does not have it, and `azure-storage-blob` imports it where it is found.
"""

import statistics
import subprocess
import sys

from rich.console import Console
from rich.table import Table

RUNS = 7
LOAD = "import functions.intake, core.intake, core.policy, core.settings"
FIRST_EVENT = (
    f"{LOAD}, core.adapters.azure_ml_source, core.adapters.ledger_storage, core.adapters.service_bus, azure.identity"
)


def cpu_seconds(code: str) -> float:
    program = (
        "import sys, time; sys.modules['aiohttp'] = None; began = time.process_time();"
        f"{code}; print(time.process_time() - began)"
    )
    command = [sys.executable, "-W", "ignore", "-c", program]
    runs = (subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(RUNS))
    return statistics.median(float(run) for run in runs)


def main() -> None:
    table = Table(title=f"Imports: CPU seconds, median of {RUNS} fresh interpreters", title_justify="left")
    for column in ("what", "alone", "with azure.ai.ml", "ratio"):
        table.add_column(column)
    for name, code in (("to load the app", LOAD), ("to handle the first event", FIRST_EVENT)):
        alone, together = cpu_seconds(code), cpu_seconds(f"{code}, azure.ai.ml")
        table.add_row(name, f"{alone:.2f}", f"{together:.2f}", f"{alone / together:.2f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
