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

# What runs of code are: jobs of these types, and before there were types, runs with these keys.
_CODE_JOBS = frozenset({"command", "sweep", "spark"})
_CODE_PROPERTIES = ("contentsnapshotid", "_azureml.computetargettype", "azureml.git.", "mlflow.source.")
_CODE_TAGS = ("mlflow.user", "mlflow.source.")
# `runSource` of pipelines that code has submitted: through ARM (CLI, SDK v2), and by SDK v1 or a published endpoint.
_CODE_SOURCES = frozenset({"mfe", "sdk"})


class Origin(StrEnum):
    """The three ways of making a model. `notebook` stands for all code: notebook, SDK and CLI jobs."""

    DESIGNER = "designer"
    NOTEBOOK = "notebook"
    AUTOML = "automl"


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True)


class Run(_Value):
    """A job or run, as far as it tells how its outputs were made. `parent` is the run above it, None for a root."""

    id: str
    name: str | None = None
    job_type: str | None = None
    parent: str | None = None
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
    have written (an MLmodel, a scoring script) counts only where nothing else tells.
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
    against = _texts([sign for sign in signs if sign.origin != origin])
    if origin is Origin.AUTOML:
        against = (*against, *files.doubts, *files.beside)
    return origin, (f"tag {OVERRIDE_TAG} says so",), against


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
        if scoring := next((run for run in runs if is_batch_scoring(run)), None):
            self.noted.append(f"run {scoring.id} is of a batch endpoint: it scores with models and trains none")
            return None
        root = runs[-1]
        if is_part(root):
            self.noted.append(f"run {root.id} is part of a run that cannot be read: what made it is not known")
            return None
        if _is_pipeline(root):
            return self._pipeline(root)
        if _is_code(root):
            return Sign(origin=Origin.NOTEBOOK, text=f"{root.id} is {_kind(root)} submitted by code")
        what = f"of type {root.job_type}" if root.job_type else "without a type"
        self.noted.append(f"run {root.id} is {what}, and nothing in it tells what made it")
        return None

    def _pipeline(self, root: Run) -> Sign | None:
        """A Designer pipeline and one of code have the same steps; only `runSource` of the root differs."""
        source = _folded(root.properties).get("runsource", "")
        if source == "designer":
            return Sign(origin=Origin.DESIGNER, text=f"run {root.id} was submitted by Designer (runSource)")
        if source in _CODE_SOURCES:
            return Sign(origin=Origin.NOTEBOOK, text=f"{root.id} is {_kind(root)} submitted by code (runSource)")
        said = f"its runSource {source!r} is none that tells" if source else "it has no runSource"
        self.noted.append(f"run {root.id} is a pipeline, and who submitted it is not known: {said}")
        return None


def _kind(run: Run) -> str:
    return f"a {run.job_type} job" if run.job_type else "a run"


def is_part(run: Run) -> bool:
    """Whether it is a step, a trial or anything else below another run."""
    properties = _folded(run.properties)
    templates = (properties.get("runtemplate"), properties.get("run_template"))
    return (
        run.parent is not None
        or properties.get("azureml.runsource") == "azureml.steprun"
        or "automl_child" in templates
    )


def _is_pipeline(run: Run) -> bool:
    properties = _folded(run.properties)
    return (
        (run.job_type or "").strip().lower() == "pipeline"
        or properties.get("azureml.runsource") == "azureml.pipelinerun"
        or "runsource" in properties
    )


def _is_code(run: Run) -> bool:
    if run.job_type:
        return run.job_type.strip().lower() in _CODE_JOBS
    properties, tags = _folded(run.properties), _folded(run.tags)
    return (
        "hyperdrive" in (properties.get("runtemplate"), properties.get("azureml.runsource"))
        or any(key.startswith(_CODE_PROPERTIES) for key in properties)
        or any(key.startswith(_CODE_TAGS) for key in tags)
    )


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


def is_batch_scoring(run: Run) -> bool:
    """Whether it is the run of a batch endpoint."""
    properties, tags = _folded(run.properties), _folded(run.tags)
    return (
        any(properties.get(key) == "batchdeployment" for key in ("runsource", "azureml.runlineagetype"))
        or any(properties.get(key) for key in ("azureml.deploymentname", "azureml.endpointname"))
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
        return self._texts.get(_path(folder, name), "")

    def _other_type(self, folder: str) -> str | None:
        """What `_meta.yaml` of Designer says that the folder is, if that is no model."""
        meta = _META_TYPE.search(self._text(folder, "_meta.yaml"))
        return meta[1] if meta and meta[1].lower() != "modeldirectory" else None

    def _designer_marks(self, folder: str) -> list[str]:
        """What only Designer writes into the folder of a model."""
        marks = []
        if _META_TYPE.search(self._text(folder, "_meta.yaml")) and not self._other_type(folder):
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
            marks = self._designer_marks(folder)
            if other := self._other_type(folder):
                text = f"{_path(folder, '_meta.yaml')} says {other}: "
                text += f"{_NO_MODELS.get(other.lower(), 'any folder of a module')}, no trained model"
                beside = f", though {', '.join(marks)} beside it are as Designer writes them for a model"
                self.noted.append(text + (beside if marks else ""))
            elif len(marks) > 1:
                yield Sign(origin=Origin.DESIGNER, text=f"files: a Designer model directory ({', '.join(marks)})")

    def _automl_proofs(self) -> Iterator[Sign]:
        if mark := _automl_mark(self._mlmodel or {}):
            yield Sign(origin=Origin.AUTOML, text=f"MLmodel: its {mark} names Automated ML")
        for folder, names in self._names.items():
            found = sorted(name for name in names if name == _AUTOML_CONDA or _AUTOML_SCORING.fullmatch(name))
            if not found:
                continue
            if self._is_automl(folder, found):
                yield Sign(origin=Origin.AUTOML, text=f"files: written by Automated ML ({', '.join(found)})")
                self.doubts += self._strangers(folder)
            else:
                paths = ", ".join(_path(folder, name) for name in found)
                self.noted.append(f"{paths}: named as Automated ML names its own, and nothing more")

    def _is_automl(self, folder: str, found: list[str]) -> bool:
        """A text that needs its packages; or both names together, as long as no text says otherwise."""
        texts = [text for name in found if (text := self._text(folder, name))]
        if any(_AUTOML_PACKAGE.search(_code(text)) for text in texts):
            return True
        return _AUTOML_CONDA in found and len(found) > 1 and len(texts) < len(found)

    def _strangers(self, automl: str) -> list[str]:
        """Models that Automated ML did not write: everywhere but in its folder and the MLflow model below it."""
        own = _path(automl, "mlflow-model")
        paths = [
            _path(folder, name)
            for folder, names in self._names.items()
            if folder != own and not folder.startswith(f"{own}/")
            for name in (names - _AUTOML_MODELS if folder == automl else names)
        ]
        strange = [path for path in sorted(paths) if PurePosixPath(path).suffix.lower() in _MODEL_SUFFIXES]
        return [f"files: {path}, a model that Automated ML does not write" for path in strange]

    def _beside(self) -> list[str]:
        if not any(sign.origin is Origin.AUTOML for sign in self.proofs):
            return []
        return [f"files: {path}, a scoring script that Automated ML does not write" for path in self._scripts()]

    def _scripts(self) -> list[str]:
        """Scoring scripts that are not Designer's."""
        paths = [_path(folder, "score.py") for folder, names in self._names.items() if "score.py" in names]
        return [path for path in paths if not _DESIGNER_IMPORT.search(self._texts.get(path, ""))]

    def _packed_graph(self, evidence: Evidence) -> Iterator[Sign]:
        """A tag counts where the files show no other model; a name can be given to anything and never counts alone."""
        by_name = evidence.name.lower().startswith("amlstudio-")
        by_tag = _folded(evidence.tags).get("createdbyamlstudio") == "true"
        by_file = any(
            PurePosixPath(folder, name).parts[-2:] == _PACKED_GRAPH
            for folder, names in self._names.items()
            for name in names
        )
        is_other = bool(self.proofs or self._mlmodel is not None or self._scripts() or self._lone_marks())
        marks = [
            *(["its name"] if by_name else []),
            *(["tag CreatedByAMLStudio"] if by_tag else []),
            *(["/".join(_PACKED_GRAPH)] if by_file else []),
        ]
        if by_file or (by_tag and not is_other):
            self.is_packed_graph = True
            yield Sign(origin=Origin.DESIGNER, text=f"a packed inference graph of Designer ({', '.join(marks)})")
        elif marks:
            but = "but the files are another model" if is_other else "and nothing else says so"
            self.noted.append(f"{' and '.join(marks)} is that of a packed Designer graph, {but}")

    def _lone_marks(self) -> list[str]:
        return [
            _path(folder, mark)
            for folder in self._names
            if not self._other_type(folder)
            for mark in self._designer_marks(folder)
            if mark != "model_spec.yaml"
        ]

    def _hints(self) -> Iterator[Sign]:
        """Read only where nothing proves anything. A script or a package list may be copied into any model."""
        if self.proofs:
            return
        marks = self._lone_marks()
        own = [path for path in marks if PurePosixPath(path).name == "_meta.yaml"]
        copied = [path for path in marks if path not in own]
        mentions = sorted(path for path, text in self._texts.items() if _AUTOML_PACKAGE.search(_code(text)))
        if own:
            yield Sign(origin=Origin.DESIGNER, text=f"files: {', '.join(own)} as Designer writes it")
        if copied:
            self.noted.append(f"{', '.join(copied)} as Designer writes it, without the rest of its model directory")
        if mentions:
            self.noted.append(f"{', '.join(mentions)} needs packages of Automated ML, and nothing else is its own")
        if marks or mentions:
            return
        if self._mlmodel is not None:
            yield Sign(origin=Origin.NOTEBOOK, text="files: an MLflow model, with no mark of Designer or Automated ML")
        elif scripts := self._scripts():
            unread = [path for path in scripts if path not in self._texts]
            self.noted += [f"{path} is too large to be read as a scoring script" for path in unread]
            if not unread:
                text = "files: a scoring script, with no mark of Designer or Automated ML"
                yield Sign(origin=Origin.NOTEBOOK, text=text)


def _path(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


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
