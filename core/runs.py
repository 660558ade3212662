"""Which output of a completed run is the model. Pure: what a run left is asked for through `Artifacts`.

The layouts are those that Azure ML writes (docs/runs.md). What is not there, or there more than once, is refused with the
names of what was found: a rule can say which it is, and nothing is guessed.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Protocol

from core import tags
from core.errors import Reason, Refusal, Transient
from core.events import is_asset_name, is_run_id
from core.evidence import BEST_CHILD
from core.mlmodel import MLMODEL
from core.origin import Evidence, Origin, Run, classify, is_batch_scoring, is_part
from core.ports import SourceModel, SourceRun

MLFLOW, CUSTOM = "mlflow_model", "custom_model"
MODEL_TYPES = frozenset({MLFLOW, CUSTOM})
OUTPUTS, MLFLOW_MODEL, TRAINED_MODEL = "outputs", "outputs/mlflow-model", "trained_model_outputs"
# Each step is one listing; a pipeline of more is told what its model is.
STEP_LIMIT = 100
VERSION_LIMIT = 30
NAMED_LIMIT = 12
_BEST_TRIAL = "best_child_run_id"
_REUSED = "azureml.reusedrunid"
_STEP_NAME = "azureml.modulename"


class Artifacts(Protocol):
    """What runs left in their workspace."""

    def steps(self, run_id: str) -> tuple[Run, ...]:
        """The runs directly below a run."""
        ...

    def paths(self, run_id: str) -> tuple[str, ...]:
        """The paths of all artifacts of a run."""
        ...


@dataclass(frozen=True)
class Output:
    """An output of a run: where it is, the run that wrote it, and what a rule says to mean it (`output`)."""

    run_id: str
    uri: str
    name: str


def nothing_by_itself(run: Run) -> tuple[Reason, str] | None:
    """Why the end of this run promotes nothing, whatever rules say; None if it may promote something."""
    if tags.is_copy(run.tags):
        return Reason.OWN_COPY, f"run {run.id} scores with a model that a promotion put there"
    if is_batch_scoring(run):
        return Reason.NOT_A_TRIGGER, f"run {run.id} is of a batch endpoint: it scores with models and trains none"
    if is_part(run):
        above = f" of {run.parent}" if run.parent else ""
        return Reason.NOT_A_TRIGGER, f"run {run.id} is a part{above}: the run at the top is promoted, when it completes"
    return None


def has_completed(run: SourceRun) -> bool:
    """Whether it ended well. Raises Transient while Azure says that it has not ended."""
    status = run.status.lower()
    if status in ("failed", "canceled", "cancelled", "notresponding"):
        return False
    if status != "completed":
        raise Transient(f"run {run.run.id} is announced as completed, and Azure says that it is {run.status}")
    return True


def version_of(run_id: str) -> str:
    """The version of the model that a run made: the run's own id where it can be one, and the same one each time.

    A version that is a number would be taken for one of those that Azure ML counts.
    """
    if len(run_id) <= VERSION_LIMIT and not run_id.isdecimal() and ":" not in run_id:
        return run_id
    digest = hashlib.sha256(run_id.encode()).hexdigest()[:10]
    readable = re.sub(r"[^A-Za-z0-9._-]", "-", run_id)[: VERSION_LIMIT - len(digest) - 1]
    return f"{readable}-{digest}"


def registered_for(model: SourceModel) -> str | None:
    """The run whose output this service registered as this version; a tag alone, on any other version, says nothing."""
    run_id = model.tags.get(tags.RUN)
    return run_id if run_id and is_run_id(run_id) and model.version == version_of(run_id) else None


def as_model(run: SourceRun, output: Output, *, name: str) -> SourceModel:
    """The output as the version of a model, which it may become. It is as old as the end of its run."""
    if not is_asset_name(name):
        raise Refusal(
            Reason.POLICY_INVALID,
            f"with experiment {run.experiment!r}, `register_as` gives {name!r}, which is no name for a model",
            remedy="Set a `register_as` without {experiment} in the rule.",
        )
    return SourceModel(
        name=name,
        version=version_of(run.run.id),
        model_type=CUSTOM,
        uri=output.uri,
        tags=run.run.tags,
        properties={},
        job_name=output.run_id,
        archived=False,
        created_at=run.ended_at or run.created_at,
        created_by=run.created_by,
    )


def find_output(run: SourceRun, wanted: str | None, artifacts: Artifacts, *, rule: str) -> Output:
    """The output that is the model: the one that the rule wants, else the only one in the run's layout.

    Raises Refusal if there is none, or more than one.
    """
    found = tuple(_named(run, wanted, artifacts) if wanted is not None else _in_layout(run, artifacts))
    if len(found) == 1:
        return found[0]
    if found:
        raise _several(run, found, rule)
    what = "no output that is known to be a model" if wanted is None else f"no output and no artifacts {wanted!r}"
    raise Refusal(
        Reason.RUN_OUTPUT_UNCLEAR,
        f"run {run.run.id} has {what}; it has {_listed(_everything(run, artifacts)) or 'no outputs at all'}",
        remedy=f"Say in rule {rule!r} what is the model: `output`, with the name of an output of the job or a path among "
        "its artifacts. A pipeline may declare the model of a step as an output of its own.",
    )


def _several(run: SourceRun, found: tuple[Output, ...], rule: str) -> Refusal:
    names = [each.name for each in found]
    told_apart = len(set(names)) == len(names)
    shown = names if told_apart else [f"{each.name} (run {each.run_id})" for each in found]
    return Refusal(
        Reason.RUN_OUTPUT_UNCLEAR,
        f"run {run.run.id} has more than one output that may be the model: {_listed(shown)}",
        remedy=f"Say in rule {rule!r} which one is meant, such as `output: {names[0]}`."
        if told_apart
        else "Give the steps names of their own and say in the rule which one is meant (`output`), or register the model.",
    )


# ------------------------------------------------------------------------------------------------------------ candidates


@dataclass(frozen=True)
class _Left:
    """What one run left: the paths of its artifacts."""

    run: Run
    paths: tuple[str, ...]

    def has(self, wanted: str) -> bool:
        return any(path == wanted or path.startswith(f"{wanted}/") for path in self.paths)

    def models(self) -> list[str]:
        """The folders that are models: what Designer's modules leave, and MLflow models; none that lies in another."""
        designer = [TRAINED_MODEL] if self.has(TRAINED_MODEL) else []
        mlflow = {str(PurePosixPath(path).parent) for path in self.paths if PurePosixPath(path).name == MLMODEL} - {"."}
        found = [*designer, *sorted(mlflow)]
        return [folder for folder in found if not any(folder.startswith(f"{other}/") for other in found)]

    def output(self, path: str) -> Output:
        name = f"{_step_name(self.run)}/{path}" if self.run.parent else path
        return Output(self.run.id, f"azureml://jobs/{self.run.id}/outputs/artifacts/paths/{path}", name)


def _in_layout(run: SourceRun, artifacts: Artifacts) -> Iterator[Output]:
    if _is_automl(run.run):
        best = _left(run.run, artifacts)[0]
        yield from [best.output(path) for path in (MLFLOW_MODEL, OUTPUTS) if best.has(path)][:1]
        return
    if named := [_output(run, name) for name, kind in run.outputs.items() if kind in MODEL_TYPES]:
        yield from named
        return
    left = _left(run.run, artifacts)
    models = [each.output(folder) for each in left for folder in each.models()]
    yield from models
    if not models and not _is_pipeline(run.run):
        yield from [each.output(OUTPUTS) for each in left if each.has(OUTPUTS)]


def _named(run: SourceRun, wanted: str, artifacts: Artifacts) -> Iterator[Output]:
    """By name, else by path; a path may begin with the name of a step, where several have it."""
    if wanted in run.outputs:
        yield _output(run, wanted)
        return
    for each in _left(run.run, artifacts):
        in_step = wanted.removeprefix(f"{_step_name(each.run)}/")
        yield from [each.output(path) for path in (wanted, in_step) if each.has(path)][:1]


def _everything(run: SourceRun, artifacts: Artifacts) -> Iterator[str]:
    """What a rule could name: outputs, and the folders that runs have at their top."""
    yield from run.outputs
    for each in _left(run.run, artifacts):
        yield from (each.output(path.partition("/")[0]).name for path in each.paths if "/" in path)


def _listed(names: Iterable[str]) -> str:
    found = list(dict.fromkeys(names))
    more = len(found) - NAMED_LIMIT
    return ", ".join(found[:NAMED_LIMIT]) + (f" and {more} more" if more > 0 else "")


def _output(run: SourceRun, name: str) -> Output:
    return Output(run.run.id, f"azureml://jobs/{run.run.id}/outputs/{name}", name)


# ------------------------------------------------------------------------------------------------- whose artifacts count


def _left(run: Run, artifacts: Artifacts) -> tuple[_Left, ...]:
    return tuple(_Left(holder, artifacts.paths(holder.id)) for holder in _holders(run, artifacts))


def _holders(run: Run, artifacts: Artifacts) -> tuple[Run, ...]:
    """The runs whose artifacts are those of this run: its best trial, its steps, or itself."""
    if best := _best_trial(run):
        return (Run(id=best),)
    if _is_automl(run):
        raise Refusal(
            Reason.RUN_OUTPUT_UNCLEAR,
            f"run {run.id} of Automated ML has completed and names no best trial (tag {BEST_CHILD})",
            remedy="Look into the run: if no trial succeeded, there is no model. Else register the model by hand.",
        )
    if not _is_pipeline(run):
        return (run,)
    holders = tuple(holder for step in artifacts.steps(run.id) for holder in _of_step(step, artifacts))
    if len(holders) > STEP_LIMIT:
        raise Refusal(
            Reason.RUN_OUTPUT_UNCLEAR,
            f"pipeline run {run.id} has {len(holders)} steps: too many to look into each",
            remedy="Declare the model as an output of the pipeline, and name it in the rule: `output`.",
        )
    return holders


def _of_step(step: Run, artifacts: Artifacts) -> tuple[Run, ...]:
    """A step that was not run again has its artifacts where it ran first."""
    properties = _folded(step.properties)
    reused = properties.get(_REUSED)
    if reused and is_run_id(reused):
        return (step.model_copy(update={"id": reused}),)
    if _is_pipeline(step) or _best_trial(step):
        return _holders(step, artifacts)
    return (step,)


def _best_trial(run: Run) -> str | None:
    best = _folded(run.tags).get(BEST_CHILD) or _folded(run.properties).get(_BEST_TRIAL)
    if best and not is_run_id(best):
        raise Refusal(
            Reason.RUN_OUTPUT_UNCLEAR,
            f"run {run.id} says that its best trial is {best[:80]!r}, which is no id of a run",
            remedy="Correct the tag of the run, or register the model by hand.",
        )
    return best or None


def _is_automl(run: Run) -> bool:
    return classify(Evidence(runs=(run,))).origin is Origin.AUTOML


def _is_pipeline(run: Run) -> bool:
    source = _folded(run.properties).get("azureml.runsource", "")
    return (run.job_type or "").lower() == "pipeline" or source.lower() == "azureml.pipelinerun"


def _step_name(run: Run) -> str:
    return _folded(run.properties).get(_STEP_NAME) or run.name or run.id


def _folded(values: Mapping[str, str]) -> dict[str, str]:
    return {key.lower(): value for key, value in values.items()}
