"""MLflow models, of any origin: Azure ML's own serving where their environment can run it, our script where not."""

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from core import environments
from core.environments import Environment
from core.errors import not_servable
from core.mlmodel import MLMODEL, example_path, parse_mlmodel, sample_request
from core.packaging import Code, Recipe, Serving
from core.recipes.material import BATCH, REALTIME, Folder, Material, Packaged, is_below, looked_in, text_of
from core.recipes.serving import SIGNATURE, batch, shipped

MLFLOW_SCRIPT = "promotion_mlflow_online.py"


def package(material: Material, below: str) -> Packaged:
    """`below` is the folder of MLmodel in the registered one."""
    folder, manifest = material.folder, material.folder.manifest
    files = tuple(file for file in manifest.files if is_below(file.path, below))
    paths = {file.path[len(below) :].lstrip("/"): file.path for file in files}
    mlmodel = parse_mlmodel(folder.read(paths[MLMODEL]))
    if "python_function" not in mlmodel["flavors"]:
        raise not_servable(
            f"MLmodel has no python_function flavor, only {', '.join(map(str, mlmodel['flavors']))}",
            "Log the model with an MLflow flavor that can be loaded as python_function.",
        )
    example = example_path(mlmodel, tuple(paths))
    request, source = sample_request(mlmodel, folder.read(paths[example]) if example else None)
    environment, conda = _mlflow_environment(folder, paths)
    name = PurePosixPath(below).name if below else manifest.folder
    script = Code(files=shipped(MLFLOW_SCRIPT, SIGNATURE), scoring_script=MLFLOW_SCRIPT)
    needs_script = environments.needs_own_script(conda)
    online = Serving(code=script, environment=environment) if needs_script else Serving()
    settings = {"kind": "mlflow", "model": {"name": material.name, "version": material.version}}
    recipe = Recipe(
        kind="mlflow",
        flavors=mlmodel["flavors"],
        realtime=online if REALTIME in material.modes else None,
        batch=batch(settings, {}, environment) if BATCH in material.modes else None,
        sample_request=request,
        sample_source=source,
        sample_rows=_rows_of_table(request),
    )
    return Packaged(manifest.selected(files, below=below, folder=name or "model"), recipe)


def _mlflow_environment(folder: Folder, paths: Mapping[str, str]) -> tuple[Environment, str]:
    """The environment of an MLflow model, and the text of its own conda file."""
    found = {
        name: text_of(folder, paths[name])
        for name in ("conda.yaml", "requirements.txt", "python_env.yaml")
        if name in paths
    }
    if not found.keys() & {"conda.yaml", "requirements.txt"}:
        raise not_servable(
            f"the MLflow model names its packages neither in conda.yaml nor in requirements.txt; {looked_in(folder)}",
            "Log the model with MLflow, which writes both, and register the whole folder.",
        )
    conda, requirements, python = (found.get(name) for name in ("conda.yaml", "requirements.txt", "python_env.yaml"))
    return environments.for_mlflow(conda, requirements, python, where="conda.yaml"), conda or ""


def _rows_of_table(request: Any) -> tuple[Mapping[str, Any], ...] | None:
    match request:
        case {"input_data": {"columns": [*columns], "data": [*rows]}}:
            return tuple(dict(zip(map(str, columns), row, strict=False)) for row in rows)
        case _:
            return None
