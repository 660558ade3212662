"""What Automated ML writes without MLflow: a model file, a scoring file and a conda file among a run's outputs."""

from dataclasses import dataclass
from pathlib import PurePosixPath

from core import environments
from core.mlmodel import MLMODEL
from core.packaging import FROM_SCORING_SCRIPT, Code, File
from core.recipes import mlflow
from core.recipes.material import Material, Packaged, first, parent
from core.recipes.serving import scripted
from core.scoring_contract import read_contract

OUTPUTS = "outputs"
# The newer contract first; both say in their decorators what they take.
AUTOML_SCRIPTS = ("scoring_file_v_2_0_0.py", "scoring_file_v_1_0_0.py")
AUTOML_CONDA = "conda_env_v_1_0_0.yml"
AUTOML_MODELS = ("model.pkl", "model.pt")


@dataclass(frozen=True)
class ModelFile:
    file: File
    below: str  # the folder in which it stands


def find(material: Material) -> ModelFile | None:
    """The model file of an Automated ML run without MLflow, if this looks like one; MLflow's own copy is none."""
    candidates = [
        file
        for file in material.folder.manifest.files
        if PurePosixPath(file.path).name in AUTOML_MODELS and "mlflow-model" not in PurePosixPath(file.path).parts
    ]
    for file in sorted(candidates, key=lambda file: (file.path.count("/"), file.path)):
        below = parent(file.path)
        beside = {PurePosixPath(path).name for path in material.folder.manifest.paths() if parent(path) == below}
        if beside & {*AUTOML_SCRIPTS, AUTOML_CONDA} or _scripts_of_run(material):
            return ModelFile(file, below)
    return None


def _scripts_of_run(material: Material) -> bool:
    outputs = material.run_folder(OUTPUTS)
    return outputs is not None and any(name in outputs.manifest.paths() for name in AUTOML_SCRIPTS)


def package(material: Material, model: ModelFile) -> Packaged:
    """Its scoring file, and the model file alone: newer scoring files want nothing else in AZUREML_MODEL_DIR."""
    nested = f"{model.below}/mlflow-model".lstrip("/")
    if f"{nested}/{MLMODEL}" in material.folder.manifest.paths():
        return mlflow.package(material, nested)
    places = [(material.folder, model.below), (material.run_folder(OUTPUTS), "")]
    name, script = first(places, AUTOML_SCRIPTS, what="scoring file")
    _, conda = first(places, (AUTOML_CONDA,), what="conda file")
    contract = read_contract(script, where=name)
    environment = environments.for_automl(conda, where=AUTOML_CONDA)
    manifest = material.folder.manifest.selected((model.file,), below=model.below, folder="")
    return Packaged(
        manifest,
        scripted(
            "automl",
            material,
            Code(files={name: script}, scoring_script=name),
            environment,
            contract,
            FROM_SCORING_SCRIPT,
        ),
    )
