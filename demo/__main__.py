"""`python -m demo`: train, register in the source workspace, watch the promotion, ask for predictions in the target.

Six scenarios, each from a trained model to its predictions; then what operators do (`demo.episodes`).
"""

import json
import logging
import sys
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from demo.azure import Operations, Workspaces
from demo.episodes import EPISODES, EpisodeFailed, Setting
from demo.models import Trained
from demo.progress import Progress
from demo.scenarios import SCENARIOS, Scenario
from demo.watch import Watch
from emulator.control_client import ControlClient
from emulator.launch import LocalAzureFailedError, launched

REPOSITORY = Path(__file__).parent.parent
DIRECTORY = REPOSITORY / ".local" / "demo"
POLICY = REPOSITORY / "demo" / "promotion.yaml"
TARGET = "prod"
# When the sample policy's schedules fire (UTC), and where their runs read and write.
NIGHTLY_HOUR = 3
INPUT, OUTPUT = "to-score/{model}/", "predictions/{model}/"
TOLERANCE = 1e-6


@dataclass
class Promoted:
    """A scenario whose promotion has ended; `seconds` from its registration on."""

    scenario: Scenario
    trained: Trained
    version: str
    row: dict[str, Any]
    seconds: float
    matches: bool = False

    @property
    def succeeded(self) -> bool:
        return bool(self.row["state"] == "succeeded")

    def report(self) -> dict[str, Any]:
        scenario = self.scenario
        return {
            "scenario": scenario.name,
            "origin": scenario.origin,
            "serve": scenario.serve,
            "model": scenario.model,
            "version": self.version,
            "target": TARGET,
            "endpoint": self.row["endpoint"],
            "state": self.row["state"],
            "predictions_match": self.matches,
            "stand_in": bool(self.trained.imitated),
            "imitated": self.trained.imitated,
            "seconds": round(self.seconds, 1),
        }


def promote(scenario: Scenario, endpoints: Mapping[str, Any], progress: Progress) -> Promoted:
    """One scenario from training to the end of its promotion."""
    workspaces, operations = Workspaces(endpoints), Operations(endpoints)
    control = ControlClient(endpoints["control_url"])
    progress.say("train", f"{scenario.model}, as {scenario.origin} leaves it")
    trained = scenario.train(DIRECTORY / "models" / scenario.model)
    if trained.imitated:
        progress.say("stand-in", trained.imitated)
    workspaces.run_jobs(trained, control)
    started = time.monotonic()
    tags = {"promote-to": TARGET} | ({"promote-as": "batch"} if scenario.serve == "batch" else {})
    version = workspaces.register(scenario.model, trained, tags)
    progress.say("register", f"{scenario.model}:{version} in workspace {endpoints['source']['workspace']}")
    row = ended(Watch(operations, control, progress), scenario.model, version)
    if row["state"] != "succeeded":
        progress.say(row["state"], f"{row['why']} {row['remedy'] or ''}")
        progress.say("log", str((row.get("result") or {}).get("log", ""))[-2000:])
    return Promoted(scenario, trained, version, row, time.monotonic() - started)


def ended(watch: Watch, model: str, version: str) -> dict[str, Any]:
    """The promotion of this model version once it has ended; what came of its event if there is none."""
    event = watch.event(model, version)
    if event["outcome"] != "accepted":
        return {"state": event["outcome"], "endpoint": "", "why": event["why"], "remedy": event["remedy"]}
    return watch.reached(event["promotion_id"])


# ------------------------------------------------------------------------------------------------------------ predictions


def ask(promoted: Promoted, endpoints: Mapping[str, Any], progress: Progress) -> None:
    """Ask the endpoint in the target, and compare with what the model predicts here."""
    progress.say("endpoint", str(promoted.row["result"]["scoring_uri"]))
    answer = Workspaces(endpoints).ask(TARGET, promoted.row["endpoint"], promoted.trained.request)
    compare(promoted, promoted.trained.answers(answer), progress)


def compare(promoted: Promoted, predictions: list[Any], progress: Progress) -> None:
    expected = promoted.trained.predictions
    promoted.matches = len(predictions) == len(expected) and all(map(_equal, predictions, expected))
    verdict = "the same as" if promoted.matches else "NOT those of"
    progress.say("predictions", f"{len(predictions)} rows, {verdict} the model here")


def _equal(found: Any, expected: Any) -> bool:
    """Numbers may differ in their last digits, as CSV writes them; a file holds texts."""
    if isinstance(expected, int | float) and not isinstance(expected, bool):
        return abs(float(found) - expected) <= TOLERANCE * max(1.0, abs(expected))
    return str(found) == str(expected)


def run_schedules(promoted: list[Promoted], endpoints: Mapping[str, Any], console: Console) -> None:
    """Give each batch model something to score, let the night come, and compare what the scheduled runs wrote."""
    console.print("\n[bold]Scheduled runs[/bold]")
    control = ControlClient(endpoints["control_url"])
    workspaces = Workspaces(endpoints)
    with Progress(console) as progress:
        for each in promoted:
            path = INPUT.format(model=each.scenario.model) + "rows.csv"
            workspaces.upload(TARGET, path, each.trained.rows.to_csv(index=False).encode())
            progress.say("input", f"{len(each.trained.rows)} rows to {path}")
        control.advance(_seconds_until_tonight(control.now()))
        progress.say("clock", f"it is {control.now():%H:%M} UTC in the local Azure: the schedules are due")
        workspaces = Workspaces(endpoints)  # with tokens of the new day
        for each in promoted:
            started = time.monotonic()
            run = _finished_run(each, workspaces, Watch(Operations(endpoints), control, progress))
            progress.say("scheduled run", f"{run.display_name} {run.status.lower()}")
            if run.status == "Completed":
                rows = workspaces.predictions(TARGET, f"{OUTPUT.format(model=each.scenario.model)}{run.name}/")
                compare(each, each.trained.predicted(rows), progress)
            each.seconds += time.monotonic() - started


def _seconds_until_tonight(now: datetime) -> float:
    tonight = now.replace(hour=NIGHTLY_HOUR, minute=0, second=1, microsecond=0)
    return (tonight + timedelta(days=tonight <= now) - now).total_seconds()


def _finished_run(promoted: Promoted, workspaces: Workspaces, watch: Watch) -> Any:
    schedule = promoted.row["result"]["schedule"]
    return watch.until(lambda: next(iter(workspaces.finished_runs(TARGET, schedule)), None), f"a run of {schedule}")


# ---------------------------------------------------------------------------------------------------------------- report


def play(done: list[Promoted], endpoints: Mapping[str, Any], console: Console) -> list[dict[str, Any]]:
    """The episodes, in their order; a row for each."""
    trained = {each.scenario.model: each.trained for each in done}
    control, operations = ControlClient(endpoints["control_url"]), Operations(endpoints)
    played = []
    for episode in EPISODES:
        console.print(f"\n[bold]{episode.name}[/bold]")
        started = time.monotonic()
        with Progress(console) as progress:
            setting = Setting(
                workspaces=Workspaces(endpoints),
                operations=operations,
                control=control,
                progress=progress,
                watch=Watch(operations, control, progress),
                wine=trained["wine-classifier"],
                script=trained["wine-script"],
            )
            try:
                outcome, succeeded = episode.play(setting), True
            except (EpisodeFailed, OSError, TimeoutError) as error:
                outcome, succeeded = str(error), False
                progress.say("FAILED", outcome)
        seconds = round(time.monotonic() - started, 1)
        played.append({"episode": episode.name, "succeeded": succeeded, "outcome": outcome, "seconds": seconds})
    return played


def show_episodes(console: Console, played: list[dict[str, Any]]) -> None:
    table = Table(title="What operators do", title_justify="left")
    for column in ("episode", "outcome", "seconds"):
        table.add_column(column)
    for row in played:
        failed = "" if row["succeeded"] else "FAILED: "
        table.add_row(row["episode"], failed + row["outcome"], str(row["seconds"]))
    console.print(table)


def show(console: Console, report: list[dict[str, Any]]) -> None:
    table = Table(title="Promotions", title_justify="left")
    for column in ("scenario", "model", "target", "endpoint", "state", "predictions", "stand-in", "seconds"):
        table.add_column(column)
    for row in report:
        predictions = "match" if row["predictions_match"] else "DO NOT MATCH"
        model = f"{row['model']}:{row['version']}"
        cells = (row["scenario"], model, row["target"], row["endpoint"], row["state"], predictions)
        table.add_row(*cells, "yes" if row["stand_in"] else "no", str(row["seconds"]))
    console.print(table)


def run(console: Console) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """All scenarios and all episodes; the rows of both reports. The clock jumps to the night only at the end."""
    done = []
    with launched(DIRECTORY, app=REPOSITORY, policy=POLICY) as endpoints:
        for scenario in SCENARIOS:
            console.print(f"\n[bold]{scenario.name}[/bold]")
            with Progress(console) as progress:
                done.append(promote(scenario, endpoints, progress))
                if done[-1].succeeded and scenario.serve == "realtime":
                    ask(done[-1], endpoints, progress)
        played = play(done, endpoints, console)
        if batch := [each for each in done if each.scenario.serve == "batch" and each.succeeded]:
            run_schedules(batch, endpoints, console)
    return [each.report() for each in done], played


def main() -> int:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    console = Console() if sys.stdout.isatty() else Console(width=120)
    console.print("Starting the local Azure and the function app ...")
    try:
        report, played = run(console)
    except LocalAzureFailedError as error:
        console.print(f"The local Azure did not start:\n{error}", style="red", markup=False)
        return 1
    path = DIRECTORY / "report.json"
    path.write_text(json.dumps(report, indent=2) + "\n")
    path.with_name("episodes.json").write_text(json.dumps(played, indent=2) + "\n")
    console.print()
    show(console, report)
    show_episodes(console, played)
    console.print(f"Report: {path.relative_to(REPOSITORY)}", soft_wrap=True)
    return 0 if all(row["predictions_match"] for row in report) and all(row["succeeded"] for row in played) else 1


if __name__ == "__main__":
    sys.exit(main())
