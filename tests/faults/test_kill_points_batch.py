"""The same for batch, at the calls that only batch makes: components, the test job, the default deployment, the schedule."""

import re
from itertools import count
from pathlib import Path

import pytest

from tests import models
from tests.faults.killing import Subject, twice
from tests.local import LocalAzure

# Of calls alike the last: the pipeline component, the switch of the default deployment.
BATCH_ONLY = ("components/.+", "batchEndpoints/[^/]+/deployments/.+", "jobs/.+", "batchEndpoints/[^/]+", "schedules/.+")


def asks_for(path: str, part: str) -> bool:
    """Whether a call's path, which is a regular expression, is that of this kind of resource."""
    plain = path.replace("\\", "").removesuffix("$")
    return re.search(f"/workspaces/[^/]+/{part}$", plain) is not None


@pytest.mark.timeout(900)
def test_a_kill_at_any_effect_of_batch_loses_nothing_and_repeats_nothing(
    local_azure: LocalAzure, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    subject = Subject(local_azure, "hourly-killed", models.regression_with_example(tmp_path))
    numbers = count(1)
    subject.first_promotion(numbers)
    points, expected = subject.kill_points(numbers)
    writes = [point for point in points if (point.call.service, point.call.method) == ("arm", "PUT")]
    points = [[point for point in writes if asks_for(point.call.path, part)][-1] for part in BATCH_ONLY]
    if not request.config.getoption("--exhaustive"):
        points = points[-3:]  # the test job, the switch and the schedule; the others are as for online endpoints

    problems = [problem for point in points for problem in subject.problems_of(twice(point), next(numbers), expected)]

    assert problems == []
    assert local_azure.control.get("/service-bus/queues")["queues"]["promotions"]["dead_letter"] == 0
