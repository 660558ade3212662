"""A promotion as it happens: a live table on a terminal, plain lines elsewhere."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.status import Status


class Progress:
    """Prints each new fact once; on a terminal, with a line below that says what is being waited for."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._seen: set[tuple[str, ...]] = set()
        self._status: Status | None = console.status("") if console.is_terminal else None

    def __enter__(self) -> "Progress":
        if self._status:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status:
            self._status.stop()

    def say(self, what: str, detail: str = "") -> None:
        self._once((what, detail), what, detail)

    def event(self, event: Mapping[str, Any]) -> None:
        kind = event["event_type"].rpartition(".")[2]
        self._once(("event", event["event_id"]), "event", f"{kind} {event['subject']}: {event['outcome']}")
        if event["why"]:
            self._once(("origin", event["event_id"]), "origin", event["why"])

    def promotion(self, row: Mapping[str, Any]) -> None:
        command = f"{row['id']} to {row['target']}, endpoint {row['endpoint']} (rule {row['rule']})"
        self._once(("command", row["id"]), "command", command)
        for step in row["steps"]:
            key = ("step", row["id"], step["at"])
            lines = str(step["detail"]).strip().splitlines() or [""]
            self._once(
                key, step["step"], lines[0] if len(lines) == 1 else f"{len(lines)} lines, the last: {lines[-1][:150]}"
            )
        if row["state"] == "waiting" and self._status:
            self._status.update(f"[dim]{row['why']}")

    def _once(self, key: tuple[str, ...], what: str, detail: str) -> None:
        if key not in self._seen:
            self._seen.add(key)
            self._console.print(f"  [bold]{what:<18}[/bold] {detail}", highlight=False, soft_wrap=True)
