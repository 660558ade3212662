"""Watching promotions: asked for again when the service says that something is due, shown as it happens."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from datetime import datetime
from typing import Any

from rich.live import Live
from rich.status import Status
from rich.text import Text

from promotions.client import Answer, Unanswered
from promotions.command import Session
from promotions.exits import Exit, is_open, outcome
from promotions.render import Column, Output, drawn
from promotions.text import clean, local_time, parsed_time

SOONEST, USUALLY, LATEST = 1.0, 2.0, 10.0
PATIENCE = 30
"""How many times in a row the service may be out of reach, each after the client's own tries: an app that restarts."""


def pause(rows: list[Mapping[str, Any]], now: datetime | None) -> float:
    """Seconds until looking again is worthwhile: when the first open promotion is due, within bounds. Pure.

    `now` is the server's own time, so that a wrong clock here changes nothing.
    """
    waits = [_wait(row, now) for row in rows if is_open(row)]
    return min(waits, default=LATEST)


def _wait(row: Mapping[str, Any], now: datetime | None) -> float:
    due = parsed_time(row.get("due"))
    if due is None or now is None:
        return USUALLY
    return min(max((due - now).total_seconds() + SOONEST, SOONEST), LATEST)


def watch_promotion(session: Session, promotion_id: str, *, stay: bool = False) -> Exit:
    """Show each step as it happens, until the promotion ends or, unless `stay`, waits for a person; how it ended."""
    output = session.output
    progress = _Steps(session)
    spinner = output.console.status(Text("")) if output.is_live else nullcontext()
    with spinner as status:
        while True:
            answer = _patiently(session, lambda: session.ask.get("promotions", promotion_id))
            row = answer.content
            progress.show(row)
            ended = outcome(row)
            if ended is not None and not (stay and ended is Exit.PARKED):
                break
            if isinstance(status, Status):
                status.update(Text(f"{clean(row['state'])} {clean(row['why'])}"))
            session.sleep(pause([row], answer.at))
    if not output.as_json:
        show_end(output, row)
    return ended


def show_end(output: Output, row: Mapping[str, Any]) -> None:
    """What came of a promotion, and what to do about it."""
    result = row.get("result") or {}
    output.facts(
        [
            ("state", row["state"]),
            ("why", row["why"]),
            ("reason", row["reason"]),
            ("remedy", row["remedy"]),
            ("scoring URI", result.get("scoring_uri")),
            ("schedule", result.get("schedule")),
        ]
    )


class _Steps:
    """Shows what is new in a promotion: each step once, each change of state once; in JSON, each change of the row."""

    def __init__(self, session: Session) -> None:
        self._output = session.output
        self._seen: set[tuple[Any, ...]] = set()
        self._last: Any = None

    def show(self, row: Mapping[str, Any]) -> None:
        if self._output.as_json:
            if row != self._last:
                self._output.json_line(row)
            self._last = row
            return
        for step in row.get("steps") or ():
            self._once((step["at"], step["hop"], step["number"]), step["at"], step["step"], step["detail"])
        self._once((row["attempt"], row["state"], row["why"]), row["updated_at"], row["state"], row["why"])

    def _once(self, key: tuple[Any, ...], at: str, what: str, detail: str) -> None:
        if key not in self._seen:
            self._seen.add(key)
            self._output.say(f"{local_time(at)}  {clean(what):<22}  {clean(detail)}".rstrip())


def watch_list(session: Session, look: Callable[[], Answer], columns: list[Column], *, none: str) -> None:
    """Redraw a list of promotions until none of them is open, or Ctrl-C."""
    output = session.output
    seen: dict[str, tuple[Any, ...]] = {}
    last: Any = None
    live = Live(console=output.console, auto_refresh=False, vertical_overflow="crop") if output.is_live else None
    try:
        with live or nullcontext():
            while True:
                answer = _patiently(session, look)
                rows = answer.content["promotions"]
                if live:
                    live.update(drawn(rows, columns) if rows else Text(none), refresh=True)
                elif output.as_json:
                    if answer.content != last:
                        output.json_line(answer.content)
                    last = answer.content
                else:
                    _changed_lines(session, rows, seen, none if last is None else "")
                    last = answer.content
                if not any(is_open(row) for row in rows):
                    return
                session.sleep(pause(rows, answer.at))
    except KeyboardInterrupt:
        return


def _changed_lines(
    session: Session, rows: list[Mapping[str, Any]], seen: dict[str, tuple[Any, ...]], none: str
) -> None:
    """A line for each promotion whose state or why is new: what a redrawn table is where nothing can be redrawn."""
    if not rows and none:
        session.output.say(none)
    for row in reversed(rows):
        now = (row["attempt"], row["state"], row["why"])
        if seen.get(row["id"]) != now:
            seen[row["id"]] = now
            when = local_time(row["updated_at"])
            session.output.say(f"{when}  {clean(row['id'])}  {clean(row['state'])}  {clean(row['why'])}".rstrip())


def _patiently(session: Session, look: Callable[[], Answer]) -> Answer:
    """A watch outlives a restart of the service. Raises Unanswered when it stays away."""
    for missed in range(PATIENCE):
        try:
            return look()
        except Unanswered as fault:
            if missed + 1 == PATIENCE:
                raise
            session.output.note(f"{fault.sentence} Still watching.")
            session.sleep(LATEST)
    raise AssertionError("the last look answers or raises")
