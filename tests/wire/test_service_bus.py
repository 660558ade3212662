"""The local Service Bus as the unmodified SDK sees it: each feature and each refusal, synchronous and asynchronous."""

import asyncio
from collections.abc import Iterator

import pytest
from azure.servicebus import (
    ServiceBusMessage,
    ServiceBusMessageState,
    ServiceBusReceiveMode,
    ServiceBusSubQueue,
)

from tests.wire.service_bus_clients import Namespace, Sdk, bodies, over_the_wire

DEAD = ServiceBusSubQueue.DEAD_LETTER
DELETE = ServiceBusReceiveMode.RECEIVE_AND_DELETE


@pytest.fixture(scope="module")
def namespace() -> Iterator[Namespace]:
    with asyncio.Runner() as runner:
        started = Namespace(runner)
        started.run(started.start())
        yield started
        started.run(started.stop())


@pytest.fixture(params=["sync", "async"])
def sdk(request: pytest.FixtureRequest, namespace: Namespace) -> Iterator[Sdk]:
    yield Sdk(namespace, request.param)
    namespace.faults.clear()


# --------------------------------------------------------------------------------------------------- send and receive


@over_the_wire
async def test_messages_arrive_as_they_were_sent(sdk: Sdk) -> None:
    queue = sdk.namespace.create_queue()
    sender = await sdk.sender(queue)
    single = ServiceBusMessage(
        b"\x00binary",
        message_id="m-1",
        subject="order",
        content_type="application/octet-stream",
        correlation_id="c",
        reply_to="r",
        to="t",
        application_properties={"text": "ä", "number": -3, "float": 0.5, "flag": True, "nothing": None},
    )
    await sdk.do(sender.send_messages, single)
    await sdk.do(sender.send_messages, [ServiceBusMessage("list 1"), ServiceBusMessage("list 2")])
    batch = await sdk.do(sender.create_message_batch)
    for number in range(3):
        batch.add_message(ServiceBusMessage(f"batch {number}"))
    await sdk.do(sender.send_messages, batch)

    receiver = await sdk.receiver(queue)
    first, *others = await sdk.receive(receiver, 6)
    assert b"".join(first.body) == b"\x00binary"
    assert (first.message_id, first.subject, first.content_type) == ("m-1", "order", "application/octet-stream")
    assert (first.correlation_id, first.reply_to, first.to) == ("c", "r", "t")
    properties = {name.decode(): value for name, value in first.application_properties.items()}
    assert properties == {"text": "ä".encode(), "number": -3, "float": 0.5, "flag": True, "nothing": None}
    assert bodies(others) == ["list 1", "list 2", "batch 0", "batch 1", "batch 2"]
    assert [message.sequence_number for message in (first, *others)] == [1, 2, 3, 4, 5, 6]
    assert first.delivery_count == 0
    assert first.state == ServiceBusMessageState.ACTIVE
    for message in (first, *others):
        await sdk.do(receiver.complete_message, message)
    assert await sdk.peek(queue) == []
