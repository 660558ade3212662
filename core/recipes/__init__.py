"""From the files of a model to the recipe of how to serve it. The files decide, whatever made them.

Four kinds are known: MLflow models, what Automated ML writes without MLflow, the model directory of a Designer module,
and a model with a scoring script of its own. What a kind needs is looked for in the registered folder, then in the
artifacts of the run that wrote it; what is in neither is named in the refusal.
"""

from pathlib import PurePosixPath

from core.errors import Refusal, not_servable
from core.mlmodel import MLMODEL
from core.recipes import automl, designer, mlflow, script
from core.recipes.material import Folder, GivenScoring, Material, Packaged, looked_in, text_of

__all__ = ["Folder", "GivenScoring", "Material", "Packaged", "package"]


def package(material: Material) -> Packaged:
    """How to serve the model. Raises Refusal, naming what is missing and where it was looked for."""
    files = material.folder.manifest.paths()
    if material.given is not None:
        return script.package_given(material, material.given)
    if material.is_packed_graph:
        raise not_servable(
            "it is the inference graph that Designer packed for a service of its own, which runs nowhere else",
            "Register the trained model instead: Train Model module, Outputs + logs, Register model.",
        )
    if MLMODEL in files:
        return mlflow.package(material, "")
    if (below := designer.directory(files)) is not None or designer.has_part(material):
        return designer.package(material, below)
    # Automated ML leaves no score.py: who wrote one over its model means it.
    if (model := automl.find(material)) is not None and not script.is_above(files, model.below):
        return automl.package(material, model)
    if "score.py" in {PurePosixPath(path).name for path in files}:
        return script.package(material)
    raise _nothing(material)


def _nothing(material: Material) -> Refusal:
    paths = material.folder.manifest.paths()
    nested = [
        path for path in paths if PurePosixPath(path).name == MLMODEL and "metadata" not in PurePosixPath(path).parts
    ]
    if designer.DESIGNER_MARK in paths:
        kind = text_of(material.folder, designer.DESIGNER_MARK).partition("type:")[2].split("\n")[0].strip()
        return not_servable(
            f"it is an output of Designer of type {kind or 'unknown'} and no trained model; {looked_in(material.folder)}",
            "Register the folder trained_model_outputs of a Train module's run (its _meta.yaml says ModelDirectory).",
        )
    hint = f" (there is one at {nested[0]}: register that folder itself)" if nested else ""
    return not_servable(
        f"the model has no MLmodel file at its root{hint}, no score.py, and is no model of Automated ML or Designer; "
        f"{looked_in(material.folder)}",
        "Log the model with MLflow and register the folder that holds MLmodel, put score.py and conda.yaml into it, or "
        "name a scoring script in the rule: `scoring`.",
    )
