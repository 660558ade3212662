"""Third step of batch scoring: the parts of all mini-batches into one file of predictions, in the order of the plan.

The form goes by the name of the file: `.csv` with the header `file,row,prediction`, where an object becomes a column
`prediction.<key>` for each of its keys and a list is written as JSON; `.jsonl`; or `.parquet`. Beside it come
`errors.jsonl`, if there are any, and `summary.json`. Exits with 1 if more files failed than --error-threshold allows,
and if all of them did: then it is the model, whatever the threshold.
A run that was skipped writes its summary only, and so never replaces the predictions of another.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Any, Iterator

from promotion_plan import PLAN, RUNNING, now, write_json

SCORING = "scoring.json"
SHOWN = 20
ROWS_PER_GROUP = 50000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=Path, required=True, help="what the first step has written")
    parser.add_argument("--parts", type=Path, required=True, help="what the second step has written")
    parser.add_argument("--predictions", type=Path, required=True, help="folder for the result")
    parser.add_argument("--state", type=Path, required=True, help="folder that all runs of the schedule share")
    parser.add_argument("--error-threshold", type=int, default=0, help="files that may fail; -1 for any number")
    parser.add_argument("--output-file-name", type=output_name, default="predictions.csv")
    options = parser.parse_args()
    plan = json.loads((options.batches / PLAN).read_text(encoding="utf-8"))
    try:
        failed = collect(plan, options.parts, options.predictions, options.output_file_name)
    finally:
        remove_marker(options.state, plan["run"])
    if failed and len(failed) == plan["files"] + len(plan["unsupported"]):
        sys.exit("no file could be scored:\n  " + "\n  ".join(lines_of(failed)))
    if options.error_threshold >= 0 and len(failed) > options.error_threshold:
        sys.exit(too_many(failed, options.error_threshold))


def output_name(text: str) -> str:
    if Path(text).suffix.lower() not in WRITERS or Path(text).name != text:
        raise argparse.ArgumentTypeError("{} is no file name that ends in {}".format(text, ", ".join(WRITERS)))
    return text


def collect(plan: dict[str, Any], folder: Path, predictions: Path, name: str) -> list[dict[str, str]]:
    """Writes the results; gives the files that failed."""
    parts = [folder / (batch + ".jsonl") for batch in plan["batches"]]
    missing = [part.name for part in parts if not part.is_file()]
    if missing and plan["skipped"] is None:
        sys.exit(
            "{} of {} mini-batches have no part in {}: {}. Their scoring failed; see the logs of the step before.".format(
                len(missing), len(parts), folder, ", ".join(missing[:SHOWN])
            )
        )
    predictions.mkdir(parents=True, exist_ok=True)
    failed, rows = list(plan["unsupported"]), 0
    if plan["skipped"] is None:
        contents = Contents(parts)
        failed, rows = failed + contents.failed, contents.rows
        WRITERS[Path(name).suffix.lower()](predictions / name, contents)
    write_errors(predictions / "errors.jsonl", failed)
    model = json.loads(Path(__file__).with_name(SCORING).read_text(encoding="utf-8"))["model"]
    summary = {
        "run": plan["run"],
        "model": {"name": model["name"], "version": model["version"]},
        "skipped": plan["skipped"],
        "files": plan["files"] + len(plan["unsupported"]),
        "failed_files": len(failed),
        "rows": rows,
        "seconds": round((now() - datetime.fromisoformat(plan["started"])).total_seconds(), 3),
    }
    write_json(predictions / "summary.json", summary)
    print(json.dumps(summary))
    return failed


class Contents:
    """What the parts hold, never all of it at a time: read through once for its shape, then as often as asked.

    `columns` maps the name of each column of predictions to the names of the types in it.
    """

    def __init__(self, parts: list[Path]) -> None:
        self._parts = parts
        self.failed: list[dict[str, str]] = []
        self.rows = 0
        self.columns: dict[str, set[str]] = {}
        for line in self._lines():
            if "error" in line:
                self.failed.append(line)
                continue
            self.rows += 1
            for name, value in cells(line["prediction"]).items():
                kinds = self.columns.setdefault(name, set())
                if value is not None:
                    kinds.add("str" if is_long(value) else type(value).__name__)
        self.columns = self.columns or {"prediction": set()}

    def _lines(self) -> Iterator[dict[str, Any]]:
        for part in self._parts:
            with part.open(encoding="utf-8") as file:
                for line in file:
                    yield json.loads(line)

    def scored(self) -> Iterator[dict[str, Any]]:
        return (line for line in self._lines() if "error" not in line)


def is_long(value: Any) -> bool:
    """Parquet's integers have 64 bits."""
    return isinstance(value, int) and not -(2**63) <= value < 2**63


def cells(prediction: Any) -> dict[str, Any]:
    """A prediction by column."""
    if isinstance(prediction, dict):
        return {"prediction." + key: value for key, value in prediction.items()}
    return {"prediction": prediction}


def write_csv(path: Path, contents: Contents) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["file", "row", *list(contents.columns)], lineterminator="\n")
        writer.writeheader()
        for line in contents.scored():
            texts = {name: as_text(value) for name, value in cells(line["prediction"]).items()}
            writer.writerow({"file": line["file"], "row": line["row"], **texts})


def write_jsonl(path: Path, contents: Contents) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        file.writelines(json.dumps(line) + "\n" for line in contents.scored())


def write_parquet(path: Path, contents: Contents) -> None:
    """A group of rows at a time. Columns of one type keep it; others, and lists, are text as in CSV."""
    import pyarrow
    import pyarrow.parquet

    known = {"bool": pyarrow.bool_(), "int": pyarrow.int64(), "float": pyarrow.float64()}
    kinds = {name: column_kind(found) for name, found in contents.columns.items()}
    fields = [("file", pyarrow.string()), ("row", pyarrow.int64())]
    schema = pyarrow.schema(fields + [(name, known.get(kind, pyarrow.string())) for name, kind in kinds.items()])
    with pyarrow.parquet.ParquetWriter(str(path), schema) as writer:
        for group in groups(contents.scored(), ROWS_PER_GROUP):
            values: dict[str, list[Any]] = {name: [line[name] for line in group] for name in ("file", "row")}
            rows = [cells(line["prediction"]) for line in group]
            for name, kind in kinds.items():
                column = [row.get(name) for row in rows]
                values[name] = [as_text(value) for value in column] if kind == "str" else column
            arrays = [pyarrow.array(values[field.name], field.type) for field in schema]
            writer.write_table(pyarrow.Table.from_arrays(arrays, schema=schema))


WRITERS = {".csv": write_csv, ".jsonl": write_jsonl, ".parquet": write_parquet}


def column_kind(found: set[str]) -> str:
    if found <= {"int", "float"} and "float" in found:
        return "float"
    return next(iter(found)) if len(found) == 1 and found <= {"bool", "int"} else "str"


def groups(lines: Iterator[Any], size: int) -> Iterator[list[Any]]:
    group = []
    for line in lines:
        group.append(line)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def as_text(value: Any) -> Any:
    return value if value is None or isinstance(value, str) else json.dumps(value)


def write_errors(path: Path, failed: list[dict[str, str]]) -> None:
    if failed:
        path.write_text("".join(json.dumps(error) + "\n" for error in failed), encoding="utf-8")
    elif path.exists():
        path.unlink()  # of an earlier run into the same folder


def remove_marker(state: Path, run: str) -> None:
    """The next run of the schedule may start, unless the marker is already that of another one."""
    marker = state / RUNNING
    try:
        if json.loads(marker.read_text(encoding="utf-8")).get("run") == run:
            marker.unlink()
    except (FileNotFoundError, ValueError):
        pass


def too_many(failed: list[dict[str, str]], threshold: int) -> str:
    head = "could not be scored: {} of the files, where the error threshold is {} (errors.jsonl has them all):"
    return "\n  ".join([head.format(len(failed), threshold), *lines_of(failed)])


def lines_of(failed: list[dict[str, str]]) -> list[str]:
    rest = ["and {} more".format(len(failed) - SHOWN)] if len(failed) > SHOWN else []
    return ["{}: {}".format(error["file"], error["error"]) for error in failed[:SHOWN]] + rest


if __name__ == "__main__":
    main()
