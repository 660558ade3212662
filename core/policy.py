"""`promotion.yaml`: which models are promoted, from where, to where, and how. Frozen models and a pure match.

Field names are those of Azure ML's CLI v2 YAML wherever Azure ML has a name for the thing.
"""

import fnmatch
from collections.abc import Mapping
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    ValidationError,
    model_validator,
)
from pydantic_core import InitErrorDetails

from core.events import WorkspaceId, is_asset_name
from core.fan_out import Stages
from core.fan_out import mistake as _mistake
from core.freeze import Freezes
from core.origin import Origin
from core.quality import Gates


class Trigger(StrEnum):
    """What may start a promotion."""

    MODEL_REGISTERED = "model_registered"
    RUN_COMPLETED = "run_completed"
    REQUESTED = "requested"
    TAGGED = "tagged"


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


OneOrMoreOrigins = Annotated[
    tuple[Origin, ...],
    Field(min_length=1),
    BeforeValidator(_listed, json_schema_input_type=Origin | tuple[Origin, ...]),
]


def _relative(value: str) -> str:
    path = PurePosixPath(value)
    if not value or path.is_absolute() or ".." in path.parts or "\\" in value:
        raise ValueError(f"{value!r} must be a path below the folder of the policy file")
    return str(path)


RelativePath = Annotated[str, AfterValidator(_relative)]


def _output(value: str) -> str:
    value = value.rstrip("/")
    if {"", ".", ".."} & set(value.split("/")) or "\\" in value:
        raise ValueError(f"{value!r} must be the name of an output, or a path among a run's artifacts")
    return value


EXPERIMENT = "{experiment}"


def _model_name(value: str) -> str:
    if not is_asset_name(value.replace(EXPERIMENT, "e")):
        raise ValueError(f"{value!r} is no name for a model; the only placeholder is {EXPERIMENT}")
    return value


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Workspace(_Strict):
    """An Azure ML workspace, in the three names that the Azure CLI asks for."""

    subscription_id: str = Field(min_length=1, description="Of the subscription.")
    resource_group: str = Field(min_length=1, description="Its resource group.")
    workspace: str = Field(min_length=1, description="Its own name.")

    @property
    def id(self) -> WorkspaceId:
        return WorkspaceId(**self.model_dump())


class SourceWorkspace(Workspace):
    """A workspace whose events are believed, and what the service may write there: nothing, unless it says so."""

    register_models: bool = Field(
        False, description="Register the output of a run here before it is promoted. Without it, it is only read."
    )
    status_tags: bool = Field(
        False, description="Write where its promotions stand into tags of its model versions: promotion.<target>."
    )

    @property
    def id(self) -> WorkspaceId:
        return WorkspaceId(**self.model_dump(exclude={"register_models", "status_tags"}))


class TargetWorkspace(Workspace):
    """A workspace that models are promoted to, and when nothing is promoted there by itself."""

    freeze: Freezes = Field((), description="When nothing is promoted there by itself; one window or a list.")
    drift: Literal["report", "repair", "ignore"] = Field(
        "report",
        description="What is done when the target no longer shows what was promoted to it: report it, bring it back as "
        "well, or do not look.",
    )

    @property
    def id(self) -> WorkspaceId:
        return WorkspaceId(**self.model_dump(exclude={"freeze", "drift"}))


class Match(_Strict):
    """What a rule applies to. Everything that is given must hold; what is left out matches anything."""

    source: str | None = Field(None, description="Name of one of the sources.")
    experiment: str | None = Field(None, description="Glob on the experiment of a completed run, case-sensitive.")
    model: str = Field("*", description="Glob on the model's name, case-sensitive, such as churn-*.")
    origin: OneOrMoreOrigins | None = Field(None, description="designer, notebook or automl; or a list of them.")
    tags: Mapping[str, str] = Field(default_factory=dict, description="Tags of the model version; values are globs.")
    trigger: tuple[Trigger, ...] = Field(
        (Trigger.MODEL_REGISTERED, Trigger.REQUESTED, Trigger.TAGGED),
        min_length=1,
        description="What may start it: the registration of a model version, a request by a person, a tag that asks.",
    )


class EnvironmentFile(_Strict):
    """As Azure ML's inline `environment`: a conda file beside the policy, and the image that it is built on."""

    conda_file: RelativePath = Field(description="Path relative to the policy file.")
    image: str | None = Field(None, description="By default Azure ML's own base image.")


class Scoring(_Strict):
    """The scoring script of a rule's models, for models that do not bring one. Paths are relative to the policy file."""

    code: RelativePath = Field(description="Folder of the scoring script and its modules; texts only.")
    scoring_script: RelativePath = Field(description="The script in that folder, with init() and run().")
    environment: EnvironmentFile = Field(description="What the script runs in.")
    sample_request: RelativePath | None = Field(None, description="JSON file with a request that must be answered.")


class Rule(_Strict):
    """The first rule that matches decides; its stages are taken in order, each after the one before has succeeded.

    The last `fan_out` of them begin together: one stage in the file, with several targets.
    """

    name: str = Field(
        min_length=1,
        max_length=100,
        description="Part of the promotion's id: under a new name, a version is promoted anew.",
    )
    match: Match = Field(Match(), description="What it applies to; everything, by default.")
    origin_if_unknown: Origin | None = Field(
        None, description="What models are taken for whose origin cannot be told, or whose evidence contradicts itself."
    )
    register_as: Annotated[str, AfterValidator(_model_name)] | None = Field(
        None,
        description="Name of the model that the output of a completed run is; {experiment} stands for its experiment.",
    )
    output: Annotated[str, AfterValidator(_output)] | None = Field(
        None, description="Which output of a completed run: its name, or a path among the artifacts of the run."
    )
    scoring: Scoring | None = Field(None, description="A scoring script for models that do not bring one.")
    gates: Gates | None = Field(None, description="What a version must have shown, for any of the stages.")
    stages: Stages = Field(description="Where it goes, in this order; the last stage may name several targets.")
    _fan_out: int = PrivateAttr(1)
    _alone: bool = PrivateAttr(False)

    @model_validator(mode="wrap")
    @classmethod
    def _counted(cls, given: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        rule = handler(given)
        if isinstance(given, Mapping):
            rule._fan_out = len(rule.stages) - len(given["stages"]) + 1
        return rule

    @property
    def fan_out(self) -> int:
        """How many of the last stages begin together."""
        return self._fan_out

    @property
    def alone(self) -> bool:
        """Whether of these only the very last one is asked for."""
        return self._alone

    def line_of(self, number: int) -> int:
        """Which stage of the file a stage is."""
        return min(number, len(self.stages) - self._fan_out)

    def up_to(self, end: int) -> Self:
        """As far as the stage before `end`, and of those that begin with it that one alone. Each keeps its number."""
        cut = self.model_copy(update={"stages": self.stages[:end]})
        cut._fan_out = max(1, end - (len(self.stages) - self._fan_out))
        cut._alone = cut._fan_out > 1
        return cut

    def model_of(self, experiment: str) -> str:
        """Name of the model that a run of this experiment makes; empty if this rule is not about runs."""
        return (self.register_as or "").replace(EXPERIMENT, experiment)


class Policy(_Strict):
    """The whole of `promotion.yaml`."""

    version: Literal[1] = Field(description="Of this format.")
    sources: Mapping[str, SourceWorkspace] = Field(
        min_length=1, description="Workspaces that models come from, by name."
    )
    targets: Mapping[str, TargetWorkspace] = Field(min_length=1, description="Workspaces that models go to, by name.")
    rules: tuple[Rule, ...] = Field(min_length=1, description="The first that matches decides; names are unique.")

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
                _mistake(
                    ("rules", index, "stages", rule.line_of(number), "target"),
                    f"{stage.target!r} is none of the targets",
                )
                for number, stage in enumerate(rule.stages)
                if stage.target not in self.targets
            ]
            mistakes += [*_repeated_stages(index, rule), *_of_runs(index, rule)]
        if mistakes:
            raise ValidationError.from_exception_data("Policy", mistakes)
        return self

    def source_name(self, workspace: WorkspaceId) -> str | None:
        """The name under which the policy lists this workspace as a source."""
        return next((name for name, source in self.sources.items() if source.id.key == workspace.key), None)


def _repeated_stages(index: int, rule: Rule) -> list[InitErrorDetails]:
    """Two stages that write to one endpoint would undo each other."""
    seen: dict[tuple[str, str, str], int] = {}
    mistakes = []
    for number, stage in enumerate(rule.stages):
        first = seen.setdefault((stage.target, stage.serve, stage.endpoint.lower()), number)
        if first != number:
            where = ("rules", index, "stages", rule.line_of(number), "endpoint")
            mistakes.append(
                _mistake(where, f"stage {rule.line_of(first) + 1} has the same endpoint in the same target")
            )
    return mistakes


def _of_runs(index: int, rule: Rule) -> list[InitErrorDetails]:
    """What a rule says about runs must be complete, and must be about runs."""
    triggers = rule.match.trigger
    mistakes = []
    if Trigger.RUN_COMPLETED not in triggers:
        given = {"register_as": rule.register_as, "output": rule.output}
        what = f"is for completed runs: add {Trigger.RUN_COMPLETED} to match.trigger"
        mistakes += [_mistake(("rules", index, name), what) for name, value in given.items() if value is not None]
    elif rule.register_as is None:
        what = f"is required with trigger {Trigger.RUN_COMPLETED}: the name of the model that the output is"
        mistakes.append(_mistake(("rules", index, "register_as"), what))
    elif EXPERIMENT not in rule.register_as and not fnmatch.fnmatchcase(rule.register_as, rule.match.model):
        what = f"does not match {rule.register_as!r}, which register_as calls the model"
        mistakes.append(_mistake(("rules", index, "match", "model"), what))
    if rule.match.experiment is not None and triggers != (Trigger.RUN_COMPLETED,):
        what = f"is known of completed runs alone: make it a rule of its own, with trigger [{Trigger.RUN_COMPLETED}]"
        mistakes.append(_mistake(("rules", index, "match", "experiment"), what))
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
    """What a rule can ask about a model version, or about a completed run (`experiment`).

    A run has no `name`: each rule says itself what the model is to be called.
    """

    source: str
    name: str = ""
    experiment: str | None = None
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
        named = (
            facts if facts.experiment is None else facts.model_copy(update={"name": rule.model_of(facts.experiment)})
        )
        why = _mismatch(rule.match, named)
        verdicts.append(Verdict(rule=rule.name, matches=why is None, why=why or ""))
        if why is None:
            return rule, tuple(verdicts)
    return None, tuple(verdicts)


def could_concern(policy: Policy, source: str, model: str, trigger: Trigger) -> bool:
    """Whether any rule might match: asked before the model is read, so that most events cost no request."""
    return any(_mismatch_by_name(rule.match, source, model, trigger) is None for rule in policy.rules)


def could_concern_run(policy: Policy, source: str, experiment: str | None) -> bool:
    """As `could_concern`, of a completed run; None if its experiment is not known."""
    return any(
        Trigger.RUN_COMPLETED in rule.match.trigger
        and rule.match.source in (None, source)
        and (experiment is None or fnmatch.fnmatchcase(experiment, rule.match.experiment or "*"))
        for rule in policy.rules
    )


def _mismatch(match: Match, facts: ModelFacts) -> str | None:
    if why := _mismatch_by_name(match, facts.source, facts.name, facts.trigger):
        return why
    if match.experiment and not fnmatch.fnmatchcase(facts.experiment or "", match.experiment):
        return f"experiment {facts.experiment!r} does not match {match.experiment!r}"
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
