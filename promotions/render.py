"""What users see: tables, facts and outlines on a terminal, aligned plain text elsewhere, JSON if they asked for that.

Everything is cleaned on its way out, and no text is taken for markup, whoever wrote it.
"""

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from promotions.text import clean, is_time, local_time

_STYLES = {
    "succeeded": "green",
    "approved": "green",
    "retired": "green",
    "refused": "red",
    "rejected": "red",
    "parked": "yellow",
    "requested": "cyan",
    "running": "cyan",
    "waiting": "cyan",
}
_DEPTH = 12


@dataclass(frozen=True)
class Column:
    """A column of a table: its title, and what stands there for a record."""

    title: str
    value: Callable[[Mapping[str, Any]], Any]
    wraps: bool = False


def field(name: str, title: str | None = None, *, wraps: bool = False) -> Column:
    """A column that shows one field of a record; times in local time."""
    return Column(title or name.replace("_", " "), lambda record: record.get(name), wraps)


class Output:
    """Where results (stdout) and everything else (stderr) go. `as_json`: results are JSON and nothing else."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self.console = _console(sys.stdout)
        self._errors = _console(sys.stderr)

    @property
    def is_live(self) -> bool:
        """Somebody looks at a terminal that can be redrawn."""
        return self.console.is_terminal and not self.console.is_dumb_terminal and not self.as_json

    # ---------------------------------------------------------------------------------------------------- results

    def printed(self, content: Any) -> bool:
        """Print the service's JSON if that was asked for; whether it was."""
        if self.as_json:
            self._document(content)
        return self.as_json

    def _document(self, content: Any) -> None:
        self.console.file.write(json.dumps(content, indent=2) + "\n")
        self.console.file.flush()

    def json_line(self, content: Any) -> None:
        self.console.file.write(json.dumps(content) + "\n")
        self.console.file.flush()

    def say(self, text: str, *, style: str = "") -> None:
        """A line of ours; what comes from elsewhere must be cleaned."""
        self._print(Text(text, style=style))

    def table(self, records: Sequence[Mapping[str, Any]], columns: Sequence[Column], *, none: str) -> None:
        """`none` is said instead of an empty table."""
        if not records:
            self.say(none)
        elif self.console.is_terminal:
            self.console.print(drawn(records, columns))
        else:
            for line in _aligned([[clean(column.title).upper() for column in columns], *_cells(records, columns)]):
                self.say(line)

    def facts(self, facts: Iterable[tuple[str, Any]]) -> None:
        """Names and values, one a line; what is empty is left out."""
        shown = [(name, value) for name, value in facts if value not in (None, "", [], {})]
        width = max((len(name) for name, _ in shown), default=0)
        for name, value in shown:
            line = Text(f"{name:<{width}}  ", style="bold")
            line.append(_one_line(value), style=_STYLES.get(str(value), "not bold"))
            self._print(line)

    def outline(self, value: Any, *, indent: int = 0) -> None:
        """Any JSON value for people: names and values, what belongs together indented."""
        for line in _outlined(value, indent):
            self._print(line)

    # --------------------------------------------------------------------------------------------------- the rest

    def note(self, text: str) -> None:
        """Something beside the result: a hint, or what is being waited for."""
        self._errors.print(Text(text, style="dim"), soft_wrap=True)

    def error(self, sentence: str, remedy: str = "") -> None:
        line = Text("error: ", style="bold red")
        line.append(sentence, style="not bold default")
        self._errors.print(line, soft_wrap=True)
        if remedy:
            self._errors.print(Text(remedy), soft_wrap=True)

    def asked(self) -> "Output":
        """The same, but on stderr: for what is shown before a question, so that stdout has the result only."""
        other = Output(as_json=False)
        other.console = self._errors
        return other

    def _print(self, renderable: RenderableType) -> None:
        self.console.print(renderable, soft_wrap=True)


def drawn(records: Sequence[Mapping[str, Any]], columns: Sequence[Column]) -> Table:
    """A table for a terminal."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(Text(column.title), no_wrap=False, overflow="fold", ratio=None if not column.wraps else 1)
    for cells in _cells(records, columns):
        table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in cells))
    return table


def _console(file: Any) -> Console:
    return Console(file=file, markup=False, highlight=False, emoji=False)


def _cells(records: Sequence[Mapping[str, Any]], columns: Sequence[Column]) -> list[list[str]]:
    return [[_one_line(column.value(record)) for column in columns] for record in records]


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(cell_len(row[index]) for row in rows) for index in range(len(rows[0]))]
    return [
        "  ".join(cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _one_line(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if is_time(value):
        return local_time(value)
    return clean(json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value)


def _outlined(value: Any, indent: int) -> Iterable[Text]:
    margin = " " * indent
    if indent > 2 * _DEPTH:
        yield Text(margin + _one_line(value))
    elif isinstance(value, dict):
        for name, inner in value.items():
            label = Text(f"{margin}{clean(name).replace('_', ' ')}:", style="bold")
            if isinstance(inner, dict | list) and inner:
                yield label
                yield from _outlined(inner, indent + 2)
            elif isinstance(inner, str) and "\n" in inner.strip():
                yield label
                yield from (Text(f"{margin}  {line}") for line in clean(inner.strip(), lines=True).split("\n"))
            elif inner not in (None, "", [], {}):
                text = _one_line(inner)
                yield label.append(f" {text}", style=_STYLES.get(text, "not bold"))
    elif isinstance(value, list):
        for inner in value:
            if isinstance(inner, dict) and inner:
                first, *rest = _outlined(inner, indent + 2) or [Text("")]
                yield Text(f"{margin}- ").append_text(first[indent + 2 :])
                yield from rest
            else:
                yield Text(f"{margin}- {_one_line(inner)}")
    else:
        yield Text(margin + _one_line(value))
