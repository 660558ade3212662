"""Quality gates: what a model version must have shown before it is promoted, and whether it has. Pure.

What is known of a version is frozen at intake (`Quality`) and kept, so that what is live can be compared with later,
when the source may no longer have the run. What cannot be found does not pass: no metric, no promotion.
"""

import fnmatch
import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from core.durations import Duration, seconds
from core.errors import Reason, Refusal
from core.origin import Origin


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError("must be a finite number")
    return value


Number = Annotated[float, AfterValidator(_finite)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BetterThanLive(_Strict):
    """Compared with the version that is live on the endpoint, by what was frozen of that one."""

    by: Number = Field(0.0, ge=0, description="How much better at the least; 0: better at all.")
    goal: Literal["maximize", "minimize"] = Field(description="Which values are the better ones.")

    def holds(self, value: float, live: float) -> bool:
        better, worse = (value, live) if self.goal == "maximize" else (live, value)
        # In the digits that people read: 0.7 is 0.1 more than 0.6.
        gain = Decimal(repr(better)) - Decimal(repr(worse))
        return gain > 0 and gain >= Decimal(repr(self.by))


class MetricGate(_Strict):
    """A metric of the training run, by the name under which it was logged."""

    name: str = Field(min_length=1, max_length=250, description="As it was logged; letter case counts.")
    minimum: Number | None = Field(None, description="The least value that passes.")
    maximum: Number | None = Field(None, description="The greatest value that passes.")
    better_than_live: BetterThanLive | None = Field(None, description="Held against the version that is live.")

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        if self.minimum is None and self.maximum is None and self.better_than_live is None:
            raise ValueError("says nothing: give minimum, maximum or better_than_live")
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise ValueError("no value passes: minimum is above maximum")
        return self


class Gates(_Strict):
    """All of them must hold. Those of a rule and those of a stage are asked for both."""

    metrics: tuple[MetricGate, ...] = Field((), description="Metrics of the training run.")
    required_tags: Mapping[str, str] = Field(
        default_factory=dict, description="Tags of the model version; values are globs, and * is any value."
    )
    origins: tuple[Origin, ...] | None = Field(None, min_length=1, description="The origins that may be promoted.")
    maximum_age: Duration | None = Field(
        None, description="Of the training, or of the model version where that is older or no run is known: 30d."
    )

    @property
    def compares(self) -> bool:
        """Whether what is live counts."""
        return any(metric.better_than_live for metric in self.metrics)


# ------------------------------------------------------------------------------------------------------ what is known


class Metric(BaseModel):
    """A value as it was found, and where: `run NAME`, or a tag or property of the model version."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="strings")

    value: float
    found_in: str


class Quality(BaseModel):
    """What was known of a model version when its promotion was asked for. Never changed afterwards.

    `trained_at` is the end of the training run, if there is one; `pending` says that it was still under way.
    """

    model_config = ConfigDict(frozen=True)

    metrics: Mapping[str, Metric] = Field(default_factory=dict)
    tags: Mapping[str, str] = Field(default_factory=dict)
    origin: Origin | None = None
    asked_at: datetime | None = None
    registered_at: datetime | None = None
    trained_at: datetime | None = None
    pending: bool = False
    unread: str = Field("", description="Why the metrics of the run could not be read.")

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


class Live(BaseModel):
    """What is live on an endpoint by the ledger; `quality` is None where nothing was frozen of it."""

    model_config = ConfigDict(frozen=True)

    promotion_id: str
    name: str
    quality: Quality | None = None


class Verdict(BaseModel):
    """Whether one gate holds, with the value and what was asked of it."""

    model_config = ConfigDict(frozen=True)

    gate: str
    holds: bool
    why: str

    def __str__(self) -> str:
        return f"{self.gate} {'holds' if self.holds else 'fails'}: {self.why}"


def measured(
    logged: Iterable[tuple[str, Mapping[str, float]]], *noted: tuple[str, Mapping[str, str]]
) -> dict[str, Metric]:
    """The metrics of a version: of the first run that logged each, else a number in its tags or properties.

    `logged` are metrics by what they were found in, and so are the texts in `noted`; what comes first counts.
    """
    found: dict[str, Metric] = {}
    for where, values in logged:
        for name, value in values.items():
            found.setdefault(name, Metric(value=value, found_in=where))
    for where, texts in noted:
        for name, text in texts.items():
            if (number := _number(text)) is not None:
                found.setdefault(name, Metric(value=number, found_in=f"{where} {name}"))
    return found


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


# ---------------------------------------------------------------------------------------------------------- verdicts


def verdicts(gates: Gates, quality: Quality) -> tuple[Verdict, ...]:
    """On everything that the version itself must show: the same whenever it is asked."""
    found = [each for metric in gates.metrics for each in _bounds(metric, quality)]
    found += [_tag(tag, wanted, quality) for tag, wanted in gates.required_tags.items()]
    found += [_origin(gates.origins, quality)] if gates.origins is not None else []
    found += [_age(gates.maximum_age, quality)] if gates.maximum_age is not None else []
    return tuple(found)


def comparisons(gates: Gates, quality: Quality, live: Live | None) -> tuple[Verdict, ...]:
    """On everything that is held against what is live now. Where nothing is live, anything is better."""
    return tuple(
        _better(metric.name, metric.better_than_live, quality, live)
        for metric in gates.metrics
        if metric.better_than_live is not None
    )


def check(found: Iterable[Verdict], quality: Quality) -> None:
    """Raises the refusal that names every gate that failed."""
    if failed := [each for each in found if not each.holds]:
        raise Refusal(Reason.GATE_FAILED, why_failed(failed), remedy=remedy(quality))


def why_failed(failed: Iterable[Verdict]) -> str:
    return "; ".join(f"{each.gate}: {each.why}" for each in failed)


def remedy(quality: Quality) -> str:
    first = "Wait for the end of its training run, then ask" if quality.pending else "Correct what can be, then ask"
    return (
        f"{first} for the promotion again (POST /api/promotions reads metrics and tags anew), "
        "register a better version, or change `gates` in the policy."
    )


def _bounds(wanted: MetricGate, quality: Quality) -> Iterator[Verdict]:
    gate, asked = f"metric {wanted.name}", _asked(wanted)
    value = _value(wanted.name, quality)
    if isinstance(value, str):
        yield Verdict(gate=gate, holds=False, why=value + (f"; asked is {asked}" if asked else ""))
    elif asked:
        low = -math.inf if wanted.minimum is None else wanted.minimum
        high = math.inf if wanted.maximum is None else wanted.maximum
        where = quality.metrics[wanted.name].found_in
        yield Verdict(gate=gate, holds=low <= value <= high, why=f"it is {value} ({where}), asked is {asked}")


def _asked(wanted: MetricGate) -> str:
    bounds = (("at least", wanted.minimum), ("at most", wanted.maximum))
    return " and ".join(f"{word} {bound}" for word, bound in bounds if bound is not None)


def _value(name: str, quality: Quality) -> float | str:
    """The value, or why there is none that counts."""
    metric = quality.metrics.get(name)
    if metric is None:
        unread = f" ({quality.unread})" if quality.unread else ""
        known = ", ".join(sorted(quality.metrics)[:8]) or "none"
        return f"neither its run nor the model version has it{unread}; known are: {known}"
    if not math.isfinite(metric.value):
        return f"it is {metric.value} ({metric.found_in}), which is no finite number"
    return metric.value


def _better(name: str, wanted: BetterThanLive, quality: Quality, live: Live | None) -> Verdict:
    gate = f"metric {name} better than live"
    value = _value(name, quality)
    if isinstance(value, str):
        return Verdict(gate=gate, holds=False, why=value)
    if live is None:
        return Verdict(gate=gate, holds=True, why=f"it is {value}, and no other version is live")
    against = (
        _value(name, live.quality) if live.quality is not None else "nothing was frozen of it when it was promoted"
    )
    if isinstance(against, str):
        why = f"it cannot be compared with {live.name}, which is live: {against}"
        return Verdict(gate=gate, holds=False, why=why)
    than = "more" if wanted.goal == "maximize" else "less"
    asked = f"at least {wanted.by} {than}" if wanted.by else than
    why = f"it is {value}, asked is {asked} than the {against} of {live.name}, which is live"
    return Verdict(gate=gate, holds=wanted.holds(value, against), why=why)


def _tag(tag: str, wanted: str, quality: Quality) -> Verdict:
    value = quality.tags.get(tag)
    if value is None:
        return Verdict(gate=f"tag {tag}", holds=False, why=f"it is missing; it must be {_glob(wanted)}")
    why = f"it is {value!r}, asked is {_glob(wanted)}"
    return Verdict(gate=f"tag {tag}", holds=fnmatch.fnmatchcase(value, wanted), why=why)


def _glob(wanted: str) -> str:
    return "any value" if wanted == "*" else repr(wanted)


def _origin(allowed: tuple[Origin, ...], quality: Quality) -> Verdict:
    why = f"it is {quality.origin or 'unknown'}, allowed is {' or '.join(allowed)}"
    return Verdict(gate="origin", holds=quality.origin in allowed, why=why)


def _age(limit: str, quality: Quality) -> Verdict:
    made = min((at for at in (quality.trained_at, quality.registered_at) if at is not None), default=None)
    if made is None or quality.asked_at is None:
        return Verdict(gate="age", holds=False, why=f"it is not known; it must be at most {limit}")
    days = (quality.asked_at - made).total_seconds()
    what = "trained" if made == quality.trained_at else "registered"
    why = f"it was {what} {days / 86_400:.1f} days before it was asked for, allowed is {limit}"
    return Verdict(gate="age", holds=days <= seconds(limit), why=why)
