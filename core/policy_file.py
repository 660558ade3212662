"""Reading `promotion.yaml`, with every mistake named by line and field, and the scoring scripts that it names."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from core import environments
from core.errors import Refusal
from core.packaging import Code
from core.policy import Policy, Scoring
from core.recipes.material import GivenScoring
from core.recipes.script import CODE_SUFFIXES
from core.scoring_contract import read_contract

# Aliases let a few lines stand for more than memory holds; some hundred rules have fewer values.
VALUE_LIMIT = 20_000
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_LONGEST_NUMBER = 100


@dataclass(frozen=True)
class PolicyProblem:
    """One mistake in the file, where a person looks for it."""

    line: int | None
    field: str
    message: str

    def __str__(self) -> str:
        where = f"line {self.line}" if self.line else "the file"
        return f"{where}: {self.field}: {self.message}" if self.field else f"{where}: {self.message}"


class PolicyInvalid(Exception):
    """The policy file has mistakes; `problems` lists all that could be found."""

    def __init__(self, name: str, problems: list[PolicyProblem]) -> None:
        self.problems = problems
        super().__init__(f"{name} is not a valid promotion policy:\n" + "\n".join(f"  {p}" for p in problems))


@dataclass(frozen=True)
class LoadedPolicy:
    """A policy, the SHA-256 of the text that it was read from, and the scoring scripts that it names, by rule."""

    policy: Policy
    digest: str
    scoring: Mapping[str, GivenScoring] = field(default_factory=dict)


_SECTIONS_MISSING = PolicyProblem(
    line=None, field="", message="must hold version, sources, targets and rules; it is empty"
)


def load(path: Path) -> LoadedPolicy:
    """Read a policy file and the files that it names.

    Raises PolicyInvalid with every mistake, by line and field; OSError if it cannot be read.
    """
    loaded = parse(path.read_bytes(), name=path.name)
    scoring: dict[str, GivenScoring] = {}
    problems: list[PolicyProblem] = []
    for index, rule in enumerate(loaded.policy.rules):
        if rule.scoring is None:
            continue
        try:
            scoring[rule.name] = _given(rule.scoring, path.parent)
        except (Refusal, OSError, ValueError) as error:
            problems.append(PolicyProblem(line=None, field=f"rules.{index}.scoring", message=str(error)))
    if problems:
        raise PolicyInvalid(path.name, problems)
    return replace(loaded, scoring=scoring)


def _given(scoring: Scoring, directory: Path) -> GivenScoring:
    """The named files. Raises OSError or ValueError for one that is missing or no text, Refusal for one of no use."""
    code = directory / scoring.code
    files = {
        file.relative_to(code).as_posix(): file.read_text(encoding="utf-8-sig")
        for file in sorted(code.rglob("*"))
        if file.is_file() and file.suffix in CODE_SUFFIXES
    }
    if scoring.scoring_script not in files:
        raise ValueError(f"there is no {scoring.scoring_script} in {scoring.code}")
    read_contract(files[scoring.scoring_script], where=scoring.scoring_script)
    conda = (directory / scoring.environment.conda_file).read_text(encoding="utf-8-sig")
    environment = environments.for_script(conda, where=scoring.environment.conda_file)
    if scoring.environment.image:
        environment = environment.model_copy(update={"image": scoring.environment.image})
    sample = scoring.sample_request
    return GivenScoring(
        code=Code(files=files, scoring_script=scoring.scoring_script),
        environment=environment,
        sample_request=json.loads((directory / sample).read_text(encoding="utf-8-sig")) if sample else None,
        sample_source=sample,
    )


def parse(content: bytes, *, name: str = "promotion.yaml") -> LoadedPolicy:
    """As `load`, from the file's bytes."""
    try:
        text = content.decode("utf-8-sig")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        lines: dict[tuple[str, ...], int] = {}
        nodes = iter(range(VALUE_LIMIT))
        if problems := _walk(root, (), lines, nodes) if root is not None else [_SECTIONS_MISSING]:
            raise PolicyInvalid(name, problems)
        parsed = yaml.safe_load(text)
    except UnicodeDecodeError as error:
        raise PolicyInvalid(name, [PolicyProblem(line=None, field="", message=f"not UTF-8: {error}")]) from error
    except RecursionError as error:
        problem = PolicyProblem(line=None, field="", message="is nested too deeply, or refers to itself")
        raise PolicyInvalid(name, [problem]) from error
    except _TooLarge as error:
        problem = PolicyProblem(line=None, field="", message=f"stands for more than {VALUE_LIMIT} values")
        raise PolicyInvalid(name, [problem]) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = PolicyProblem(
            line=mark.line + 1 if mark else None, field="", message=f"not YAML: {getattr(error, 'problem', error)}"
        )
        raise PolicyInvalid(name, [problem]) from error
    try:
        policy = Policy.model_validate(parsed)
    except ValidationError as error:
        raise PolicyInvalid(name, _problems(error, lines)) from error
    return LoadedPolicy(policy=policy, digest=hashlib.sha256(content).hexdigest())


class _TooLarge(Exception):
    """The text stands for more values than a policy may have."""


def _walk(
    node: yaml.Node, path: tuple[str, ...], lines: dict[tuple[str, ...], int], nodes: Iterator[int]
) -> list[PolicyProblem]:
    """Note the line of each field; report values that YAML cannot read, and keys that it would drop in silence."""
    if next(nodes, None) is None:
        raise _TooLarge
    lines.setdefault(path, node.start_mark.line + 1)
    problems: list[PolicyProblem] = []
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            field = (*path, str(key.value))
            if field in lines:
                problems.append(
                    PolicyProblem(line=key.start_mark.line + 1, field=".".join(field), message="stands here twice")
                )
            lines[field] = key.start_mark.line + 1
            problems += _walk(value, field, lines, nodes)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            problems += _walk(value, (*path, str(index)), lines, nodes)
    elif why := _unreadable(node):
        problems.append(PolicyProblem(line=node.start_mark.line + 1, field=".".join(path), message=why))
    return problems


def _unreadable(node: yaml.Node) -> str | None:
    """Why YAML's own types cannot read a value: dates that no calendar has, tags that nobody defined."""
    if node.tag in _NUMBERS and len(node.value) > _LONGEST_NUMBER:
        return "is too long for a number; put it in quotes if it is meant as text"
    try:
        yaml.SafeLoader("").construct_object(node)
    except (yaml.YAMLError, ValueError) as error:
        return f"cannot be read ({getattr(error, 'problem', error)}); put it in quotes if it is meant as text"
    return None


def _problems(error: ValidationError, lines: dict[tuple[str, ...], int]) -> list[PolicyProblem]:
    """The mistakes, without what only follows from one: a list is short of the item that is wrong."""
    messages = {_path(found["loc"], lines): _plain(found) for found in error.errors(include_url=False)}
    above = {path[:end] for path in messages for end in range(len(path))}
    causes = [path for path in messages if path not in above]
    return [PolicyProblem(line=_line(path, lines), field=".".join(path), message=messages[path]) for path in causes]


def _path(loc: tuple[int | str, ...], lines: dict[tuple[str, ...], int]) -> tuple[str, ...]:
    """A mistake's place as the file has it: pydantic adds which kind of stage or trigger it took something for."""
    path: tuple[str, ...] = ()
    for part in map(str, loc):
        if part in _KINDS and (*path, part) not in lines:
            continue
        path = (*path, part)
    return path


_KINDS = frozenset({"realtime", "batch", "cron", "recurrence"})


def _plain(found: Any) -> str:
    match found["type"]:
        case "extra_forbidden":
            return "unknown field; check its spelling against the policy reference"
        case "missing":
            return "is required"
        case "string_type":
            return "is empty" if found["input"] is None else "is no text for YAML; put it in quotes"
        case "tuple_type":
            return "must be a list"
        case "model_type" | "mapping_type" | "dict_type":
            return "must hold fields of its own"
        case "union_tag_invalid":
            return f"is {found['ctx']['tag']!r}, none of {found['ctx']['expected_tags']}"
        case "union_tag_not_found":
            return f"must say its {found['ctx']['discriminator']}"
        case "too_short":
            return "must not be empty"
        case _:
            return str(found["msg"]).removeprefix("Value error, ")


def _line(path: tuple[str, ...], lines: dict[tuple[str, ...], int]) -> int | None:
    """The line of this field, or of the nearest thing around it that stands in the file."""
    for end in range(len(path), -1, -1):
        if (line := lines.get(path[:end])) is not None:
            return line
    return None
