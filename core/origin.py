"""How a model was made: Designer, a notebook or other code, or Automated ML. Pure; decided from evidence, never guessed.

The job that wrote the model and the files that it consists of are judged separately. Signals and their worth come from
what Azure ML writes into runs and artifacts; their spelling varies in case from service to service.
"""

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

OVERRIDE_TAG = "promotion-origin"


class Origin(StrEnum):
    """The three ways of making a model. `notebook` stands for all code: notebook, SDK and CLI jobs."""

    DESIGNER = "designer"
    NOTEBOOK = "notebook"
    AUTOML = "automl"


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True)


class Run(_Value):
    """A job or run, as far as it tells how its outputs were made."""

    id: str
    job_type: str | None = None
    properties: Mapping[str, str] = Field(default_factory=dict)
    tags: Mapping[str, str] = Field(default_factory=dict)


class Evidence(_Value):
    """What is known about a model version before its origin is decided.

    `run` is the root of the run that wrote it, None if there is none; `files` are paths relative to the model's root;
    `mlmodel` is the parsed MLmodel file at that root.
    """

    tags: Mapping[str, str] = Field(default_factory=dict)
    run: Run | None = None
    files: tuple[str, ...] = ()
    mlmodel: Mapping[str, Any] | None = None


class Sign(_Value):
    """One piece of evidence: which origin it speaks for, and in what words an operator reads it."""

    origin: Origin
    text: str


class Classification(_Value):
    """`origin` is None when the evidence is missing or contradicts itself; `because` and `against` say it in words."""

    origin: Origin | None
    because: tuple[str, ...] = ()
    against: tuple[str, ...] = ()

    def __str__(self) -> str:
        text = f"{self.origin or 'unknown'} ({'; '.join(self.because) or 'no evidence'})"
        return f"{text}, against it: {'; '.join(self.against)}" if self.against else text


def classify(evidence: Evidence) -> Classification:
    """The origin, with the evidence that decided and what spoke against it.

    A tag `promotion-origin` decides alone. Otherwise the signs of job and files must agree. Files that any code could
    have written (an MLmodel, a scoring script) count only where nothing else tells.
    """
    signs = [*_job_signs(evidence.run), *_file_signs(evidence)]
    if override := evidence.tags.get(OVERRIDE_TAG):
        return _overridden(override, signs)
    origins = {sign.origin for sign in signs}
    if len(origins) > 1:
        return Classification(origin=None, against=tuple(sign.text for sign in signs))
    signs = signs or list(_weak_signs(evidence))
    if not signs:
        return Classification(origin=None)
    return Classification(origin=signs[0].origin, because=tuple(sign.text for sign in signs))


def _overridden(override: str, signs: list[Sign]) -> Classification:
    try:
        origin = Origin(override.strip().lower())
    except ValueError:
        allowed = ", ".join(Origin)
        return Classification(origin=None, against=(f"tag {OVERRIDE_TAG} is {override!r}, not one of {allowed}",))
    against = tuple(sign.text for sign in signs if sign.origin != origin)
    return Classification(origin=origin, because=(f"tag {OVERRIDE_TAG} says so",), against=against)


def _folded(values: Mapping[str, str]) -> dict[str, str]:
    return {key.lower(): str(value).lower() for key, value in values.items()}


def _job_signs(run: Run | None) -> Iterator[Sign]:
    if run is None:
        return
    properties = _folded(run.properties)
    if (
        properties.get("runsource") == "batchdeployment"
        or properties.get("azureml.runlineagetype") == "batchdeployment"
    ):
        return  # scoring with a batch endpoint makes predictions, not models
    if (run.job_type or "").lower() == "automl":
        yield Sign(origin=Origin.AUTOML, text=f"job {run.id} is of type AutoML")
    elif properties.get("runtemplate", "").startswith("automl") or properties.get("root_attribution") == "automl":
        yield Sign(origin=Origin.AUTOML, text=f"run {run.id} was made by Automated ML (runTemplate)")
    elif properties.get("runsource") == "designer":
        yield Sign(origin=Origin.DESIGNER, text=f"run {run.id} was submitted by Designer (runSource)")
    else:
        kind = f"a {run.job_type} job" if run.job_type else "a run"
        yield Sign(origin=Origin.NOTEBOOK, text=f"{run.id} is {kind} submitted by code")


def _file_signs(evidence: Evidence) -> Iterator[Sign]:
    names = {path.rpartition("/")[2] for path in evidence.files}
    if {"_meta.yaml", "model_spec.yaml"} <= names:
        yield Sign(origin=Origin.DESIGNER, text="files: a Designer model directory (_meta.yaml, model_spec.yaml)")
    if "conda_env_v_1_0_0.yml" in names or any(name.startswith("scoring_file_v_") for name in names):
        yield Sign(origin=Origin.AUTOML, text="files: Automated ML's scoring file or conda file")
    if _is_marked_automl((evidence.mlmodel or {}).get("metadata")):
        yield Sign(origin=Origin.AUTOML, text="MLmodel: its metadata names Automated ML")


def _is_marked_automl(metadata: Any) -> bool:
    if not isinstance(metadata, Mapping):
        return False
    return str(metadata.get("azureml.engine", "")).lower() == "automl" or bool(metadata.get("is_automl_model"))


def _weak_signs(evidence: Evidence) -> Iterator[Sign]:
    if evidence.mlmodel is not None:
        yield Sign(origin=Origin.NOTEBOOK, text="files: an MLflow model, with no mark of Designer or Automated ML")
    elif any(path.rpartition("/")[2] == "score.py" for path in evidence.files):
        yield Sign(origin=Origin.NOTEBOOK, text="files: a scoring script, with no mark of Designer or Automated ML")
