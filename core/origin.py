"""How a model was made: Designer, a notebook or other code, or Automated ML. Pure; decided from evidence, never guessed.

The job that wrote the model and the files that it consists of are judged separately and must agree. Signals and their
worth come from what Azure ML writes into runs and artifacts (docs/origins.md); their spelling varies in case from
service to service, so keys and values are compared without it.
"""

import re
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

OVERRIDE_TAG = "promotion-origin"

# The namespaces and packages that only models of Automated ML need. `azureml-train-automl-client` submits jobs and is in
# everybody's environment.
_AUTOML_PACKAGE = re.compile(r"azureml[.-](?:(?:train[.-])?automl\b(?!-client)|training[.-]tabular\b)")
_AUTOML_SCORING = re.compile(r"scoring_file_v_[0-9_]+\.py")
_AUTOML_CONDA = "conda_env_v_1_0_0.yml"
_AUTOML_MODELS = frozenset({"model.pkl", "model.pt", "model.onnx", "internal_cross_validated_models.pkl"})
_AUTOML_FLAVOR = "automl-forecasting"
_MODEL_SUFFIXES = frozenset({".joblib", ".pkl", ".pickle", ".sav", ".onnx", ".pt", ".pth", ".h5", ".keras"})

_DESIGNER_IMPORT = re.compile(r"^\s*(?:from|import)\s+azureml\.(?:studio|designer)\b", re.MULTILINE)
_DESIGNER_PACKAGE = re.compile(r"azureml-designer-[a-z]")
_META_TYPE = re.compile(r"^type:\s*['\"]?(\w+)", re.MULTILINE)
_NO_MODELS = {
    "dataframedirectory": "a dataset",
    "imagedirectory": "a set of images",
    "transformationdirectory": "a transformation of data",
}
_PACKED_GRAPH = ("studiomodelpackage", "modelpackage.json")


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

    `name`, `tags` and `properties` are as registered (of the properties none tells an origin). `runs` are the run that
    wrote the model, then its parents up to the root. `files` are sizes by path relative to the model's root, `texts` the
    contents of the small ones among them that tell something. `mlmodel` is the parsed MLmodel at the root or in the
    nested `mlflow-model`.
    """

    name: str = ""
    tags: Mapping[str, str] = Field(default_factory=dict)
    properties: Mapping[str, str] = Field(default_factory=dict)
    runs: tuple[Run, ...] = ()
    files: Mapping[str, int] = Field(default_factory=dict)
    mlmodel: Mapping[str, Any] | None = None
    texts: Mapping[str, str] = Field(default_factory=dict)


class Sign(_Value):
    """One piece of evidence: which origin it speaks for, and in what words an operator reads it."""

    origin: Origin
    text: str


class Classification(_Value):
    """`origin` is None when the evidence is missing or contradicts itself; `because` and `against` say it in words.

    `job` and `files` are what each side says by itself. `noted` is what looks like evidence and proves nothing, and why.
    `is_packed_graph`: Designer's real-time inference graph (`amlstudio-...`), which only Designer's own service can run;
    it is a fact about the files, whatever an operator's tag says of the origin.
    """

    origin: Origin | None
    because: tuple[str, ...] = ()
    against: tuple[str, ...] = ()
    noted: tuple[str, ...] = ()
    job: Origin | None = None
    files: Origin | None = None
    is_packed_graph: bool = False

    def __str__(self) -> str:
        text = f"{self.origin or 'unknown'} ({'; '.join(self.because) or 'no evidence'})"
        text += f", against it: {'; '.join(self.against)}" if self.against else ""
        return text + (f", noted: {'; '.join(self.noted)}" if self.noted else "")


def classify(evidence: Evidence) -> Classification:
    """The origin, with the evidence that decided and what spoke against it.

    A tag `promotion-origin` decides alone. Otherwise what the job and the files prove must agree. What any code could
    have written (an MLmodel, a scoring script) and the mere mention of a package count only where nothing else tells.
    """
    job, files = _Job(evidence.runs), _Files(evidence)
    origin, because, against = _overridden(evidence.tags, job, files) or _weighed(job, files)
    return Classification(
        origin=origin,
        because=because,
        against=against,
        noted=(*job.noted, *files.noted),
        job=_common([job.sign] if job.sign else []),
        files=None if files.doubts else _common(files.proofs or files.hints),
        is_packed_graph=files.is_packed_graph,
    )


_Decision = tuple[Origin | None, tuple[str, ...], tuple[str, ...]]


def _weighed(job: "_Job", files: "_Files") -> _Decision:
    """The origin, what speaks for it and what against it."""
    signs = [*([job.sign] if job.sign else []), *files.proofs] or files.hints
    origin = None if files.doubts and job.sign is None else _common(signs)
    if origin is None:
        return None, (), (*_texts(signs), *files.doubts)
    return origin, _texts(signs), (*files.doubts, *files.beside)


def _overridden(tags: Mapping[str, str], job: "_Job", files: "_Files") -> _Decision | None:
    given = sorted(value for key, value in tags.items() if key.lower() == OVERRIDE_TAG and value.strip())
    if not given:
        return None
    named = {value.strip().lower() for value in given}
    if len(named) > 1 or not named <= set(Origin):
        text = " and ".join(map(repr, given))
        return None, (), (f"tag {OVERRIDE_TAG} is {text}, not one of {', '.join(Origin)}",)
    origin = Origin(named.pop())
    signs = [*([job.sign] if job.sign else []), *files.proofs]
    return origin, (f"tag {OVERRIDE_TAG} says so",), _texts([sign for sign in signs if sign.origin != origin])


def _common(signs: list[Sign]) -> Origin | None:
    """The one origin that all of them speak for."""
    origins = {sign.origin for sign in signs}
    return origins.pop() if len(origins) == 1 else None


def _texts(signs: list[Sign]) -> tuple[str, ...]:
    return tuple(sign.text for sign in signs)


def _folded(values: Mapping[str, Any]) -> dict[str, str]:
    return {str(key).lower(): str(value).strip().lower() for key, value in values.items()}


class _Job:
    """What the run that wrote the model, and the runs above it, say."""

    def __init__(self, runs: tuple[Run, ...]) -> None:
        self.noted: list[str] = []
        self.sign = self._sign(runs)

    def _sign(self, runs: tuple[Run, ...]) -> Sign | None:
        if not runs:
            return None
        # An Automated ML step trains in whoever's pipeline it is: the nearest run says more than the root.
        if made := next((sign for run in runs if (sign := _automl_run(run))), None):
            return made
        if scoring := next((run for run in runs if _is_batch_scoring(run)), None):
            self.noted.append(f"run {scoring.id} is of a batch endpoint: it scores with models and trains none")
            return None
        root = runs[-1]
        properties = _folded(root.properties)
        if properties.get("runsource") == "designer":
            return Sign(origin=Origin.DESIGNER, text=f"run {root.id} was submitted by Designer (runSource)")
        if properties.get("azureml.runsource") == "azureml.steprun":
            self.noted.append(
                f"run {root.id} is a step of a pipeline that cannot be read: who submitted it is not known"
            )
            return None
        kind = f"a {root.job_type} job" if root.job_type else "a run"
        return Sign(origin=Origin.NOTEBOOK, text=f"{root.id} is {kind} submitted by code")


def _automl_run(run: Run) -> Sign | None:
    properties = _folded(run.properties)
    if (run.job_type or "").strip().lower() == "automl":
        return Sign(origin=Origin.AUTOML, text=f"job {run.id} is of type AutoML")
    templates = [properties.get(key, "") for key in ("runtemplate", "run_template")]
    marked = [key for key in ("azureml.runsource", "root_attribution") if properties.get(key) == "automl"]
    if any(template in {"automl", "automl_child"} for template in templates):
        return Sign(origin=Origin.AUTOML, text=f"run {run.id} was made by Automated ML (runTemplate)")
    if marked:
        return Sign(origin=Origin.AUTOML, text=f"run {run.id} was made by Automated ML ({marked[0]})")
    return None


def _is_batch_scoring(run: Run) -> bool:
    properties, tags = _folded(run.properties), _folded(run.tags)
    return (
        "batchdeployment" in (properties.get("runsource"), properties.get("azureml.runlineagetype"))
        or tags.get("azureml.batchrun") == "true"
    )


class _Files:
    """What the files say: `proofs` that decide, `hints` that count only where nothing else tells.

    `beside` is what somebody added to them; `doubts` is what somebody added that makes it open which of two models is
    meant, unless a job tells.
    """

    def __init__(self, evidence: Evidence) -> None:
        # A file of no bytes is a placeholder: only its name would speak.
        self._names: dict[str, set[str]] = {}
        for path in sorted(path for path, size in evidence.files.items() if size > 0):
            folder, _, name = path.rpartition("/")
            self._names.setdefault(folder, set()).add(name)
        self._texts = {path: text for path, text in evidence.texts.items() if evidence.files.get(path, 0) > 0}
        self._mlmodel = evidence.mlmodel
        self.noted: list[str] = []
        self.doubts: list[str] = []
        self.is_packed_graph = False
        self.proofs = [*self._designer_proofs(), *self._automl_proofs()]
        self.proofs += self._packed_graph(evidence)
        self.hints = [*self._hints()]
        self.beside = self._beside()

    def _text(self, folder: str, name: str) -> str:
        return self._texts.get(f"{folder}/{name}" if folder else name, "")

    def _designer_marks(self, folder: str) -> list[str]:
        """What Designer wrote into this folder, none if its `_meta.yaml` says that it is something else than a model."""
        marks = []
        if meta := _META_TYPE.search(self._text(folder, "_meta.yaml")):
            if meta[1].lower() != "modeldirectory":
                return []
            marks.append("_meta.yaml")
        if "model_spec.yaml" in self._names[folder]:
            marks.append("model_spec.yaml")
        if _DESIGNER_IMPORT.search(self._text(folder, "score.py")):
            marks.append("score.py")
        if _DESIGNER_PACKAGE.search(_code(self._text(folder, "conda_env.yaml"))):
            marks.append("conda_env.yaml")
        return marks

    def _designer_proofs(self) -> Iterator[Sign]:
        for folder in self._names:
            if len(marks := self._designer_marks(folder)) > 1:
                yield Sign(origin=Origin.DESIGNER, text=f"files: a Designer model directory ({', '.join(marks)})")
            meta = _META_TYPE.search(self._text(folder, "_meta.yaml"))
            if meta and meta[1].lower() != "modeldirectory":
                what = _NO_MODELS.get(meta[1].lower(), "any folder of a module")
                path = f"{folder}/_meta.yaml" if folder else "_meta.yaml"
                self.noted.append(f"{path} says {meta[1]}: {what}, no trained model")

    def _automl_proofs(self) -> Iterator[Sign]:
        if mark := _automl_mark(self._mlmodel or {}):
            yield Sign(origin=Origin.AUTOML, text=f"MLmodel: its {mark} names Automated ML")
        for folder, names in self._names.items():
            found = sorted(name for name in names if name == _AUTOML_CONDA or _AUTOML_SCORING.fullmatch(name))
            named = [name for name in found if _AUTOML_PACKAGE.search(_code(self._text(folder, name)))]
            # Either name alone may be anybody's, unless its text needs the packages of Automated ML.
            if (_AUTOML_CONDA in found and len(found) > 1) or named:
                yield Sign(origin=Origin.AUTOML, text=f"files: written by Automated ML ({', '.join(found)})")
                self.doubts += [f"files: {name}, a model that Automated ML does not write" for name in _others(names)]

    def _beside(self) -> list[str]:
        if not any(sign.origin is Origin.AUTOML for sign in self.proofs):
            return []
        return [f"files: {path}, a scoring script that Automated ML does not write" for path in self._scripts()]

    def _scripts(self) -> list[str]:
        return [
            f"{folder}/score.py" if folder else "score.py"
            for folder, names in self._names.items()
            if "score.py" in names and not _DESIGNER_IMPORT.search(self._text(folder, "score.py"))
        ]

    def _packed_graph(self, evidence: Evidence) -> list[Sign]:
        """A name or a tag can be given to anything: they count where the files show no model that is something else."""
        by_name = [
            *(["its name"] if evidence.name.lower().startswith("amlstudio-") else []),
            *(["tag CreatedByAMLStudio"] if _folded(evidence.tags).get("createdbyamlstudio") == "true" else []),
        ]
        by_file = any(
            PurePosixPath(folder, name).parts[-2:] == _PACKED_GRAPH
            for folder, names in self._names.items()
            for name in names
        )
        if not by_file and (self.proofs or self._mlmodel is not None):
            self.noted += [
                f"{mark} is that of a packed Designer graph, but the files are another model" for mark in by_name
            ]
            return []
        if not by_file and not by_name:
            return []
        self.is_packed_graph = True
        marks = [*by_name, *(["/".join(_PACKED_GRAPH)] if by_file else [])]
        return [Sign(origin=Origin.DESIGNER, text=f"a packed inference graph of Designer ({', '.join(marks)})")]

    def _hints(self) -> Iterator[Sign]:
        marks = [mark for folder in self._names for mark in self._designer_marks(folder) if mark != "model_spec.yaml"]
        mentions = sorted(path for path, text in self._texts.items() if _AUTOML_PACKAGE.search(_code(text)))
        if marks:
            yield Sign(origin=Origin.DESIGNER, text=f"files: {', '.join(marks)} as Designer writes it")
        if mentions:
            yield Sign(origin=Origin.AUTOML, text=f"files: {', '.join(mentions)} needs packages of Automated ML")
        if marks or mentions:
            return
        if self._mlmodel is not None:
            yield Sign(origin=Origin.NOTEBOOK, text="files: an MLflow model, with no mark of Designer or Automated ML")
        elif self._scripts():
            yield Sign(origin=Origin.NOTEBOOK, text="files: a scoring script, with no mark of Designer or Automated ML")


def _code(text: str) -> str:
    """Without comments, in which anybody may mention anything."""
    return re.sub(r"#.*", "", text).lower()


def _automl_mark(mlmodel: Mapping[str, Any]) -> str | None:
    metadata = mlmodel.get("metadata")
    folded = _folded(metadata) if isinstance(metadata, Mapping) else {}
    if folded.get("azureml.engine") == "automl" or folded.get("is_automl_model") == "true":
        return "metadata"
    flavors = mlmodel.get("flavors")
    marked = isinstance(flavors, Mapping) and _AUTOML_FLAVOR in _folded(flavors)
    return f"flavor {_AUTOML_FLAVOR}" if marked else None


def _others(names: set[str]) -> list[str]:
    return sorted(name for name in names - _AUTOML_MODELS if PurePosixPath(name).suffix.lower() in _MODEL_SUFFIXES)
