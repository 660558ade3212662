"""SIGKILL of the function host before and after effect calls, which are read from what a promotion really did."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from tests.e2e.test_realtime import register
from tests.local import LOCK_SECONDS, LocalAzure
from tests.models import SavedModel

SERVICE = "promotion-service"
WRITES = frozenset({"PUT", "POST", "PATCH", "MERGE", "DELETE", "SEND", "COMPLETE"})
# What changes the target: the calls between two of these belong together.
MILESTONES = frozenset({("arm", "PUT"), ("arm", "DELETE"), ("scoring", "POST")})
# Tokens; and notifications, which are told when the row has ended (tests/wire/test_notifications.py).
_NO_EFFECTS = frozenset({"identity", "event_grid"})
_NOT_OF_PROMOTIONS = re.compile(
    r"/workspaces/ml-dev/|promotionmemos\(PartitionKey='(?:reconcile|seen|rule|drift)'|/promotionmemos$"
)


@dataclass(frozen=True)
class Call:
    """The `skip + 1`-th call of a shape."""

    service: str
    method: str
    path: str
    skip: int = 0

    @property
    def as_fault(self) -> dict[str, Any]:
        return {**asdict(self), "principal": SERVICE}

    def __str__(self) -> str:
        return f"{self.service} {self.method} {self.path} #{self.skip + 1}"


@dataclass(frozen=True)
class KillPoint:
    """A call, counted from the milestone before it: polling repeats what is between two milestones as often as it takes."""

    call: Call
    after: Call | None = None

    def __str__(self) -> str:
        return f"{self.call}" + (f" after {self.after}" if self.after else "")


@dataclass(frozen=True)
class Kill:
    """SIGKILL of the host while a call waits: before its effect, or after it and before its answer."""

    point: KillPoint
    phase: Literal["before", "after"]

    def call_after(self, last: "Kill") -> Call:
        """The call, for who begins to count at an earlier kill. A call that had no effect is made again."""
        call, made = self.point.call, last.point.call
        is_alike = replace(call, skip=made.skip) == made
        return replace(call, skip=call.skip - made.skip - (last.phase == "after")) if is_alike else call

    def __str__(self) -> str:
        return f"{self.phase} {self.point}"


def twice(point: KillPoint) -> list[Kill]:
    """Before the effect, and again after it.

    At calls that do not change the target only after it: before it, all is as it was after the call before.
    """
    return [Kill(point, "before"), Kill(point, "after")] if point.after is None else [Kill(point, "after")]


def shape(path: str) -> str:
    """A path as a regular expression that fits the same call for another version."""
    escaped = re.escape(path)
    for varying in (
        r"[0-9a-f]{40,}",
        r"[0-9a-f]{32}",
        r"v\d+\\-[0-9a-f]{8}",
        r"\\-\d+\\-[0-9a-f]{10}\\-1",
        r"versions/[0-9a-f]{16}",
        r"versions/\d+",
    ):
        escaped = re.sub(varying, lambda _: ".+", escaped)
    escaped = re.sub(r"step\\-\w+\\-\d+", lambda _: "step.+", escaped)
    # Copies of the files of one model are one kind of call.
    return re.sub(r"(promoted\\-models).*", lambda found: f"{found[1]}/.+", escaped) + "$"


def kill_points(entries: list[dict[str, Any]]) -> Iterator[KillPoint]:
    """Every effect call, of those alike between two milestones the first."""
    calls_of: Counter[tuple[str, str, str]] = Counter()
    milestone: Call | None = None
    since_milestone: set[tuple[str, str, str]] = set()
    for entry in entries:
        key = (entry["service"], entry["method"], shape(entry["path"]))
        if key[:2] in MILESTONES:
            milestone = Call(*key, skip=calls_of[key])
            calls_of[key] += 1
            since_milestone.clear()
            yield KillPoint(milestone)
        elif key not in since_milestone:
            since_milestone.add(key)
            yield KillPoint(Call(*key), after=milestone)


def each_kind_once(points: list[KillPoint]) -> list[KillPoint]:
    """All milestones; of what the engine does alike after each of them (note, successor, row, completion) the first.

    Those are lines of code that do not know which milestone was before them.
    """
    kinds: set[tuple[str, str, str]] = set()
    kept = []
    for point in points:
        kind = (point.call.service, point.call.method, point.call.path)
        if point.after is None or kind not in kinds:
            kept.append(point)
        kinds.add(kind)
    return kept


def effects_since(azure: LocalAzure, number: int) -> list[dict[str, Any]]:
    """The writes of promotions: not the status tags in the source, which the timer mends, nor the timer's own memos."""
    found = azure.control.requests(number, principal=SERVICE)
    writes = [entry for entry in found if entry["method"] in WRITES and entry["service"] not in _NO_EFFECTS]
    return [entry for entry in writes if not _NOT_OF_PROMOTIONS.search(entry["path"])]


def last_number(azure: LocalAzure) -> int:
    return max((entry["number"] for entry in azure.control.requests()), default=0)


def effective_writes(azure: LocalAzure, since: int) -> dict[str, int]:
    """How often each write reached the target: not those that a fault kept from it, nor those that it refused."""
    counted: dict[str, int] = {}
    for entry in effects_since(azure, since):
        if entry["service"] != "arm" or entry["detail"].get("fault") == "before":
            continue
        if entry["method"] == "POST" or (entry["status"] or 0) >= 400:
            continue
        name = f"{entry['method']} {shape(entry['path'])}"
        counted[name] = counted.get(name, 0) + 1
    return counted


@dataclass(frozen=True)
class Subject:
    """What is promoted again and again while the host is being killed."""

    azure: LocalAzure
    model: str
    saved: SavedModel

    def next_version(self, number: int) -> str:
        """The same model with one more file: other content, so that everything is copied again."""
        (self.saved.folder / "build.txt").write_text(f"build {number}")
        return register(self.azure, self.model, self.saved, **{"promote-to": "prod"})

    def first_promotion(self, numbers: Iterator[int]) -> dict[str, Any]:
        """That of the first version, which finds nothing in the target."""
        self.azure.control.advance(3600)  # scheduled messages are then due at once: hops follow without a pause
        return self.azure.wait_for_end(self.model, self.next_version(next(numbers)))

    def kill_points(self, numbers: Iterator[int]) -> tuple[list[KillPoint], dict[str, int]]:
        """What a promotion does that is not the first, and how often each write reaches the target in it."""
        before = last_number(self.azure)
        self.azure.wait_for_end(self.model, self.next_version(next(numbers)))
        return list(kill_points(effects_since(self.azure, before))), effective_writes(self.azure, before)

    def problems_of(self, kills: Sequence[Kill], number: int, expected: dict[str, int]) -> list[str]:
        """Kill the host in a promotion at these points; what is then not as it should be."""
        problems = []
        before = last_number(self.azure)
        version, never_reached = next_version_killed_at(self, number, kills)
        point = ", ".join(str(each) for each in kills)
        problems += [f"{each}: never reached" for each in never_reached]
        row = self.azure.wait_for_end(self.model, version)
        if row["state"] != "succeeded":
            problems.append(f"{point}: {row['state']}: {row['why']}")
        if (written := effective_writes(self.azure, before)) != expected:
            problems.append(f"{point}: {written} instead of {expected}")
        stable = row["result"]["deployment"] if row["result"] else ""
        deleted = [e["path"] for e in effects_since(self.azure, before) if e["method"] == "DELETE"]
        if any(path.endswith(f"/{stable}") for path in deleted):
            problems.append(f"{point}: deleted the deployment with the traffic: {deleted}")
        return problems


def next_version_killed_at(subject: Subject, number: int, kills: Sequence[Kill]) -> tuple[str, list[Kill]]:
    """Promote the next version, and kill the host at one point after the other; all but the first are milestones.

    The version, and the kills that never came; that a call needs no second try after the first kill is none of those.
    """
    azure = subject.azure
    never_reached = []
    begin = kills[0].point.after
    if begin is None:
        fault = _plant(azure, kills[0].point.call, kills[0].phase)
        version = subject.next_version(number)
    else:
        milestone = azure.control.plant(**begin.as_fault, phase="after", hold=True)
        version = subject.next_version(number)
        azure.wait_for(lambda: azure.control.fault(milestone)["held"] or None, what=f"milestone {begin}")
        fault = _plant(azure, kills[0].point.call, kills[0].phase)
        azure.control.release(milestone)
    for before, kill, following in zip([None, *kills], kills, [*kills[1:], None], strict=False):
        is_down = kill_when_held(subject, fault, version)
        if not is_down and not (before and before.point == kill.point):
            never_reached.append(kill)
        if following:
            fault = _plant(azure, following.call_after(kill), following.phase)
        if is_down:
            _start(azure)
    return version, never_reached


def _plant(azure: LocalAzure, call: Call, phase: str) -> int:
    return azure.control.plant(**call.as_fault, phase=phase, hold=True, drop=True)


def _start(azure: LocalAzure) -> None:
    """Start the host again. What it was working on when it was killed is free at once, by the clock."""
    azure.control.post("/function-app/start")
    azure.control.advance(LOCK_SECONDS + 1)


def kill_when_held(subject: Subject, fault: int, version: str) -> bool:
    """SIGKILL the host once the call waits in the fault; False if the promotion ended without another such call."""
    azure = subject.azure

    def held() -> bool | None:
        if azure.control.fault(fault)["held"]:
            return True
        ended = [row for row in azure.promotions_of(subject.model, version) if row["state"] == "succeeded"]
        return False if ended else None

    was_held = azure.wait_for(held, what=f"fault {fault}")
    if was_held:
        azure.control.post("/function-app/kill")
    azure.control.release(fault)
    azure.control.delete(f"/faults/{fault}")
    return was_held
