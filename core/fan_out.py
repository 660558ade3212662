"""A stage that names several targets: one stage for each of them, which begin together as the end of their path."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from core.stages import Stage


class StageOfSeveralTargets(BaseModel):
    """The last stage may name several targets; all its other fields are those of a stage, the same in each."""

    model_config = ConfigDict(extra="allow")

    target: list[str] = Field(min_length=1, description="Names of targets, each once.")
    serve: Literal["realtime", "batch"] = Field(description="As in a stage; all its other fields may follow.")


def mistake(where: tuple[str | int, ...], what: str) -> InitErrorDetails:
    """A mistake across fields, at the field that a person has to correct."""
    return InitErrorDetails(type=PydanticCustomError("policy", "{what}", {"what": what}), loc=where, input=None)


def _one_for_each_target(given: Any, handler: ValidatorFunctionWrapHandler) -> tuple[Stage, ...]:
    targets = given.get("target") if isinstance(given, Mapping) else None
    if not isinstance(targets, list | tuple):
        return (handler(given),)
    if not targets:
        raise ValidationError.from_exception_data("Stage", [mistake(("target",), "must name a target")])
    if again := [name for number, name in enumerate(targets) if name in targets[:number]]:
        raise ValidationError.from_exception_data("Stage", [mistake(("target",), f"names {again[0]!r} twice")])
    return tuple(handler({**given, "target": name}) for name in targets)


def _in_a_row(groups: Iterable[Any]) -> tuple[Any, ...]:
    """All stages, one behind the other; how many of them are the last group follows from what was given."""
    *before, last = groups
    if early := [number for number, group in enumerate(before) if len(group) > 1]:
        what = "only the last stage of a rule may name several targets: what would follow after some of them succeeded?"
        raise ValidationError.from_exception_data("Stages", [mistake((number, "target"), what) for number in early])
    return (*(stage for group in before for stage in group), *last)


Stages = Annotated[
    tuple[
        Annotated[Stage, WrapValidator(_one_for_each_target, json_schema_input_type=Stage | StageOfSeveralTargets)], ...
    ],
    Field(min_length=1),
    AfterValidator(_in_a_row),
]
