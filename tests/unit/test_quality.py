"""What a version must have shown: verdicts from what is known of it."""

import math
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from core.errors import Reason, Refusal
from core.origin import Origin
from core.quality import BetterThanLive, Gates, Live, Metric, Quality, check, comparisons, measured, verdicts
from tests.unit.builders import NOON

NUMBERS = st.floats(allow_nan=False, allow_infinity=False, min_value=-1e12, max_value=1e12)


def a_quality(metrics: dict[str, float] | None = None, **changes: Any) -> Quality:
    found = {name: Metric(value=value, found_in="run train") for name, value in (metrics or {}).items()}
    values = {"metrics": found, "origin": Origin.NOTEBOOK, "asked_at": NOON, "registered_at": NOON}
    return Quality.model_validate(values | changes)


def a_live(metrics: dict[str, float] | None) -> Live:
    quality = None if metrics is None else a_quality(metrics)
    return Live(promotion_id="other-1", name="churn:2", quality=quality)


def gates(**values: Any) -> Gates:
    return Gates.model_validate(values)


def metric(name: str = "accuracy", **values: Any) -> Gates:
    return gates(metrics=[{"name": name, **values}])


@pytest.mark.parametrize(
    ("wanted", "known", "holds", "says"),
    [
        (metric(minimum=0.9), a_quality({"accuracy": 0.9}), True, "0.9"),
        (metric(minimum=0.9), a_quality({"accuracy": 0.8999999}), False, "it is 0.8999999 (run train), asked is at least 0.9"),
        (metric(maximum=3), a_quality({"accuracy": 3.5}), False, "at most 3.0"),
        (metric(minimum=1, maximum=3), a_quality({"accuracy": 2}), True, "at least 1.0 and at most 3.0"),
        (metric(minimum=0.9), a_quality({"Accuracy": 0.95}), False, "known are: Accuracy"),
        (metric(minimum=0.9), a_quality(), False, "known are: none"),
        (metric(minimum=0.9), a_quality(unread="no right to read"), False, "no right to read"),
        (metric(minimum=0.9), a_quality({"accuracy": math.nan}), False, "no finite number"),
        (metric(minimum=0.9), a_quality({"accuracy": math.inf}), False, "no finite number"),
        (metric(better_than_live={"goal": "maximize"}), a_quality(), False, "known are: none"),
        (gates(required_tags={"reviewed": "*"}), a_quality(tags={"reviewed": ""}), True, "any value"),
        (gates(required_tags={"reviewed": "*"}), a_quality(), False, "missing"),
        (gates(required_tags={"risk": "lo*"}), a_quality(tags={"risk": "low"}), True, "'lo*'"),
        (gates(required_tags={"risk": "low"}), a_quality(tags={"risk": "Low"}), False, "it is 'Low'"),
        (gates(origins=["automl"]), a_quality(), False, "it is notebook, allowed is automl"),
        (gates(origins=["automl", "notebook"]), a_quality(), True, "automl or notebook"),
        (gates(origins=["automl"]), a_quality(origin=None), False, "unknown"),
        (gates(maximum_age="30d"), a_quality(registered_at=NOON - timedelta(days=30)), True, "registered 30.0 days"),
        (gates(maximum_age="30d"), a_quality(trained_at=NOON - timedelta(days=31)), False, "trained 31.0 days"),
        (gates(maximum_age="30d"), a_quality(registered_at=None), False, "not known"),
    ],
)  # fmt: skip
def test_a_gate_holds_or_says_why_not(wanted: Gates, known: Quality, holds: bool, says: str) -> None:
    (verdict,) = verdicts(wanted, known)
    assert (verdict.holds, says in verdict.why) == (holds, True), str(verdict)


MAXIMIZE, MINIMIZE = {"goal": "maximize"}, {"goal": "minimize"}


@pytest.mark.parametrize(
    ("asked", "value", "live", "holds"),
    [
        (MAXIMIZE, 0.9, {"accuracy": 0.8}, True),
        (MAXIMIZE, 0.8, {"accuracy": 0.8}, False),
        (MAXIMIZE, 0.7, {"accuracy": 0.8}, False),
        (MINIMIZE, 0.7, {"accuracy": 0.8}, True),
        (MINIMIZE, 0.8, {"accuracy": 0.8}, False),
        (MAXIMIZE | {"by": 0.1}, 0.7, {"accuracy": 0.6}, True),
        (MAXIMIZE | {"by": 0.1}, 0.69, {"accuracy": 0.6}, False),
        (MINIMIZE | {"by": 0.1}, 0.5, {"accuracy": 0.6}, True),
        (MAXIMIZE, 0.9, {"auc": 0.8}, False),
        (MAXIMIZE, 0.9, {"accuracy": math.nan}, False),
        (MAXIMIZE, math.nan, {"accuracy": 0.8}, False),
        (MAXIMIZE, 0.9, None, False),
    ],
)
def test_better_than_live(asked: dict[str, Any], value: float, live: dict[str, float] | None, holds: bool) -> None:
    found = comparisons(metric(better_than_live=asked), a_quality({"accuracy": value}), a_live(live))
    assert [each.holds for each in found] == [holds], str(found)


def test_where_nothing_is_live_anything_is_better() -> None:
    (verdict,) = comparisons(metric(better_than_live=MAXIMIZE), a_quality({"accuracy": -5}), None)
    assert verdict.holds
    assert comparisons(metric(minimum=1), a_quality(), None) == ()


def test_the_refusal_names_every_gate_that_failed() -> None:
    wanted = gates(metrics=[{"name": "auc", "minimum": 0.8}, {"name": "loss", "maximum": 1}], origins=["automl"])
    known = a_quality({"auc": 0.7, "loss": 0.5}, pending=True)
    with pytest.raises(Refusal) as refused:
        check(verdicts(wanted, known), known)
    assert refused.value.reason is Reason.GATE_FAILED
    assert ("metric auc" in str(refused.value), "origin" in str(refused.value)) == (True, True)
    assert "loss" not in str(refused.value)
    assert refused.value.remedy.startswith("Wait for the end of its training run")


def test_the_nearest_run_counts_and_tags_are_a_fallback() -> None:
    found = measured(
        [("run best", {"auc": 0.9}), ("run parent", {"auc": 0.1, "rows": 7})],
        ("tag", {"auc": "0.99", "f1": "0.8", "owner": "ann"}),
        ("property", {"f1": "0.1", "mae": "2"}),
    )
    assert {name: (each.value, each.found_in) for name, each in found.items()} == {
        "auc": (0.9, "run best"),
        "rows": (7.0, "run parent"),
        "f1": (0.8, "tag f1"),
        "mae": (2.0, "property mae"),
    }


@pytest.mark.parametrize(
    "values",
    [
        {"metrics": [{"name": "a"}]},
        {"metrics": [{"name": "a", "minimum": 2, "maximum": 1}]},
        {"metrics": [{"name": "a", "minimum": math.nan}]},
        {"metrics": [{"name": "a", "better_than_live": {"by": -1, "goal": "maximize"}}]},
        {"metrics": [{"name": "a", "better_than_live": {"by": 1}}]},
        {"origins": []},
        {"maximum_age": "a month"},
        {"minimum": 1},
    ],
)
def test_gates_that_say_nothing_or_nonsense_are_mistakes(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        gates(**values)


@given(value=NUMBERS, live=NUMBERS, by=st.floats(0, 1e6), goal=st.sampled_from(["maximize", "minimize"]))
def test_of_two_versions_never_both_are_better(value: float, live: float, by: float, goal: Any) -> None:
    """So a version cannot replace the one that replaced it, and no two promotions chase each other."""
    wanted = BetterThanLive(by=by, goal=goal)
    assert not (wanted.holds(value, live) and wanted.holds(live, value))
    assert not wanted.holds(value, value)
    other = BetterThanLive(by=by, goal="minimize" if goal == "maximize" else "maximize")
    assert wanted.holds(value, live) == other.holds(live, value)


@given(value=st.floats(), minimum=NUMBERS, maximum=NUMBERS)
def test_what_passes_is_a_finite_number_within_its_bounds(value: float, minimum: float, maximum: float) -> None:
    low, high = sorted((minimum, maximum))
    (verdict,) = verdicts(metric(minimum=low, maximum=high), a_quality({"accuracy": value}))
    assert verdict.holds == (math.isfinite(value) and low <= value <= high)


@given(metrics=st.dictionaries(st.text(min_size=1, max_size=5), st.floats(), max_size=4))
def test_what_was_frozen_is_read_as_it_was(metrics: dict[str, float]) -> None:
    """Also what is no finite number: it must not come back as a missing metric, or as a passing one."""
    known = a_quality(metrics)
    again = Quality.model_validate_json(known.model_dump_json())
    assert (again.digest, repr(again.metrics)) == (known.digest, repr(known.metrics))
