"""`python -m demo`: train, register in the source workspace, watch the promotion, ask the endpoint in the target."""

import json
import logging
import sys
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from demo.azure import Operations, Workspaces
from demo.progress import Progress
from demo.scenarios import SCENARIOS, Scenario
from emulator.control_client import ControlClient
from emulator.launch import LocalAzureFailedError, launched

REPOSITORY = Path(__file__).parent.parent
DIRECTORY = REPOSITORY / ".local" / "demo"
POLICY = REPOSITORY / "promotion.sample.yaml"
TARGET = "prod"
PATIENCE = 600.0
FINAL = frozenset({"succeeded", "refused", "superseded", "cancelled", "rolled_back"})


def run(scenario: Scenario, endpoints: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """One scenario from training to predictions; its row of the report."""
    workspaces, operations = Workspaces(endpoints), Operations(endpoints)
    progress.say("train", f"{scenario.model}, with {scenario.origin} tools")
    trained = scenario.train(DIRECTORY / "models")
    started = time.monotonic()
    version = workspaces.register(scenario.model, trained, {"promote-to": TARGET})
    progress.say("register", f"{scenario.model}:{version} in workspace {endpoints['source']['workspace']}")
    row = watch(operations, ControlClient(endpoints["control_url"]), scenario.model, version, progress)
    matches = False
    if row["state"] == "succeeded":
        progress.say("endpoint", str(row["result"]["scoring_uri"]))
        answer = workspaces.ask(TARGET, row["endpoint"], trained.request)
        matches = answer == trained.predictions
        progress.say(
            "predictions", f"{len(answer)} rows, {'the same as' if matches else 'NOT those of'} the model here"
        )
    else:
        progress.say(row["state"], f"{row['why']} {row['remedy'] or ''}")
    return {
        "scenario": scenario.name,
        "origin": scenario.origin,
        "serve": scenario.serve,
        "model": scenario.model,
        "version": version,
        "target": TARGET,
        "endpoint": row["endpoint"],
        "state": row["state"],
        "predictions_match": matches,
        "stand_in": scenario.stand_in,
        "seconds": round(time.monotonic() - started, 1),
    }


def watch(
    operations: Operations, control: ControlClient, model: str, version: str, progress: Progress
) -> dict[str, Any]:
    """Show the promotion until it has ended. Looks again whenever something was written."""
    ends, seen = time.monotonic() + PATIENCE, 0
    while time.monotonic() < ends:
        events = operations.events_of(model, version)
        for event in events:
            progress.event(event)
            if event["outcome"] != "accepted":
                return {"state": event["outcome"], "endpoint": "", "why": event["why"], "remedy": event["remedy"]}
        row = operations.promotion_of(model, version) if events else None
        if row is not None:
            progress.promotion(row)
            if row["state"] in FINAL:
                return row
        seen = control.next_write(seen)
    return {"state": "still running", "endpoint": "", "why": f"after {PATIENCE:.0f} s", "remedy": None}


def show(console: Console, report: list[dict[str, Any]]) -> None:
    table = Table(title="Promotions", title_justify="left")
    for column in ("scenario", "model", "target", "endpoint", "state", "predictions", "seconds"):
        table.add_column(column)
    for row in report:
        predictions = "match" if row["predictions_match"] else "DO NOT MATCH"
        model = f"{row['model']}:{row['version']}"
        cells = (row["scenario"], model, row["target"], row["endpoint"], row["state"], predictions, str(row["seconds"]))
        table.add_row(*cells)
    console.print(table)


def main() -> int:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    console = Console() if sys.stdout.isatty() else Console(width=120)
    console.print("Starting the local Azure and the function app ...")
    report = []
    try:
        with launched(DIRECTORY, app=REPOSITORY, policy=POLICY) as endpoints:
            for scenario in SCENARIOS:
                console.print(f"\n[bold]{scenario.name}[/bold]")
                with Progress(console) as progress:
                    report.append(run(scenario, endpoints, progress))
    except LocalAzureFailedError as error:
        console.print(f"The local Azure did not start:\n{error}", style="red", markup=False)
        return 1
    path = DIRECTORY / "report.json"
    path.write_text(json.dumps(report, indent=2) + "\n")
    console.print()
    show(console, report)
    console.print(f"Report: {path.relative_to(REPOSITORY)}", soft_wrap=True)
    return 0 if all(row["predictions_match"] for row in report) else 1


if __name__ == "__main__":
    sys.exit(main())
