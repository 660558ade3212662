"""The same for batch, at the calls that only batch makes: components, the test job, the default deployment, the schedule."""

from itertools import count
from pathlib import Path

import pytest

from tests import models
from tests.faults.killing import Subject
from tests.local import LocalAzure

BATCH_ONLY = ("components", "batchEndpoints", "jobs", "schedules")


@pytest.mark.timeout(900)
def test_a_kill_at_any_effect_of_batch_loses_nothing_and_repeats_nothing(
    local_azure: LocalAzure, tmp_path: Path
) -> None:
    subject = Subject(local_azure, "hourly-killed", models.regression_with_example(tmp_path))
    numbers = count(1)
    points, expected = subject.kill_points(numbers)
    points = [point for point in points if any(f"/{part}/" in point.call.path for part in BATCH_ONLY)]
    for part in BATCH_ONLY:
        assert any(f"/{part}/" in point.call.path for point in points), (part, points)

    problems = [problem for point in points for problem in subject.problems_of(point, next(numbers), expected)]

    assert problems == []
    assert local_azure.control.get("/service-bus/queues")["queues"]["promotions"]["dead_letter"] == 0
