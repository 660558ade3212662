"""`promotion.yaml`: which models are promoted, from where, to where, and how. Frozen models and a pure match.

Field names are those of Azure ML's CLI v2 YAML wherever Azure ML has a name for the thing.
"""

import fnmatch
import hashlib
import re
from collections.abc import Mapping
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from core.events import WorkspaceId
from core.origin import Origin

# Managed online endpoints: 3 to 32 characters, letters, digits and hyphens, starting with a letter
# (Azure ML, "manage resources and quotas for online endpoints").
ENDPOINT_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9-]{1,30}[a-zA-Z0-9]")
ENDPOINT_NAME_LIMIT = 32
_DURATION = re.compile(r"(?P<number>[0-9]{1,9})\s*(?P<unit>s|m|h|d)")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class Trigger(StrEnum):
    """What may start a promotion."""

    MODEL_REGISTERED = "model_registered"


def _duration(value: str) -> str:
    seconds(value)
    return value


def _endpoint_template(value: str) -> str:
    names = re.findall(r"\{([^{}]*)\}", value)
    if unknown := [name for name in names if name != "model"]:
        raise ValueError(f"unknown placeholder {{{unknown[0]}}}: only {{model}} can be used in an endpoint name")
    plain = value.replace("{model}", "model")
    if not ENDPOINT_NAME.fullmatch(plain) and "{model}" not in value:
        raise ValueError(
            f"{value!r} is no valid endpoint name: 3 to 32 letters, digits and hyphens, starting with a letter"
        )
    return value


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Duration = Annotated[str, AfterValidator(_duration)]
OneOrMoreOrigins = Annotated[
    tuple[Origin, ...],
    Field(min_length=1),
    BeforeValidator(_listed, json_schema_input_type=Origin | tuple[Origin, ...]),
]


def seconds(duration: str) -> float:
    """A duration of the policy, such as `60m`, in seconds."""
    found = _DURATION.fullmatch(duration)
    if not found:
        raise ValueError(f"{duration!r} is no duration: write a number and s, m, h or d, such as 60m")
    return timedelta(**{_UNITS[found["unit"]]: int(found["number"])}).total_seconds()


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Workspace(_Strict):
    """An Azure ML workspace, in the three names that the Azure CLI asks for."""

    subscription_id: str = Field(min_length=1)
    resource_group: str = Field(min_length=1)
    workspace: str = Field(min_length=1)

    @property
    def id(self) -> WorkspaceId:
        return WorkspaceId(**self.model_dump())


class Match(_Strict):
    """What a rule applies to. Everything that is given must hold; what is left out matches anything."""

    source: str | None = Field(None, description="Name of one of the sources.")
    model: str = Field("*", description="Glob on the model's name, case-sensitive, such as churn-*.")
    origin: OneOrMoreOrigins | None = Field(None, description="designer, notebook or automl; or a list of them.")
    tags: Mapping[str, str] = Field(default_factory=dict, description="Tags of the model version; values are globs.")
    trigger: tuple[Trigger, ...] = Field((Trigger.MODEL_REGISTERED,), min_length=1)


class RequestSettings(_Strict):
    """As Azure ML's `request_settings` of an online deployment."""

    request_timeout_ms: int = Field(5000, ge=1, le=180_000, strict=True)
    max_concurrent_requests_per_instance: int = Field(1, ge=1, strict=True)


class Deadlines(_Strict):
    """How long each phase of a promotion may take before it is given up; durations such as 60m."""

    artifacts: Duration = "6h"
    deploy: Duration = "60m"
    smoke: Duration = "10m"
    park: Duration = "7d"


class RealtimeStage(_Strict):
    """A managed online endpoint in one target."""

    target: str
    serve: Literal["realtime"]
    endpoint: Annotated[str, AfterValidator(_endpoint_template)] = Field(
        "{model}", description="Name of the endpoint; {model} stands for the model's name, made fit for an endpoint."
    )
    target_model_name: str | None = Field(None, description="Name of the model in the target; the source's by default.")
    instance_type: str = "Standard_DS3_v2"
    instance_count: int = Field(1, ge=1, strict=True)
    auth_mode: Literal["key", "aml_token", "aad_token"] = "key"
    request_settings: RequestSettings | None = None
    environment_variables: Mapping[str, str] = Field(default_factory=dict)
    adopt: bool = Field(False, description="Take over an endpoint of this name that this service did not create.")
    deadlines: Deadlines = Deadlines()

    def endpoint_for(self, model: str) -> str:
        return endpoint_name(self.endpoint, model)


Stage = RealtimeStage


class Rule(_Strict):
    """The first rule that matches decides; its stages are taken in order, each after the one before has succeeded."""

    name: str = Field(min_length=1, max_length=100)
    match: Match = Match()
    stages: tuple[Stage, ...] = Field(min_length=1)


class Policy(_Strict):
    """The whole of `promotion.yaml`."""

    version: Literal[1]
    sources: Mapping[str, Workspace] = Field(min_length=1)
    targets: Mapping[str, Workspace] = Field(min_length=1)
    rules: tuple[Rule, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        mistakes = [
            *_duplicate_names(self.rules),
            *_shared_workspaces("sources", self.sources),
            *_shared_workspaces("targets", self.targets),
        ]
        for index, rule in enumerate(self.rules):
            if rule.match.source is not None and rule.match.source not in self.sources:
                where = ("rules", index, "match", "source")
                mistakes.append(_mistake(where, f"{rule.match.source!r} is none of the sources"))
            mistakes += [
                _mistake(("rules", index, "stages", number, "target"), f"{stage.target!r} is none of the targets")
                for number, stage in enumerate(rule.stages)
                if stage.target not in self.targets
            ]
            mistakes += _repeated_stages(index, rule)
        if mistakes:
            raise ValidationError.from_exception_data("Policy", mistakes)
        return self

    def source_name(self, workspace: WorkspaceId) -> str | None:
        """The name under which the policy lists this workspace as a source."""
        return next((name for name, source in self.sources.items() if source.id.key == workspace.key), None)


def _mistake(where: tuple[str | int, ...], what: str) -> InitErrorDetails:
    """A mistake across fields, at the field that a person has to correct."""
    return InitErrorDetails(type=PydanticCustomError("policy", "{what}", {"what": what}), loc=where, input=None)


def _repeated_stages(index: int, rule: Rule) -> list[InitErrorDetails]:
    """Two stages that write to one endpoint would undo each other."""
    seen: dict[tuple[str, str], int] = {}
    mistakes = []
    for number, stage in enumerate(rule.stages):
        first = seen.setdefault((stage.target, stage.endpoint.lower()), number)
        if first != number:
            where = ("rules", index, "stages", number, "endpoint")
            mistakes.append(_mistake(where, f"stage {first + 1} has the same endpoint in the same target"))
    return mistakes


def _duplicate_names(rules: tuple[Rule, ...]) -> list[InitErrorDetails]:
    names = [rule.name for rule in rules]
    return [
        _mistake(("rules", index, "name"), f"{name!r} is the name of another rule already")
        for index, name in enumerate(names)
        if name in names[:index]
    ]


def _shared_workspaces(section: str, workspaces: Mapping[str, Workspace]) -> list[InitErrorDetails]:
    """A workspace has one name: rules ask for it and people look for it by that name."""
    seen: dict[str, str] = {}
    mistakes = []
    for name, workspace in workspaces.items():
        first = seen.setdefault(workspace.id.key, name)
        if first != name:
            mistakes.append(_mistake((section, name), f"the same workspace as {first!r}; name each workspace once"))
    return mistakes


# ---------------------------------------------------------------------------------------------------------------- match


class ModelFacts(_Strict):
    """What a rule can ask about a model version."""

    source: str
    name: str
    origin: Origin | None = Field(description="None while it is not known: then no rule is held against it.")
    tags: Mapping[str, str]
    trigger: Trigger


class Verdict(_Strict):
    """Whether a rule matches; if not, why."""

    rule: str
    matches: bool
    why: str = ""


def judge(policy: Policy, facts: ModelFacts) -> tuple[Rule | None, tuple[Verdict, ...]]:
    """The first rule that matches, and a verdict on each rule up to it."""
    verdicts: list[Verdict] = []
    for rule in policy.rules:
        why = _mismatch(rule.match, facts)
        verdicts.append(Verdict(rule=rule.name, matches=why is None, why=why or ""))
        if why is None:
            return rule, tuple(verdicts)
    return None, tuple(verdicts)


def could_concern(policy: Policy, source: str, model: str, trigger: Trigger) -> bool:
    """Whether any rule might match: asked before the model is read, so that most events cost no request."""
    return any(_mismatch_by_name(rule.match, source, model, trigger) is None for rule in policy.rules)


def _mismatch(match: Match, facts: ModelFacts) -> str | None:
    if why := _mismatch_by_name(match, facts.source, facts.name, facts.trigger):
        return why
    if match.origin and facts.origin is not None and facts.origin not in match.origin:
        return f"origin {facts.origin} is not {' or '.join(match.origin)}"
    for key, wanted in match.tags.items():
        value = facts.tags.get(key)
        if value is None:
            return f"tag {key} is missing"
        if not fnmatch.fnmatchcase(value, wanted):
            return f"tag {key} is {value!r}, not {wanted!r}"
    return None


def _mismatch_by_name(match: Match, source: str, model: str, trigger: Trigger) -> str | None:
    if match.source not in (None, source):
        return f"source {source} is not {match.source}"
    if trigger not in match.trigger:
        return f"trigger {trigger} is not {' or '.join(match.trigger)}"
    if not fnmatch.fnmatchcase(model, match.model):
        return f"model {model!r} does not match {match.model!r}"
    return None


def endpoint_name(template: str, model: str) -> str:
    """A valid endpoint name for this model: the same for the same model, another for another model.

    Endpoint names are lower case here, as they are compared without regard to case. Characters that an endpoint name
    cannot have become hyphens, and it is cut to 32; a name that had to be changed in any of these ways ends in six
    characters of a hash, so that two models never share one by accident. A template without `{model}` names the endpoint
    itself, for all models of its rule.
    """
    if "{model}" not in template:
        return template.lower()
    plain = template.replace("{model}", model)
    if plain == plain.lower() and ENDPOINT_NAME.fullmatch(plain):
        return plain
    fit = re.sub(r"-{2,}", "-", re.sub(r"[^a-z0-9-]", "-", plain.lower())).strip("-")
    if not fit[:1].isalpha():
        fit = f"m-{fit}"
    digest = hashlib.sha256(plain.encode()).hexdigest()[:6]
    return f"{fit[: ENDPOINT_NAME_LIMIT - 7].strip('-')}-{digest}"


# ----------------------------------------------------------------------------------------------------------------- load


class PolicyProblem(_Strict):
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


class LoadedPolicy(_Strict):
    """A policy and the SHA-256 of the text that it was read from."""

    policy: Policy
    digest: str


_SECTIONS_MISSING = PolicyProblem(
    line=None, field="", message="must hold version, sources, targets and rules; it is empty"
)


def load(path: Path) -> LoadedPolicy:
    """Read a policy file. Raises PolicyInvalid with every mistake, by line and field; OSError if it cannot be read."""
    return parse(path.read_bytes(), name=path.name)


def parse(content: bytes, *, name: str = "promotion.yaml") -> LoadedPolicy:
    """As `load`, from the file's bytes."""
    try:
        text = content.decode("utf-8-sig")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        lines: dict[tuple[str, ...], int] = {}
        if problems := _walk(root, (), lines) if root is not None else [_SECTIONS_MISSING]:
            raise PolicyInvalid(name, problems)
        parsed = yaml.safe_load(text)
    except UnicodeDecodeError as error:
        raise PolicyInvalid(name, [PolicyProblem(line=None, field="", message=f"not UTF-8: {error}")]) from error
    except RecursionError as error:
        problem = PolicyProblem(line=None, field="", message="is nested too deeply, or refers to itself")
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


def _walk(node: yaml.Node, path: tuple[str, ...], lines: dict[tuple[str, ...], int]) -> list[PolicyProblem]:
    """Note the line of each field; report values that YAML cannot read, and keys that it would drop in silence."""
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
            problems += _walk(value, field, lines)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            problems += _walk(value, (*path, str(index)), lines)
    elif why := _unreadable(node):
        problems.append(PolicyProblem(line=node.start_mark.line + 1, field=".".join(path), message=why))
    return problems


def _unreadable(node: yaml.Node) -> str | None:
    """Why YAML's own types cannot read a value: dates that no calendar has, tags that nobody defined."""
    try:
        yaml.SafeLoader("").construct_object(node)
    except (yaml.YAMLError, ValueError) as error:
        return f"cannot be read ({getattr(error, 'problem', error)}); put it in quotes if it is meant as text"
    return None


def _problems(error: ValidationError, lines: dict[tuple[str, ...], int]) -> list[PolicyProblem]:
    """The mistakes, without what only follows from one: a list is short of the item that is wrong."""
    messages = {tuple(map(str, found["loc"])): _plain(found) for found in error.errors(include_url=False)}
    causes = [path for path in messages if not any(path == other[: len(path)] != other for other in messages)]
    return [PolicyProblem(line=_line(path, lines), field=".".join(path), message=messages[path]) for path in causes]


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
