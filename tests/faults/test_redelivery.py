"""Every message of a promotion delivered again: at once, late, and after its lock was lost."""

import json
from pathlib import Path
from typing import Any

from azure.servicebus import ServiceBusClient, ServiceBusMessage

from tests import models
from tests.e2e.test_realtime import ask, register
from tests.faults.killing import SERVICE, effective_writes, last_number
from tests.local import LOCK_SECONDS, LocalAzure


def command_of(azure: LocalAzure, promotion_id: str) -> dict[str, Any]:
    """The message that is due, as the ledger has it."""
    from azure.data.tables import TableClient
    from azure.identity import ManagedIdentityCredential

    ledger = azure.endpoints["ledger"]
    with TableClient(ledger["table_url"], ledger["promotions_table"], credential=ManagedIdentityCredential()) as table:
        found: dict[str, Any] = json.loads(table.get_entity(promotion_id, "promotion")["command"])
        return found


def send(azure: LocalAzure, session_id: str, *bodies: dict[str, Any] | bytes) -> None:
    """Put messages on the queue by hand, under fresh ids, as a redelivery or an operator would."""
    messages = [
        ServiceBusMessage(body if isinstance(body, bytes) else json.dumps(body), session_id=session_id)
        for body in bodies
    ]
    client = ServiceBusClient.from_connection_string(azure.endpoints["service_bus_connection_string"])
    with client, client.get_queue_sender(azure.endpoints["queue"]) as sender:
        sender.send_messages(messages)


def wait_until_drained(azure: LocalAzure) -> None:
    def is_drained() -> bool | None:
        queue = azure.control.get("/service-bus/queues")["queues"]["promotions"]
        return True if queue["active"] + queue["scheduled"] == 0 else None

    azure.wait_for(is_drained, what="an empty queue")


def session_of(azure: LocalAzure, model: str) -> str:
    return str(azure.promotions_of(model)[0]["session_id"])


def test_messages_of_a_finished_promotion_change_nothing(local_azure: LocalAzure, tmp_path: Path) -> None:
    """Late deliveries of every hop, in any order."""
    register(local_azure, "late-delivery", models.regression_with_example(tmp_path), **{"promote-to": "prod"})
    row = local_azure.wait_for_end("late-delivery")
    command = command_of(local_azure, row["id"])
    before = last_number(local_azure)

    hops = [{**command, "hop": hop} for hop in (0, row["hop"], 1, row["hop"] + 5, 2)]
    send(local_azure, row["session_id"], *hops)
    wait_until_drained(local_azure)

    assert effective_writes(local_azure, before) == {}
    after = local_azure.promotion(row["id"]) or {}
    assert (after["state"], after["hop"], after["steps"]) == ("succeeded", row["hop"], row["steps"])


def test_each_hop_delivered_twice_has_one_effect(local_azure: LocalAzure, tmp_path: Path) -> None:
    """While the deployment is being created, the message that is due arrives several times over."""
    before = last_number(local_azure)
    local_azure.control.put("/azure-ml/durations", {"deployment": 20})
    try:
        register(local_azure, "twice", models.regression_with_example(tmp_path), **{"promote-to": "prod"})

        def is_deploying() -> bool | None:
            rows = local_azure.promotions_of("twice")
            return True if rows and "is being created" in rows[0]["why"] else None

        local_azure.wait_for(is_deploying, what="the deployment")
        command = command_of(local_azure, local_azure.promotions_of("twice")[0]["id"])
        send(local_azure, session_of(local_azure, "twice"), *[{**command, "hop": hop} for hop in range(8)])
    finally:
        local_azure.control.put("/azure-ml/durations", {"deployment": 0})
        local_azure.control.advance(21)

    row = local_azure.wait_for_end("twice")
    wait_until_drained(local_azure)
    assert row["state"] == "succeeded"
    writes = effective_writes(local_azure, before)
    assert sorted(writes.values()) == [1, 1, 2], writes  # model, deployment; endpoint created and its traffic moved


def test_a_delivery_that_outlives_its_lock_does_no_harm(local_azure: LocalAzure, tmp_path: Path) -> None:
    """A call hangs until the lock is lost and the message is being worked on again; then the old delivery goes on."""
    saved = models.regression_with_example(tmp_path)
    fault = local_azure.control.plant(
        service="arm", method="PUT", path="/deployments/", principal=SERVICE, phase="before", hold=True
    )
    register(local_azure, "outlived", saved, **{"promote-to": "prod"})
    local_azure.wait_for(lambda: local_azure.control.fault(fault)["held"] or None, what="the held call")

    # Renewals of the lock fail from here on, as when the network to the namespace is gone.
    local_azure.control.plant(service="service_bus", method="RENEW", status=500, times=100)
    local_azure.control.advance(LOCK_SECONDS + 1)
    row = local_azure.wait_for_end("outlived")
    local_azure.control.release(fault)
    wait_until_drained(local_azure)

    assert row["state"] == "succeeded"
    assert ask(local_azure, row, saved.request) == saved.expected
    client = local_azure.ml_client(local_azure.endpoints["targets"]["prod"])
    assert client.online_endpoints.get("outlived").traffic == {row["result"]["deployment"]: 100}
