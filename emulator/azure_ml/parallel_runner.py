"""Runs the entry script of a parallel step: Azure ML's contract of init() and run(mini_batch), in one process.

Runs in the step's own Python, where nothing else of this project exists: standard library only, no newer than 3.8. Its
one argument is a JSON file: `entry_script`, `arguments`, `input` (folder or file), `mini_batch_size`, `max_retries`,
`timeout` (seconds of a mini-batch), `error_threshold`, `mini_batch_error_threshold`, `allowed_failed_percent`,
`append_row_to`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn


class TookTooLong(BaseException):
    """A mini-batch took longer than its timeout. Not an Exception: the script's own handlers must not catch it."""


def main() -> None:
    step = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    items = files_of(Path(step["input"]))
    if not items:
        sys.exit(f"The input data of the parallel step is empty: {step['input']}")
    # The real runner adds arguments of its own, so scripts have to tolerate some that they do not know.
    sys.argv = [
        step["entry_script"],
        *step["arguments"],
        "--run_id_of_the_runner",
        os.environ.get("AZUREML_RUN_ID", ""),
    ]
    script = load(Path(step["entry_script"]))
    script.init()
    size = step["mini_batch_size"]
    batches = [items[start : start + size] for start in range(0, len(items), size)]
    rows: list[str] = []
    failed_items = failed_batches = 0
    for number, batch in enumerate(batches):
        result = attempt(script, batch, number, step["max_retries"], step["timeout"])
        succeeded = 0 if result is None else len(result)
        failed_batches += succeeded < len(batch)
        failed_items += max(0, len(batch) - succeeded)
        rows += rows_of(result)
    if hasattr(script, "shutdown"):
        script.shutdown()
    if step.get("append_row_to"):
        with Path(step["append_row_to"]).open("a", encoding="utf-8") as file:
            file.writelines(row + "\n" for row in rows)
    say(f"{failed_batches} of {len(batches)} mini-batches and {failed_items} of {len(items)} items failed")
    if exceeds(failed_items, step["error_threshold"]):
        sys.exit(f"The step failed: {failed_items} items failed")
    percent = 100.0 * failed_batches / len(batches)
    if exceeds(failed_batches, step["mini_batch_error_threshold"]) or percent > step["allowed_failed_percent"]:
        sys.exit(f"The step failed: {failed_batches} mini-batches failed")


def files_of(place: Path) -> list[str]:
    if place.is_file():
        return [str(place)]
    return sorted(str(path) for path in place.rglob("*") if path.is_file())


def load(path: Path) -> Any:
    """The entry script as a module; its folder takes the place of ours among those that are searched."""
    sys.path[0] = str(path.resolve().parent)
    specification = importlib.util.spec_from_file_location("entry_script", path)
    if specification is None or specification.loader is None:
        sys.exit(f"The entry script {path} cannot be loaded")
    module = importlib.util.module_from_spec(specification)
    sys.modules["entry_script"] = module  # dataclasses and pickle look up the module of what they are given
    specification.loader.exec_module(module)
    return module


def attempt(script: Any, batch: list[str], number: int, retries: int, timeout: float) -> Any:
    """The result of a mini-batch, None if it failed or took too long each time."""
    signal.signal(signal.SIGALRM, take_too_long)
    for _ in range(retries + 1):
        try:
            signal.setitimer(signal.ITIMER_REAL, timeout)
            try:
                return countable(script.run(batch))
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        except (Exception, TookTooLong):
            say(f"Mini-batch {number} failed:\n{traceback.format_exc()}")
    return None


def countable(result: Any) -> Any:
    """A result whose length counts successes. Raises TypeError for what is none."""
    if not hasattr(result, "__len__") or isinstance(result, (str, bytes)):
        raise TypeError(f"run() must return a list, a tuple or a DataFrame, not {type(result).__name__}")
    return result


def take_too_long(*_: object) -> NoReturn:
    raise TookTooLong("the mini-batch took longer than its timeout")


def rows_of(result: Any) -> list[str]:
    """What a result adds to the file of rows: a line for each item, or for each row of a DataFrame."""
    if result is None:
        return []
    if hasattr(result, "to_csv"):
        text: str = result.to_csv(sep=" ", header=False, index=False)
        return text.splitlines()
    return [str(row) for row in result]


def exceeds(count: int, threshold: float) -> bool:
    """A threshold of -1 ignores every failure."""
    return threshold >= 0 and count > threshold


def say(text: str) -> None:
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
