"""The Service Bus listener: receives, keeps locks, runs the function, settles.

Shaped like the processors of the .NET SDK that Azure's host uses. A few receivers at a time wait for the next session (or
message); what one finds is served on its own until it runs dry, and only then counts against the concurrency of
host.json. So an idle listener is cheap, and a busy one has no connection that is not at work.

Every receiver is used by one task only, as the SDK demands; the renewal of its lock is the one exception, which the SDK's
own lock renewer makes too.
"""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from azure.identity.aio import DefaultAzureCredential, ManagedIdentityCredential
from azure.servicebus import NEXT_AVAILABLE_SESSION, ServiceBusReceivedMessage
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver
from azure.servicebus.exceptions import (
    MessageAlreadySettled,
    MessageLockLostError,
    OperationTimeoutError,
    SessionLockLostError,
)

from emulator.functions_host.configuration import ConfigurationError, ServiceBusOptions
from emulator.functions_host.host import Host
from emulator.functions_host.service_bus_messages import many_messages, one_message, trace_of
from emulator.functions_host.worker import Function

log = logging.getLogger("Host.Triggers.ServiceBus")

LOCK_LOST = (SessionLockLostError, MessageLockLostError, MessageAlreadySettled)
# A lock is renewed at least this often, however far away its end seems: the namespace's clock may be ahead of ours.
LONGEST_RENEWAL_PAUSE = timedelta(seconds=15)
# How many receivers wait for a session at once. The .NET SDK has two for each core; the Python SDK takes half a second to
# open a receiver, so more of them are needed to accept as fast.
MOST_ACCEPTORS = 16
# How long a receiver of a queue without sessions stays when there is nothing more to receive.
QUEUE_IDLE_TIMEOUT = 1.0
T = TypeVar("T")


def create_client(connection: str, of_function: str) -> ServiceBusClient:
    """A client for the connection of a trigger: a connection string, or a namespace and an identity.

    The SDK's own retries are off: they would back off after an accept that merely found no session. `settle` retries.
    """
    connection = connection or "AzureWebJobsServiceBus"
    if connection_string := os.environ.get(connection):
        return ServiceBusClient.from_connection_string(connection_string, retry_total=0)
    if not (namespace := os.environ.get(f"{connection}__fullyQualifiedNamespace")):
        raise ConfigurationError(
            f"The '{of_function}' function is in error: Microsoft.Azure.WebJobs.ServiceBus: Microsoft Azure WebJobs SDK "
            f"ServiceBus connection string '{connection}' is missing or empty. Set {connection}, or "
            f"{connection}__fullyQualifiedNamespace to use an identity."
        )
    client_id = os.environ.get(f"{connection}__clientId")
    credential = ManagedIdentityCredential(client_id=client_id) if client_id else DefaultAzureCredential()
    return ServiceBusClient(namespace, credential, retry_total=0)


class ServiceBusListener:
    """Runs one function for the messages of its queue or subscription, from `start` until `stop`."""

    def __init__(self, host: Host, function: Function, options: ServiceBusOptions) -> None:
        self._host = host
        self._function = function
        self._options = options
        self._sessions = bool(function.trigger.get("isSessionsEnabled"))
        self._auto_complete = bool(function.trigger.get("autoCompleteMessages", options.auto_complete_messages))
        self._batch_size = options.max_message_batch_size if function.is_batch else 1
        self._client = create_client(str(function.trigger.get("connection", "")), function.name)
        concurrency = options.max_concurrent_sessions if self._sessions else options.max_concurrent_calls
        # Batches of a queue without sessions are run one after the other, as by Microsoft's listener.
        self._concurrency = 1 if function.is_batch and not self._sessions else concurrency
        self._slots = asyncio.Semaphore(self._concurrency)
        self._acceptors: list[asyncio.Task[None]] = []
        self._served: set[asyncio.Task[None]] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._trouble: type[Exception] | None = None

    @property
    def entity(self) -> str:
        trigger = self._function.trigger
        return str(trigger.get("queueName") or f"{trigger['topicName']}/Subscriptions/{trigger['subscriptionName']}")

    async def start(self) -> None:
        waiting = min(self._concurrency, MOST_ACCEPTORS) if self._sessions else 1
        self._acceptors = [asyncio.create_task(self._accept_forever()) for _ in range(waiting)]

    async def stop(self) -> None:
        """Receive no more, and return when what was received has been run and settled."""
        for acceptor in self._acceptors:
            acceptor.cancel()
        await asyncio.gather(*self._acceptors, *self._served, return_exceptions=True)
        await asyncio.gather(*self._closing, return_exceptions=True)
        await self._client.close()

    async def _accept_forever(self) -> None:
        failures = 0
        while True:
            await self._slots.acquire()
            try:
                found = await self._accept()
            except Exception as error:  # whatever it is, a listener goes on trying
                self._slots.release()
                self._report_unreachable(error)
                await asyncio.sleep(min(self._options.delay * 2**failures, self._options.max_delay))
                failures = min(failures + 1, 16)
                continue
            except BaseException:
                self._slots.release()
                raise
            failures = 0
            self._report_reachable()
            if found is None:
                self._slots.release()
                continue
            served = asyncio.create_task(self._serve(*found))
            self._served.add(served)
            served.add_done_callback(self._served.discard)

    def _report_unreachable(self, error: Exception) -> None:
        """Say it once, not at each attempt of each acceptor."""
        if self._trouble is not type(error):
            log.warning("Cannot receive from '%s', will try again: %s: %s", self.entity, type(error).__name__, error)
        self._trouble = type(error)

    def _report_reachable(self) -> None:
        if self._trouble:
            log.info("Receiving from '%s' again.", self.entity)
        self._trouble = None

    async def _accept(self) -> tuple[ServiceBusReceiver, list[ServiceBusReceivedMessage]] | None:
        """Wait for a session, or for first messages; None if there were none for as long as an operation may take."""
        receiver = self._receiver()
        try:
            try:
                await receiver.__aenter__()
            except OperationTimeoutError:
                if self._sessions:
                    self._close(receiver)
                    return None
                raise
            if self._sessions:
                return receiver, []
            while not (messages := await receiver.receive_messages(self._batch_size, self._options.try_timeout)):
                self._report_reachable()
        except BaseException:
            self._close(receiver)
            raise
        return receiver, messages

    def _receiver(self) -> ServiceBusReceiver:
        options: dict[str, Any] = {"prefetch_count": self._options.prefetch_count}
        if self._sessions:
            options |= {"session_id": NEXT_AVAILABLE_SESSION, "max_wait_time": self._options.try_timeout}
        trigger = self._function.trigger
        if queue := trigger.get("queueName"):
            return self._client.get_queue_receiver(queue, **options)
        return self._client.get_subscription_receiver(trigger["topicName"], trigger["subscriptionName"], **options)

    def _close(self, receiver: ServiceBusReceiver) -> None:
        """Close in the background: the link is detached at once, but then the SDK waits up to a second for itself."""

        async def close() -> None:
            with contextlib.suppress(Exception):  # the connection may be gone already
                await receiver.close()

        closing = asyncio.create_task(close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def _serve(self, receiver: ServiceBusReceiver, messages: list[ServiceBusReceivedMessage]) -> None:
        """Run the function for these messages and those that follow on this receiver, until there are none for a while."""
        idle = self._options.session_idle_timeout if self._sessions else QUEUE_IDLE_TIMEOUT
        try:
            with Lock(receiver, self._options.max_auto_lock_renewal_duration) as lock:
                while True:
                    if messages:
                        await self._process(receiver, messages, lock)
                    # Not even asking is what counts here: a message that comes after we have left was delivered once more.
                    if lock.lost or self._host.stopping.is_set():
                        return
                    receiving = receiver.receive_messages(self._batch_size, idle)
                    messages = await _unless(self._host.stopping, receiving) or []
                    if not messages:
                        return
        except Exception as error:
            log.warning("Lost a receiver of '%s': %s: %s", self.entity, type(error).__name__, error)
        finally:
            self._close(receiver)
            self._slots.release()

    async def _process(
        self, receiver: ServiceBusReceiver, messages: list[ServiceBusReceivedMessage], lock: "Lock"
    ) -> None:
        if self._function.is_batch:
            data, metadata = many_messages(messages)
        else:
            binary = str(self._function.trigger.get("dataType", "")).lower() == "binary"
            data, metadata = one_message(messages[0], binary=binary)
        # Microsoft's listener does not renew the locks of batches, but does renew a session's.
        with lock.held_for([] if self._function.is_batch else messages):
            reason = f"(null), new message detected on '{self.entity}'."
            trace = None if self._function.is_batch else trace_of(messages[0])
            result = await self._host.invoke(self._function, data, metadata, reason=reason, trace=trace)
        if result.succeeded and not self._auto_complete:
            return
        settle = receiver.complete_message if result.succeeded else receiver.abandon_message
        for message in messages:
            if lock.lost:
                log.warning(
                    "Message '%s' of '%s' is not settled: its lock was lost while the function ran.",
                    message.message_id, self.entity,
                )  # fmt: skip
            elif not await self._settle(settle, message):
                lock.lost = True

    async def _settle(
        self, settle: Callable[[ServiceBusReceivedMessage], Awaitable[None]], message: ServiceBusReceivedMessage
    ) -> bool:
        """Settle, trying again as clientRetryOptions say; False if the message is not ours any more."""
        for attempt in range(self._options.max_retries + 1):
            try:
                await settle(message)
            except LOCK_LOST as error:
                log.warning("Message '%s' of '%s' was not settled: %s", message.message_id, self.entity, error)
                return False
            except Exception as error:
                log.warning("Message '%s' of '%s' is not settled yet: %s", message.message_id, self.entity, error)
                await asyncio.sleep(min(self._options.delay * 2**attempt, self._options.max_delay))
            else:
                return True
        return False


class Lock:
    """Renews the lock of a session while it is held, or that of a message while the function runs.

    A function that runs longer than `longest` seconds loses its lock. `lost` says whether the lock is known to be gone.
    """

    def __init__(self, receiver: ServiceBusReceiver, longest: float) -> None:
        self._receiver = receiver
        self._longest = longest
        self._until = time.monotonic() + longest
        self._session_task: asyncio.Task[None] | None = None
        self.lost = False

    def __enter__(self) -> "Lock":
        if self._receiver.session and self._longest:
            session = self._receiver.session
            self._session_task = asyncio.create_task(self._keep(session.renew_lock, lambda: session.locked_until_utc))
        return self

    def __exit__(self, *_: object) -> None:
        if self._session_task:
            self._session_task.cancel()

    @contextlib.contextmanager
    def held_for(self, messages: Sequence[ServiceBusReceivedMessage]) -> Any:
        """While the function runs with these messages: their renewal starts to count, and ends with it."""
        self._until = time.monotonic() + self._longest
        tasks = []
        if not self._receiver.session and self._longest:
            tasks = [asyncio.create_task(self._keep_message(message)) for message in messages]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()

    async def _keep_message(self, message: ServiceBusReceivedMessage) -> None:
        await self._keep(lambda: self._receiver.renew_message_lock(message), lambda: message.locked_until_utc)

    async def _keep(self, renew: Callable[[], Awaitable[Any]], locked_until: Callable[[], datetime | None]) -> None:
        while True:
            await asyncio.sleep(_pause(locked_until()).total_seconds())
            if time.monotonic() > self._until:
                return
            try:
                await renew()
            except LOCK_LOST as error:
                self.lost = True
                log.warning("A lock was lost: %s", error)
                return
            except Exception as error:
                log.warning("A lock could not be renewed, will try again: %s: %s", type(error).__name__, error)


def _pause(locked_until: datetime | None) -> timedelta:
    """Until when to wait with a renewal: 10 s before the lock's end, or half of what is left of a shorter one."""
    if locked_until is None:
        return LONGEST_RENEWAL_PAUSE
    left = max(locked_until - datetime.now(UTC), timedelta(seconds=1))
    return min(left - min(left / 2, timedelta(seconds=10)), LONGEST_RENEWAL_PAUSE)


async def _unless(stopping: asyncio.Event, work: Awaitable[T]) -> T | None:
    """The result of `work`, or None if `stopping` came first and the work was cancelled."""
    task = asyncio.ensure_future(work)
    stop = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        stop.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
