"""Failed work goes again: a fault that nobody foresaw, messages that are none, and refused promotions."""

from pathlib import Path
from typing import Any

from tests import models
from tests.e2e.test_realtime import ask, register
from tests.local import LocalAzure


def dead_letters(azure: LocalAzure) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = azure.api("dead-letters")["dead_letters"]
    return found


def send(azure: LocalAzure, body: bytes, message_id: str) -> None:
    """Put something on the queue that no part of the service would."""
    from azure.servicebus import ServiceBusClient, ServiceBusMessage

    with (
        ServiceBusClient.from_connection_string(azure.endpoints["service_bus_connection_string"]) as client,
        client.get_queue_sender(azure.endpoints["queue"]) as sender,
    ):
        sender.send_messages(ServiceBusMessage(body, session_id="strange", message_id=message_id))


def test_a_fault_nobody_foresaw_ends_as_a_dead_letter_and_goes_again(local_azure: LocalAzure, tmp_path: Path) -> None:
    saved = models.regression_with_example(tmp_path)
    path = "workspaces/ml-prod/models/unlucky/versions/"
    number = local_azure.control.plant(service="arm", method="GET", path=path, status=200, body={"a": "b"}, times=1000)
    version = register(local_azure, "unlucky", saved, **{"promote-to": "prod"})
    faults: set[str] = set()

    def given_up() -> dict[str, Any] | None:
        for row in local_azure.promotions_of("unlucky", version):
            if "fault" in row["why"] and row["why"] not in faults:
                faults.add(row["why"])
                local_azure.control.advance(60)
        return next((each for each in dead_letters(local_azure) if each["endpoint"] == "unlucky"), None)

    letter = local_azure.wait_for(given_up, what="a dead letter")
    (row,) = local_azure.promotions_of("unlucky", version)
    assert row["reason"] == "dead_lettered"
    assert (letter["promotion_id"], letter["why"]) == (row["id"], row["why"])
    view = local_azure.api("failed?group=reason")
    assert letter["sequence_number"] in [each["sequence_number"] for each in view["failed"]]
    assert sum(group["count"] for group in view["groups"]) >= 1

    local_azure.control.remove(number)
    asked = local_azure.order(f"dead-letters/{letter['sequence_number']}/resubmit", {"reason": "it is gone"})
    assert asked["status_code"] == 202, asked

    row = local_azure.wait_for_end("unlucky", version)
    assert row["state"] == "succeeded"
    assert ask(local_azure, row, saved.request) == saved.expected
    assert [each for each in dead_letters(local_azure) if each["endpoint"] == "unlucky"] == []
    trail = local_azure.api("endpoints/prod/realtime/unlucky/history")["history"]
    assert "resubmit" in [entry["action"] for entry in trail]
    again = local_azure.order(f"dead-letters/{letter['sequence_number']}/resubmit")
    assert again["status_code"] == 404


def test_what_is_no_command_can_only_be_dropped(local_azure: LocalAzure) -> None:
    send(local_azure, b"\xff\xfe no command", "strange-1")

    def there() -> dict[str, Any] | None:
        return next((each for each in dead_letters(local_azure) if each["message_id"] == "strange-1"), None)

    letter = local_azure.wait_for(there, what="the strange message among the dead letters")
    assert (letter["reason"], letter["promotion_id"]) == ("undecodable", None)
    assert "no promotion command" in letter["why"]
    place = f"dead-letters/{letter['sequence_number']}"
    assert local_azure.api(place) == letter
    assert local_azure.order(f"{place}/resubmit")["status_code"] == 409
    assert there() is not None, "refused, and still there"
    assert local_azure.order(f"{place}/drop")["status_code"] == 400, "without a reason"
    assert local_azure.order(f"{place}/drop", {"reason": "sent by a test"})["status_code"] == 200
    assert there() is None
    kept = [entry for entry in local_azure.api("audit?limit=1000")["audit"] if entry["action"] == "drop"]
    assert kept[0]["reason"] == "sent by a test"
    assert kept[0]["before"]["body"]


def test_refused_promotions_go_again_in_a_group(local_azure: LocalAzure, tmp_path: Path) -> None:
    outcome = {"kind": "deployment", "endpoint": "twice-tried", "outcome": "fail", "times": 1}
    local_azure.control.post("/azure-ml/outcomes", outcome)
    saved = models.regression_with_example(tmp_path)
    version = register(local_azure, "twice-tried", saved, **{"promote-to": "prod"})
    row = local_azure.wait_for_end("twice-tried", version)
    assert (row["state"], row["reason"]) == ("refused", "deployment_failed")
    failed = local_azure.api("failed")["failed"]
    assert (row["id"], "refused") in [(each["id"], each["kind"]) for each in failed]

    asked = local_azure.order("failed/retry", {"ids": [row["id"], "dead-letter-999999"], "note": "quota was raised"})

    assert (asked["retried"], [each["id"] for each in asked["failed"]]) == ([row["id"]], ["dead-letter-999999"])
    row = local_azure.wait_for_state(row["id"], "succeeded", attempt=2)
    assert row["order"]["reason"] == "quota was raised"
    assert ask(local_azure, row, saved.request) == saved.expected
    nothing = local_azure.order("failed/retry", {"all": True, "reason": "x"})
    assert nothing["status_code"] == 400
