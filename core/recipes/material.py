"""What is known of a model before it is known how to serve it, and reading it with errors that say where one looked."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Protocol

from core.environments import Environment
from core.errors import not_servable
from core.packaging import Code, Manifest, Recipe

REALTIME, BATCH = "realtime", "batch"


class Folder(Protocol):
    """A folder in storage, as its manifest has it."""

    @property
    def manifest(self) -> Manifest: ...

    def read(self, path: str) -> bytes:
        """A small text; Refusal if it is too large to be one."""
        ...


@dataclass(frozen=True)
class GivenScoring:
    """The scoring script that the policy names for a rule's models, with its environment and a request."""

    code: Code
    environment: Environment
    sample_request: Any = None
    sample_source: str | None = None


@dataclass(frozen=True)
class Material:
    """A model version before it is known how to serve it.

    `run_folder` gives a folder of the artifacts of the run that wrote the model, None if there is no run or folder.
    """

    name: str
    version: str
    folder: Folder
    run_folder: Callable[[str], Folder | None]
    modes: frozenset[str]
    given: GivenScoring | None = None
    is_packed_graph: bool = False


@dataclass(frozen=True)
class Packaged:
    """The recipe, and the files that are the model in the target: those it loads, where its script looks for them."""

    manifest: Manifest
    recipe: Recipe


def first(places: list[tuple[Folder | None, str]], names: tuple[str, ...], *, what: str) -> tuple[str, str]:
    """The first of these files, in the first place that has one: its name and text."""
    for folder, below in places:
        if folder and (paths := named(folder.manifest.paths(), below, names)):
            return PurePosixPath(paths[0]).name, text_of(folder, paths[0])
    looked = [looked_in(folder, below, names=names) for folder, below in places if folder] or ["no place to look"]
    raise not_servable(
        f"the Automated ML model has no {what}: {' or '.join(names)}; {'; '.join(looked)}",
        "Register it from its job (azureml://jobs/<child run>/outputs/artifacts/paths/outputs/model.pkl), whose other "
        "outputs are then found, or register the folder that holds all three files.",
    )


def named(paths: tuple[str, ...], below: str, names: tuple[str, ...]) -> list[str]:
    """Which of these names there are in this very folder, in the order of the names."""
    wanted = [f"{below}/{name}".lstrip("/") for name in names]
    return [path for path in wanted if path in paths]


def parent(path: str) -> str:
    return path.rpartition("/")[0]


def is_below(path: str, below: str) -> bool:
    return not below or path.startswith(f"{below}/")


def text_of(folder: Folder, path: str) -> str:
    try:
        return folder.read(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise not_servable(f"{path} is not UTF-8: {error}", "Save it as UTF-8 and register the model again.") from error


def json_of(text: str, path: str) -> Any:
    try:
        return json.loads(text, parse_constant=lambda _: None)
    except (ValueError, RecursionError) as error:
        raise not_servable(
            f"{path} is no JSON: {str(error)[:200]}", "Correct it and register the model again."
        ) from error


def looked_in(folder: Folder, below: str = "", names: tuple[str, ...] = ()) -> str:
    """Where something was looked for, and what is there instead."""
    manifest = folder.manifest
    place = "/".join(part for part in (manifest.container, manifest.root, below) if part)
    there = [path for path in manifest.paths() if is_below(path, below)][:10]
    asked = f"looked for {', '.join(names)} in" if names else "looked in"
    return f"{asked} {place}, which has {', '.join(there) or 'no files'}"
