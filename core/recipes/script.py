"""Models with a scoring script of their own, in their folder or named by the policy."""

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from core import environments
from core.errors import not_servable
from core.packaging import FROM_SCORING_SCRIPT, Code
from core.recipes.material import (
    Folder,
    GivenScoring,
    Material,
    Packaged,
    is_below,
    json_of,
    looked_in,
    named,
    parent,
    text_of,
)
from core.recipes.serving import scripted
from core.scoring_contract import Contract, read_contract

CONDA_NAMES = (
    "conda.yaml",
    "conda.yml",
    "conda_env.yaml",
    "conda_env.yml",
    "environment.yaml",
    "environment.yml",
    "env.yml",
)
SAMPLE_NAMES = ("sample_request.json", "sample-request.json", "sample_input.json", "_samples.json")
# What a scoring script may read from the folder in which it stands.
CODE_SUFFIXES = frozenset({".py", ".json", ".yaml", ".yml", ".toml", ".txt", ".cfg", ".ini"})
CODE_LIMIT = 100


def is_above(files: tuple[str, ...], below: str) -> bool:
    """Whether somebody put a script of their own, with its conda file, at or above this folder."""
    places = ["/".join(below.split("/")[:depth]) for depth in range(len(below.split("/")) + 1)] if below else [""]
    return any(named(files, place, ("score.py",)) and named(files, place, CONDA_NAMES) for place in places)


def package(material: Material) -> Packaged:
    """score.py in the model folder, with the texts beside it and a conda file beside or above."""
    folder = material.folder
    paths = folder.manifest.paths()
    scripts = sorted(
        (path for path in paths if PurePosixPath(path).name == "score.py"), key=lambda path: (path.count("/"), path)
    )
    if len(scripts) > 1 and scripts[0].count("/") == scripts[1].count("/"):
        raise not_servable(
            f"there are several scoring scripts: {', '.join(scripts[:5])}", "Register a folder with one score.py."
        )
    below = parent(scripts[0])
    conda = next((path for place in dict.fromkeys((below, "")) for path in named(paths, place, CONDA_NAMES)), None)
    if conda is None:
        raise not_servable(
            f"the model has a scoring script ({scripts[0]}) and no conda file; {looked_in(folder, names=CONDA_NAMES)}",
            "Put a conda.yaml beside score.py, or name one in the rule: `scoring.environment.conda_file`.",
        )
    code = Code(files=_texts_below(folder, below), scoring_script="score.py")
    contract = read_contract(code.files["score.py"], where=scripts[0])
    sample = next((path for place in dict.fromkeys((below, "")) for path in named(paths, place, SAMPLE_NAMES)), None)
    source = sample or FROM_SCORING_SCRIPT
    if sample:
        contract = with_sample(contract, json_of(text_of(folder, sample), sample))
    environment = environments.for_script(text_of(folder, conda), where=conda)
    name = folder.manifest.folder or PurePosixPath(paths[0]).name
    recipe = scripted("script", material, code, environment, contract, source, folder_name=name)
    return Packaged(folder.manifest, recipe)


def package_given(material: Material, given: GivenScoring) -> Packaged:
    """The policy's own script, whatever the folder holds."""
    contract = read_contract(given.code.files[given.code.scoring_script], where=given.code.scoring_script)
    if given.sample_request is not None:
        contract = with_sample(contract, given.sample_request)
    manifest = material.folder.manifest
    name = manifest.folder or PurePosixPath(manifest.paths()[0]).name
    source = given.sample_source or FROM_SCORING_SCRIPT
    recipe = scripted("script", material, given.code, given.environment, contract, source, folder_name=name)
    return Packaged(manifest, recipe)


def _texts_below(folder: Folder, below: str) -> dict[str, str]:
    """The script's own folder, as far as it is code: by suffix, and no more than a script needs."""
    paths = [
        path
        for path in folder.manifest.paths()
        if is_below(path, below) and PurePosixPath(path).suffix in CODE_SUFFIXES
    ]
    if len(paths) > CODE_LIMIT:
        raise not_servable(
            f"there are {len(paths)} texts beside the scoring script; at most {CODE_LIMIT} are taken",
            "Keep score.py and its modules in a folder of their own in the model.",
        )
    return {PurePosixPath(path).relative_to(below or ".").as_posix(): text_of(folder, path) for path in paths}


def with_sample(contract: Contract, sample: Any) -> Contract:
    """A genuine request says where its rows are and what they look like."""
    template, rows_as = _template(sample)
    changes: dict[str, Any] = {"sample_request": sample}
    if template is not None:
        changes |= {"request_template": template, "rows_as": rows_as}
    return contract.model_copy(update=changes)


def _template(sample: Any) -> tuple[Any, str]:
    """The request with `$rows` in the place of its first list, and whether that list has records or values."""
    if isinstance(sample, list) and sample:
        return "$rows", "records" if isinstance(sample[0], Mapping) else "values"
    if isinstance(sample, Mapping):
        for key, value in sample.items():
            inner, rows_as = _template(value)
            if inner is not None:
                return {**sample, key: inner}, rows_as
    return None, "records"
