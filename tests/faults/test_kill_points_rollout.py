"""The same for a canary, at what only a rollout does: claim and shares in the endpoint's tags and traffic, and the end of the old."""

from itertools import count
from pathlib import Path

import pytest

from tests import models
from tests.e2e.test_realtime import Traffic
from tests.faults.killing import Kill, KillPoint, Subject, twice
from tests.local import LocalAzure

ENDPOINT, DEPLOYMENT = r"onlineEndpoints/canary\-killed$", r"onlineEndpoints/canary\-killed/deployments/.+$"


def of_the_rollout(points: list[KillPoint]) -> list[KillPoint]:
    """The writes of the endpoint (the claim, the canary's share, all of the traffic) and the end of the deployment before."""
    wanted = (("PUT", ENDPOINT), ("DELETE", DEPLOYMENT))
    return [
        point
        for point in points
        if any(point.call.method == method and point.call.path.endswith(path) for method, path in wanted)
    ]


@pytest.mark.timeout(900)
def test_a_kill_at_any_effect_of_a_rollout_keeps_the_traffic_and_repeats_nothing(
    local_azure: LocalAzure, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    subject = Subject(local_azure, "canary-killed", models.regression_with_example(tmp_path))
    numbers = count(1)
    first = subject.first_promotion(numbers)
    with Traffic(local_azure, first, subject.saved.request) as traffic:
        found, expected = subject.kill_points(numbers)
        points = of_the_rollout(found)
        assert [point.call.method for point in points] == ["PUT", "PUT", "PUT", "DELETE"], found
        _, canary, all_of_it, end_of_the_old = points
        # A message that is killed three times is a dead letter, and who starts late goes on at once after bake and soak: so
        # at most two kills follow each other without a wait that begins between them.
        kills = [Kill(canary, "after"), Kill(all_of_it, "before"), *twice(end_of_the_old)]
        problems = subject.problems_of(kills, next(numbers), expected)
        if request.config.getoption("--exhaustive"):
            problems += [
                each for point in points for each in subject.problems_of(twice(point), next(numbers), expected)
            ]

    assert problems == []
    assert traffic.failures == []
    assert len(traffic.answers) > 100
    assert local_azure.control.get("/service-bus/queues")["queues"]["promotions"]["dead_letter"] == 0
