"""SIGKILL of the function host before and after every effect call: the promotion still finishes, and nothing is done twice."""

from itertools import count
from pathlib import Path

import pytest

from tests import models
from tests.faults.killing import Subject, each_kind_once, twice
from tests.local import LocalAzure


@pytest.mark.timeout(900)
def test_a_kill_at_any_effect_loses_nothing_and_repeats_nothing(
    local_azure: LocalAzure, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    subject = Subject(local_azure, "killed", models.regression_with_example(tmp_path))
    numbers = count(1)
    subject.first_promotion(numbers)
    points, expected = subject.kill_points(numbers)
    assert len(points) >= 20, points
    assert any("onlineEndpoints" in point.call.path for point in points), points

    if not request.config.getoption("--exhaustive"):
        points = each_kind_once(points)
    problems = [problem for point in points for problem in subject.problems_of(twice(point), next(numbers), expected)]

    assert problems == []
    assert local_azure.control.get("/service-bus/queues")["queues"]["promotions"]["dead_letter"] == 0
