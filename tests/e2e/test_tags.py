"""Asking by a tag: no event tells of one, so a hint or the timer finds it; the answer stands on the model version."""

from pathlib import Path
from typing import Any

from tests import models
from tests.e2e.test_realtime import ask, register
from tests.local import LocalAzure


def tag(azure: LocalAzure, name: str, version: str, **tags: str) -> None:
    """As the SDK changes tags: the whole version is written again."""
    client = azure.ml_client(azure.endpoints["source"]).models
    model = client.get(name, version)
    model.tags = {**model.tags, **{key.replace("_", "-"): value for key, value in tags.items()}}
    client.create_or_update(model)


def tags_of(azure: LocalAzure, name: str, version: str) -> dict[str, str]:
    return dict(azure.ml_client(azure.endpoints["source"]).models.get(name, version).tags)


def asked_by_tag(azure: LocalAzure, name: str, version: str) -> list[dict[str, Any]]:
    """What came of the asks of a model version, the newest first."""
    events = azure.api(f"events?model={name}&version={version}")["events"]
    return [event for event in events if event["event_type"] == "promotion.tag"]


def heard(azure: LocalAzure, name: str, version: str, times: int) -> dict[str, Any]:
    """The record of the ask that came last, once there are so many."""

    def found() -> dict[str, Any] | None:
        records = asked_by_tag(azure, name, version)
        return records[0] if len(records) >= times else None

    return azure.wait_for(found, what=f"ask {times} of {name}:{version}")


def test_a_tag_that_comes_later_asks_and_is_answered(local_azure: LocalAzure, tmp_path: Path) -> None:
    first, second = (models.regression_with_example(tmp_path, slope=slope) for slope in (3.0, 5.0))
    one = register(local_azure, "tagged", first)
    two = register(local_azure, "tagged", second)
    assert local_azure.promotions_of("tagged") == []

    tag(local_azure, "tagged", one, promote_to="prod")
    row = local_azure.wait_for_end("tagged", one)
    assert (row["state"], row["trigger"], row["order"]["by"]) == ("succeeded", "tagged", "data-scientist")
    assert ask(local_azure, row, first.request) == first.expected

    def told(version: str, text: str) -> None:
        def there() -> bool | None:
            return tags_of(local_azure, "tagged", version).get("promotion.prod") == text or None

        local_azure.wait_for(there, what=f"status tag {text!r} of version {version}")

    told(one, "live at 100 %")
    assert tags_of(local_azure, "tagged", one)["promote-to"] == "prod"

    tag(local_azure, "tagged", two, promote_to="prod")
    row = local_azure.wait_for_end("tagged", two)
    assert ask(local_azure, row, second.request) == second.expected

    tag(local_azure, "tagged", two, promote_to="none")
    assert heard(local_azure, "tagged", two, 2)["outcome"] == "accepted"
    local_azure.wait_for_state(row["id"], "rolled_back")
    back = local_azure.wait_for_end("tagged", one)
    assert ask(local_azure, back, first.request) == first.expected
    told(two, "rolled back")

    tag(local_azure, "tagged", two, promote_to="prod")
    again = local_azure.wait_for_state(row["id"], "parked", attempt=2)
    assert again["reason"] == "on_hold", "a roll-back holds until somebody releases it"
    told(two, "waiting: the endpoint is on hold")
    assert len(asked_by_tag(local_azure, "tagged", two)) == 3
    assert len(local_azure.promotions_of("tagged")) == 2, "the same promotions, with more attempts"


def test_what_the_policy_does_not_allow_is_refused_where_the_author_looks(
    local_azure: LocalAzure, tmp_path: Path
) -> None:
    version = register(local_azure, "asks-too-much", models.regression_with_example(tmp_path))
    tag(local_azure, "asks-too-much", version, promote_to="moon")
    record = heard(local_azure, "asks-too-much", version, 1)
    assert (record["outcome"], record["reason"]) == ("refused", "tag_not_understood")

    tag(local_azure, "asks-too-much", version, promote_to="prod", promote_as="batch")
    record = heard(local_azure, "asks-too-much", version, 2)
    assert (record["outcome"], record["reason"]) == ("refused", "not_allowed")

    def told() -> str | None:
        return tags_of(local_azure, "asks-too-much", version).get("promotion.prod")

    assert local_azure.wait_for(told, what="the refusal as a tag").startswith("refused: ")


def test_the_timer_looks_and_tells_what_it_cost(local_azure: LocalAzure) -> None:
    before = local_azure.api("reconcile")["ticks"]

    def ticked() -> dict[str, Any] | None:
        ticks = local_azure.api("reconcile")["ticks"]
        return ticks[0] if ticks and ticks[:1] != before[:1] else None

    local_azure.tick()
    tick = local_azure.wait_for(ticked, what="a pass of the timer")
    assert tick["problems"] == []
    assert tick["requests"] <= tick["names"] + 2
