"""Whose metrics count for a model version."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, cast

import pytest

from core.errors import Blocked, PromotionError, Reason
from core.events import WorkspaceId
from core.measuring import is_needed, measure
from core.origin import Origin, Run
from core.policy import Rule
from core.ports import Source, Training
from core.quality import Quality
from tests.unit.builders import DEV, NOON, a_stage
from tests.unit.test_explain import a_model

BEST = "automl_best_child_run_id"
CLOSED = Blocked(Reason.PERMISSION_MISSING, "ml-dev says 403", remedy="Give the service the role.")


@dataclass
class Runs:
    """The runs of a source that logged something."""

    logged: Mapping[str, Mapping[str, float]]
    problem: PromotionError | None = None
    running: bool = False
    asked: list[str] = field(default_factory=list)

    def training(self, workspace: WorkspaceId, run_id: str) -> Training | None:
        self.asked.append(run_id)
        if self.problem is not None:
            raise self.problem
        if run_id not in self.logged:
            return None
        ended = None if self.running else NOON - timedelta(days=2)
        return Training(run_id=run_id, metrics=self.logged[run_id], ended_at=ended, is_running=self.running)


def measured(source: Runs, *runs: Run, needed: bool = True, **model: Any) -> Quality:
    found = a_model(**model)
    return measure(cast(Source, source), DEV, found, runs, origin=Origin.AUTOML, at=NOON, needed=needed)


def values(quality: Quality) -> dict[str, tuple[float, str]]:
    return {name: (each.value, each.found_in) for name, each in quality.metrics.items()}


def test_the_best_child_comes_before_its_parent() -> None:
    source = Runs({"automl": {"auc": 0.5, "rows": 9}, "automl_7": {"auc": 0.9}})
    quality = measured(source, Run(id="automl", tags={BEST: "automl_7"}))
    assert values(quality) == {"auc": (0.9, "run automl_7"), "rows": (9.0, "run automl")}
    assert quality.trained_at == NOON - timedelta(days=2)


def test_the_run_comes_before_those_above_it() -> None:
    source = Runs({"root": {"auc": 0.1, "cost": 3}, "step": {"auc": 0.8}})
    assert values(measured(source, Run(id="step"), Run(id="root"))) == {
        "auc": (0.8, "run step"),
        "cost": (3.0, "run root"),
    }
    assert source.asked == ["step", "root"]


def test_the_score_of_automated_ml_is_the_metric_that_it_is_of() -> None:
    run = Run(id="automl_7", properties={"score": "0.93", "primary_metric": "AUC_weighted"})
    assert values(measured(Runs({}), run)) == {
        "score": (0.93, "run automl_7"),
        "AUC_weighted": (0.93, "run automl_7"),
    }
    assert values(measured(Runs({}), Run(id="r", properties={"score": "n/a"}))) == {}


def test_without_a_run_there_are_tags_and_properties() -> None:
    quality = measured(Runs({}), tags={"auc": "0.7", "owner": "ann"}, properties={"mae": "3"})
    assert values(quality) == {"auc": (0.7, "tag auc"), "mae": (3.0, "property mae")}
    assert (quality.registered_at, quality.trained_at, quality.pending) == (NOON, None, False)


def test_a_name_that_is_none_is_never_asked_for() -> None:
    source = Runs({})
    measured(source, Run(id="r", tags={BEST: "../../elsewhere"}))
    assert source.asked == ["r"]


def test_a_run_that_is_under_way_is_noted() -> None:
    assert measured(Runs({"r": {}}, running=True), Run(id="r")).pending


def test_what_cannot_be_read_stops_only_what_needs_it() -> None:
    source = Runs({}, problem=CLOSED)
    assert measured(source, Run(id="r"), needed=False).unread == "ml-dev says 403"
    with pytest.raises(Blocked):
        measured(source, Run(id="r"), needed=True)


@pytest.mark.parametrize(
    ("rule", "stage", "needed"),
    [
        (None, None, False),
        ({"origins": ["automl"], "required_tags": {"a": "b"}}, None, False),
        ({"maximum_age": "3d"}, None, True),
        (None, {"metrics": [{"name": "auc", "minimum": 1}]}, True),
    ],
)
def test_a_run_is_needed_for_metrics_and_age(rule: Any, stage: Any, needed: bool) -> None:
    given = Rule.model_validate({"name": "r", "gates": rule, "stages": [a_stage(gates=stage)]})
    assert is_needed(given) is needed
