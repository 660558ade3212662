"""First step of batch scoring: which files there are to score, in mini-batches of a few files each.

Writes into --batches one `batch-00001.json` per mini-batch, at least one, and `plan.json`, which says what was found.
With `--overlap skip`, a run that finds another one of its schedule still running has nothing to score.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Iterator

CSV = (".csv",)
PARQUET = (".parquet", ".pq", ".pqt")
JSON = (".jsonl", ".ndjson", ".json")
SUPPORTED = CSV + PARQUET + JSON
PLAN, RUNNING = "plan.json", "running.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of input files, or one file")
    parser.add_argument("--batches", type=Path, required=True, help="folder for the mini-batches")
    parser.add_argument("--state", type=Path, required=True, help="folder that all runs of the schedule share")
    parser.add_argument("--files-per-batch", type=positive, default=1)
    parser.add_argument("--overlap", choices=("allow", "skip"), default="allow")
    parser.add_argument("--stale-after", type=float, default=86400, help="seconds after which a marker is left over")
    options = parser.parse_args()
    if not options.data.exists():
        sys.exit("--data {}: there is no such file or folder".format(options.data))
    plan: dict[str, Any] = {
        "run": run_id(),
        "started": now().isoformat(),
        "skipped": None,
        "files": 0,
        "unsupported": [],
    }
    batches: list[list[str]] = [[]]
    if options.overlap == "skip":
        plan["skipped"] = other_run(options.state, plan["run"], options.stale_after)
    if plan["skipped"] is None:
        if options.overlap == "skip":
            write_json(options.state / RUNNING, {"run": plan["run"], "since": plan["started"]})
        files = list(input_files(options.data))
        supported = [file for file in files if is_supported(file)]
        plan["files"] = len(supported)
        plan["unsupported"] = [unsupported(file) for file in files if not is_supported(file)]
        size = options.files_per_batch
        batches = [supported[start : start + size] for start in range(0, len(supported), size)] or batches
    plan["batches"] = write_batches(options.batches, batches)
    write_json(options.batches / PLAN, plan)
    print(plan["skipped"] or "{} files in {} mini-batches".format(plan["files"], len(batches)))


def positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return int(text)


def run_id() -> str:
    """The pipeline job, which is the same in all its steps."""
    return os.environ.get("AZUREML_ROOT_RUN_ID") or os.environ.get("AZUREML_RUN_ID") or "local"


def now() -> datetime:
    return datetime.now(timezone.utc)


def input_files(data: Path) -> Iterator[str]:
    """Files with content below `data`, relative to it and sorted; or the name of `data`, if it is a file itself.

    Left out is what Spark and others do not read either: hidden files and folders, folders with a leading `_`, and
    files with one that are no data (`_SUCCESS`, `_committed_...`).
    """
    if data.is_file():
        if data.stat().st_size:
            yield data.name
        return
    found = []
    for folder, folders, files in os.walk(str(data)):
        folders[:] = [name for name in folders if name[0] not in "._"]
        paths = (Path(folder, name) for name in files if name[0] != "." and (name[0] != "_" or is_supported(name)))
        found += [path.relative_to(data).as_posix() for path in paths if path.stat().st_size]
    yield from sorted(found)


def is_supported(file: str) -> bool:
    return Path(file).suffix.lower() in SUPPORTED


def unsupported(file: str) -> dict[str, str]:
    what = Path(file).suffix or "no suffix"
    return {"file": file, "error": "not scored: {} is none of {}".format(what, ", ".join(SUPPORTED))}


def other_run(state: Path, run: str, stale_after: float) -> Any:
    """Why this run is skipped: another one has left its marker and is not too old; None if there is none."""
    try:
        marker = json.loads((state / RUNNING).read_text(encoding="utf-8"))
        since = datetime.fromisoformat(marker["since"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        print("{} is no marker of a run and is replaced: {!r}".format(state / RUNNING, error))
        return None
    if marker["run"] == run or (now() - since).total_seconds() >= stale_after:
        return None
    return "run {} has been running since {}".format(marker["run"], marker["since"])


def write_batches(folder: Path, batches: list[list[str]]) -> list[str]:
    """The names of the mini-batches. What an earlier attempt of this step has left is removed."""
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob("batch-*.json"):
        left.unlink()
    names = ["batch-{:05d}".format(number) for number in range(1, len(batches) + 1)]
    for name, files in zip(names, batches):
        write_json(folder / (name + ".json"), {"files": files})
    return names


def write_json(path: Path, content: Any) -> None:
    write_text(path, [json.dumps(content, indent=1)])


def write_text(path: Path, lines: Any) -> None:
    """All lines or nothing: a file under this name is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(".{}.{}".format(path.name, os.getpid()))
    with partial.open("w", encoding="utf-8", newline="") as file:
        file.writelines(line + "\n" for line in lines)
    partial.replace(path)


if __name__ == "__main__":
    main()
