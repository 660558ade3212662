"""A promotion that meets a freeze: it is told when it goes on, goes on then, and is not given up meanwhile."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest

from core.commands import Command, PromoteModel
from core.errors import Reason
from core.ledger import Promotion, State, StepRecord
from core.ports import Archive, CommandQueue, Ledger, Target
from core.promotion import LONGEST_PARKED_WAIT, Promoter
from tests.unit.builders import NOON, a_command, a_manifest, a_recipe, a_stage

END = datetime(2026, 3, 24, tzinfo=UTC)
FROZEN = a_command(stages=(a_stage(freeze=[{"start": "2026-03-01", "end": "2026-03-24"}], deadlines={"park": "1h"}),))


class Reached(Exception):
    """The promotion has begun to do something in its target."""


@dataclass
class Ports:
    """The ledger and the queue of one promotion, and a target in which there is nothing yet."""

    now: datetime = NOON
    row: Promotion | None = None
    sent: list[tuple[PromoteModel, datetime | None]] = field(default_factory=list)

    def promotion(self, promotion_id: str) -> Promotion | None:
        return self.row

    def open(self, promotion: Promotion) -> Promotion:
        return self.save(self.row or promotion)

    def save(self, promotion: Promotion) -> Promotion:
        self.row = promotion
        return promotion

    def kept(self, kind: str, digest: str) -> str:
        return {"manifest": a_manifest(), "recipe": a_recipe()}[kind].model_dump_json()

    def hold(self, session_id: str) -> None:
        return None

    def note(self, step: StepRecord) -> None:
        raise AssertionError("nothing is to be done in a freeze")

    def send(self, command: Command, *, not_before: datetime | None = None) -> None:
        assert isinstance(command, PromoteModel)
        self.sent.append((command, not_before))

    def look(self, *_: Any) -> Any:
        raise Reached

    def deliver(self, command: PromoteModel) -> None:
        online = SimpleNamespace(endpoint=lambda name: None)
        preflight = SimpleNamespace(grants=self.look, instance_type=self.look, quotas=self.look)
        target = SimpleNamespace(online=online, preflight=preflight, model=self.look, copy_states=self.look)
        Promoter(
            ledger=cast(Ledger, self),
            queue=cast(CommandQueue, self),
            archive=cast(Archive, None),
            target_for=lambda _: cast(Target, target),
            now=lambda: self.now,
        ).deliver(command.encode())


def test_it_is_parked_until_the_end_however_far_that_is_and_then_goes_on() -> None:
    ports, command = Ports(), FROZEN
    looks = 0
    while True:
        try:
            ports.deliver(command.model_copy(update={"faults": 99}))
        except Reached:
            break
        assert ports.row is not None
        assert (ports.row.state, ports.row.reason) == (State.PARKED, Reason.FROZEN)
        assert "prod is frozen until 2026-03-24 00:00 UTC" in ports.row.why
        command, due = ports.sent[-1]
        assert due is not None
        assert due - ports.now <= timedelta(seconds=LONGEST_PARKED_WAIT)
        ports.now, looks = due, looks + 1
        assert looks < 100
    assert timedelta(0) <= ports.now - END <= timedelta(seconds=2)
    assert looks == 20, "once a day"


def test_the_time_of_a_freeze_is_no_time_of_waiting_for_an_approval() -> None:
    """What waited for days in a freeze has the whole time for what comes after it."""
    ports = Ports()
    ports.deliver(FROZEN)
    (frozen, _) = ports.sent[-1]
    approved = frozen.model_copy(update={"stages": (a_stage(approval={}, deadlines={"approval": "1h"}),)})
    ports.now = END
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Ports, "approvals", lambda *_: (), raising=False)
        ports.deliver(approved)
    assert ports.row is not None
    assert (ports.row.state, ports.row.reason) == (State.PARKED, Reason.APPROVAL_WANTED)
