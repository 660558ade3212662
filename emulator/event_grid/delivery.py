"""The deliveries of one subscription: at least once, in no order, and at last to the dead letters.

Retry schedule and policy as documented for Azure Event Grid ("Message delivery and retry"), without the random part of the
waits, so that two runs can be compared.
"""

import asyncio
import heapq
import itertools
import json
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from emulator.clock import Clock
from emulator.event_grid.events import Event
from emulator.event_grid.subscriptions import Subscription
from emulator.event_grid.webhook import Answer, Webhooks

State = Literal["Creating", "Succeeded", "Failed"]

RETRY_AFTER = [10.0, 30.0, 60.0, 300.0, 600.0, 1800.0, 3600.0, 3 * 3600.0, 6 * 3600.0]
RETRY_AFTER_AT_LAST = 12 * 3600.0
NOT_RETRIED = {400: "BadRequest", 401: "Unauthorized", 403: "Forbidden", 413: "RequestEntityTooLarge"}
HANDSHAKE_PAUSE = 0.5
KEPT_DELIVERIES = 10_000


@dataclass(order=True)
class Pending:
    """An event that is to be delivered, at `due` or later."""

    due: datetime
    number: int
    event: Event = field(compare=False)
    published_at: datetime = field(compare=False)
    attempts: int = field(default=0, compare=False)
    last_attempt_at: datetime | None = field(default=None, compare=False)
    last_answer: Answer | None = field(default=None, compare=False)

    def as_json(self) -> dict[str, Any]:
        return {
            "event_id": self.event.id,
            "event_type": self.event.type,
            "due": self.due.isoformat(),
            "attempts": self.attempts,
            "last_outcome": self.last_answer.outcome if self.last_answer else None,
        }


class SubscriptionDelivery:
    """Delivers what is offered to one subscription. `state` is that of its creation: events wait until it succeeded."""

    def __init__(self, subscription: Subscription, *, clock: Clock, webhooks: Webhooks, dead_letters: Path) -> None:
        self.subscription = subscription
        self.state: State = "Creating"
        self.reason = ""
        self.paused = False
        self.history: deque[dict[str, Any]] = deque(maxlen=KEPT_DELIVERIES)
        self._clock = clock
        self._webhooks = webhooks
        self._dead_letters = dead_letters
        self._pending: list[Pending] = []
        self._numbers = itertools.count(1)
        self._changed = asyncio.Event()
        self._attempts: set[asyncio.Task[None]] = set()
        self._task = asyncio.create_task(self._run())

    def as_json(self) -> dict[str, Any]:
        return self.subscription.as_json() | {
            "state": self.state,
            "reason": self.reason,
            "paused": self.paused,
            "pending": len(self._pending),
            "under_way": len(self._attempts),
        }

    def pending(self) -> list[Pending]:
        return sorted(self._pending)

    def offer(self, event: Event) -> None:
        now = self._clock.now()
        heapq.heappush(self._pending, Pending(now, next(self._numbers), event, now))
        self._changed.set()

    def take_over(self, former: "SubscriptionDelivery") -> None:
        """Go on with what the former subscription of this name had not delivered, and with its history."""
        self.paused = former.paused
        self.history.extendleft(reversed(former.history))
        for pending in former._pending:
            pending.number = next(self._numbers)
            heapq.heappush(self._pending, pending)
        self._changed.set()

    def pause(self, paused: bool) -> None:
        """While paused, events wait without being attempted; what is under way goes on."""
        self.paused = paused
        self._changed.set()

    async def stop(self) -> None:
        """Stop delivering. What was not delivered is lost with the local Azure."""
        tasks = [self._task, *self._attempts]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self) -> None:
        await self._validate()
        while self.state == "Succeeded":
            self._changed.clear()
            now = self._clock.now()
            while not self.paused and self._pending and self._pending[0].due <= now:
                self._attempt(self._take(now))
            await self._wait()

    async def _validate(self) -> None:
        """The handshake. A webhook that is not up yet is asked again; one that refuses ends the subscription's creation."""
        while True:
            answer = await self._webhooks.validate(self.subscription)
            if answer.outcome == "Delivered":
                self.state, self.reason = "Succeeded", ""
                return
            self.reason = f"Webhook validation handshake failed: {answer.outcome}, status {answer.status or 'none'}."
            if 0 < answer.status < 500:
                self.state = "Failed"
                return
            await self._clock.wait(HANDSHAKE_PAUSE)

    def _take(self, now: datetime) -> list[Pending]:
        batch: list[Pending] = []
        while self._pending and self._pending[0].due <= now and len(batch) < self.subscription.max_events_per_batch:
            batch.append(heapq.heappop(self._pending))
        return batch

    def _attempt(self, batch: Sequence[Pending]) -> None:
        alive = [pending for pending in batch if self._clock.now() < self._expiry(pending)]
        for pending in batch:
            if pending not in alive:
                self._dead_letter(pending, "TimeToLiveExceeded")
        if alive:
            attempt = asyncio.create_task(self._deliver(alive))
            self._attempts.add(attempt)
            attempt.add_done_callback(self._attempts.discard)

    async def _deliver(self, batch: Sequence[Pending]) -> None:
        events = [pending.event for pending in batch]
        at = self._clock.now()
        try:
            answer = await self._webhooks.notify(self.subscription, events, batch[0].attempts)
        except asyncio.CancelledError:
            self._pending.extend(batch)  # for a subscription that replaces this one
            raise
        for pending in batch:
            pending.attempts += 1
            pending.last_attempt_at = at
            pending.last_answer = answer
            self.history.append(
                {
                    "subscription": self.subscription.name,
                    "event_id": pending.event.id,
                    "attempt": pending.attempts,
                    "at": at.isoformat(),
                    "status": answer.status,
                    "outcome": answer.outcome,
                }
            )
            if answer.outcome != "Delivered":
                self._retry_or_give_up(pending, answer)

    def _retry_or_give_up(self, pending: Pending, answer: Answer) -> None:
        if reason := NOT_RETRIED.get(answer.status):
            self._dead_letter(pending, f"UndeliverableDueToHttp{reason}")
        elif pending.attempts >= self.subscription.max_delivery_attempts:
            self._dead_letter(pending, "MaxDeliveryAttemptsExceeded")
        else:
            steps = RETRY_AFTER[pending.attempts - 1 : pending.attempts] or [RETRY_AFTER_AT_LAST]
            pending.due = min(self._clock.now() + timedelta(seconds=steps[0]), self._expiry(pending))
            heapq.heappush(self._pending, pending)
            self._changed.set()

    def _expiry(self, pending: Pending) -> datetime:
        return pending.published_at + timedelta(minutes=self.subscription.event_time_to_live_minutes)

    async def _wait(self) -> None:
        """Until something changed, or the next retry is due."""
        waits: list[asyncio.Task[Any]] = [asyncio.create_task(self._changed.wait())]
        if self._pending and not self.paused:
            waits.append(asyncio.create_task(self._clock.wait_until(self._pending[0].due)))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def _dead_letter(self, pending: Pending, reason: str) -> None:
        """Write the event as the blob of a dead letter holds it: an array of one, in the delivery schema."""
        about = {
            "deadLetterReason": reason,
            "deliveryAttempts": pending.attempts,
            "lastDeliveryOutcome": pending.last_answer.outcome if pending.last_answer else "NotProcessed",
            "lastHttpStatusCode": pending.last_answer.status if pending.last_answer else 0,
            "publishTime": pending.published_at.isoformat(),
            "lastDeliveryAttemptTime": pending.last_attempt_at.isoformat() if pending.last_attempt_at else None,
        }
        if self.subscription.delivery_schema == "CloudEventSchemaV1_0":
            about = {name.lower(): value for name, value in about.items()}
        body = [pending.event.rendered(self.subscription.delivery_schema) | about]
        self._dead_letters.mkdir(parents=True, exist_ok=True)
        name = f"{self.subscription.name}-{pending.number:06}-{self._clock.now():%Y%m%dT%H%M%S%f}.json"
        (self._dead_letters / name).write_text(json.dumps(body, indent=2))
