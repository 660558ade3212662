"""How the inputs and outputs of a pipeline's steps are bound to each other and to those of the pipeline. Pure."""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

_PARENT_INPUT = re.compile(r"\$\{\{\s*parent\.inputs\.(\w+)\s*\}\}")
_PARENT_OUTPUT = re.compile(r"\$\{\{\s*parent\.outputs\.(\w+)\s*\}\}")
_STEP_OUTPUT = re.compile(r"\$\{\{\s*parent\.jobs\.(\w+)\.outputs\.(\w+)\s*\}\}")
_PLACEHOLDER = re.compile(r"\$\{\{\s*(inputs|outputs)\.(\w+)\s*\}\}")
_OPTIONAL = re.compile(r"\$\[\[(.*?)\]\]", re.DOTALL)
WRITABLE_MODES = frozenset({"readwritemount", "rw_mount"})


@dataclass(frozen=True)
class Asset:
    """Something in storage: a URI or ARM id, and of what type it is, such as `uri_folder` or `custom_model`."""

    uri: str
    kind: str


@dataclass(frozen=True)
class StepOutput:
    """What another step of the pipeline writes."""

    step: str
    output: str


Given = TypeVar("Given")


def job_input(given: Any) -> Asset | str:
    """An input of a job: an asset, or a literal as text. Jobs and invocations spell the fields in many ways."""
    if not isinstance(given, Mapping):
        return str(given)
    kind = snake(str(given.get("jobInputType") or given.get("job_input_type") or "literal"))
    return str(given.get("value", "")) if kind == "literal" else Asset(str(given.get("uri", "")), kind)


def step_input(given: Any, inputs: Mapping[str, Given]) -> Given | Asset | StepOutput | str:
    """An input of a step, given those of the pipeline. Raises KeyError for one that the pipeline does not have."""
    found = job_input(given)
    if isinstance(found, Asset):
        return found
    if match := _PARENT_INPUT.fullmatch(found.strip()):
        return inputs[match[1]]
    if match := _STEP_OUTPUT.fullmatch(found.strip()):
        return StepOutput(match[1], match[2])
    return found


def parent_output(given: Any) -> str | None:
    """The pipeline's output to which a step's output is bound, if it is."""
    text = given.get("value", "") if isinstance(given, Mapping) else str(given or "")
    match = _PARENT_OUTPUT.fullmatch(str(text).strip())
    return match[1] if match else None


def needs(node: Mapping[str, Any]) -> set[str]:
    """The steps that must have run before this one."""
    given = (node.get("inputs") or {}).values()
    return {match[1] for each in given if (match := _STEP_OUTPUT.fullmatch(str(job_input(each)).strip()))}


def in_order(nodes: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The steps, each after those that it needs. Raises ValueError if they need each other."""
    ordered: list[str] = []
    while len(ordered) < len(nodes):
        ready = [name for name in nodes if name not in ordered and needs(nodes[name]) <= set(ordered)]
        if not ready:
            raise ValueError("the steps of the pipeline need each other")
        ordered += ready
    return ordered


def filled(command: str, inputs: Mapping[str, Path | str], outputs: Mapping[str, Path]) -> str:
    """A command with the paths and values of this run; what is optional and not given is left out."""

    def value(match: re.Match[str]) -> str:
        found = (inputs if match[1] == "inputs" else outputs)[match[2]]
        return shlex.quote(str(found)) if isinstance(found, Path) else str(found)

    def optional(match: re.Match[str]) -> str:
        names = _PLACEHOLDER.findall(match[1])
        return match[1] if all(name in (inputs if kind == "inputs" else outputs) for kind, name in names) else ""

    return _PLACEHOLDER.sub(value, _OPTIONAL.sub(optional, command))


def snake(text: str) -> str:
    return re.sub(r"(?<=[a-z])([A-Z])", lambda found: f"_{found[1]}", text).lower()
