"""Real models, trained here, laid out as the tools of Azure ML leave them: in a registry, and among a run's artifacts.

Each function trains into a directory and returns a `Trained`, which says what is registered, what the run left, and
what the model predicts for some rows. What of it is not the tool's own is in `Trained.imitated`, and in docs/stand-ins.md.
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal


def _unchanged(answer: Any) -> list[Any]:
    return list(answer)


@dataclass(frozen=True)
class Trained:
    """A trained model. `rows` (a DataFrame) are the rows of `request`; `predictions` are the model's own for them.

    `folder` is what gets registered: a folder, or the one file of which the model consists. If a run trained it,
    `run_outputs` is the root of the run's artifacts, with `folder` in it, and `jobs` are the run `run` and those above
    it, outermost first, as the local Azure's control API takes them. `unwrap` finds the predictions in the answer to a
    request, `in_cell` the one in a cell of a batch run's CSV file.
    """

    folder: Path
    request: Any
    rows: Any
    predictions: list[Any]
    model_type: Literal["custom_model", "mlflow_model"] = "mlflow_model"
    run: str | None = None
    run_outputs: Path | None = None
    jobs: Sequence[Mapping[str, Any]] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    imitated: str = ""
    unwrap: Callable[[Any], list[Any]] = _unchanged
    in_cell: Callable[[str], Any] = str

    @property
    def model_path(self) -> str:
        """What `Model(path=...)` takes: the place in the run's artifacts, or the folder on this machine."""
        if self.run and self.run_outputs:
            inner = self.folder.relative_to(self.run_outputs).as_posix()
            return f"azureml://jobs/{self.run}/outputs/artifacts/paths/{inner}"
        return str(self.folder)

    def answers(self, answer: Any) -> list[Any]:
        """The predictions in what the endpoint answered."""
        return self.unwrap(answer)

    def predicted(self, lines: Sequence[Mapping[str, str]]) -> list[Any]:
        """The predictions in the lines of a batch run's CSV file."""
        return [self.in_cell(line["prediction"]) for line in lines]


def fresh(folder: Path) -> Path:
    """An empty folder, whatever was there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def records(rows: Any) -> list[dict[str, Any]]:
    """The rows of a DataFrame as JSON has them."""
    found: list[dict[str, Any]] = json.loads(rows.to_json(orient="records", double_precision=15))
    return found
