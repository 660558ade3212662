"""What the console client writes to a terminal, and what it never writes there."""

import io
import os
import re
import subprocess
import sys
import threading
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promotions.app import main
from promotions.text import clean, local_time, utc
from tests.unit.console_runs import Console
from tests.unit.console_service import KEY, Service, a_detail, a_row, an_audit_record, problem

REPOSITORY = Path(__file__).parents[2]
EVIL = "\x1b]0;owned\x07\x1b[2J[bold red]x[/bold red] [link=http://evil]y[/link] :bomb:\r\x9b31m\u202e\ud800\nz"
ID = a_row()["id"]
LISTED = {"promotions": [a_row(state="refused", why=EVIL)], "continuation": None}


# ---------------------------------------------------------------------------------------------------- text of others


@given(st.text(st.characters(), max_size=200))
def test_nothing_that_a_terminal_obeys_is_left(text: str) -> None:
    for lines in (False, True):
        left = clean(text, lines=lines)
        unfit = {unicodedata.category(character) for character in left} & {"Cc", "Cs", "Zl", "Zp"}
        assert not unfit - ({"Cc"} if lines and "\n" in left else set())
        assert set(left) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\x1b\x9b\x07\r") == set()
        left.encode()


PLACE = ("target", "serve", "endpoint", "model", "version", "since")


@pytest.mark.parametrize("text", ["churn-3", "größer", "模型", "مدل\u200cها", "a [b] c", "100 %"])
def test_harmless_text_stays_as_it_is(text: str) -> None:
    assert clean(text) == text


@pytest.mark.parametrize(
    ("command", "route", "answer"),
    [
        (["list"], "GET promotions", LISTED),
        (["list", "--watch"], "GET promotions", LISTED),
        (["show", ID], f"GET promotions/{ID}", a_detail(EVIL, why=EVIL, state="refused", remedy=EVIL)),
        (["show", ID], f"GET promotions/{ID}", a_detail(state="refused", result={EVIL: {"log": f"{EVIL}\nmore"}})),
        (["show", ID, "--watch"], f"GET promotions/{ID}", a_detail(EVIL, why=EVIL, state="refused")),
        (["audit"], "GET audit", {"audit": [an_audit_record(reason=EVIL, actor=EVIL, after={EVIL: EVIL})]}),
        (["dead-letters", "show", "42"], "GET dead-letters/42", {EVIL: [EVIL, {EVIL: [[EVIL]]}]}),
        (["dead-letters", "list"], "GET dead-letters", {"dead_letters": [{"why": EVIL, "reason": EVIL}]}),
        (["reconcile"], "GET reconcile", {"ticks": [{"at": EVIL, "problems": [EVIL, EVIL]}]}),
        (
            ["drift"],
            "GET drift",
            {"drifts": [dict.fromkeys(PLACE, EVIL) | {"findings": [{"what": EVIL, "remedy": EVIL}], "repair": ""}]},
        ),
        (["list"], "GET promotions", problem(409, EVIL, reason=EVIL)),
        (["approve", ID], f"GET promotions/{ID}", a_detail(id=EVIL, evidence=EVIL, target=EVIL)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_no_text_of_others_controls_the_terminal(
    service: Service, console: Console, command: list[str], route: str, answer: Any
) -> None:
    service.answers(route, answer)

    ran = console(*command)

    shown = ran.out + ran.err
    assert {character for character in shown if not character.isprintable()} == {"\n"}
    assert "[bold red]x[/bold red]" in shown, "markup is text as any other"
    assert ":bomb:" in shown


def test_json_keeps_the_text_and_escapes_what_terminals_obey(service: Service, console: Console) -> None:
    service.answers("GET promotions", LISTED)

    ran = console("list", "--json")

    assert ran.json == LISTED
    assert {character for character in ran.out if not character.isprintable()} == {"\n"}


# ----------------------------------------------------------------------------------------------------------------- times


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("2026-03-04T12:00:05Z", "2026-03-04 13:00:05 +01:00"),
        ("2026-03-04T12:00:05.123456+00:00", "2026-03-04 13:00:05 +01:00"),
        ("2026-03-04T23:30:00-08:00", "2026-03-05 08:30:00 +01:00"),
        ("9999-12-31T23:59:59Z", "9999-12-31T23:59:59Z"),
        ("2026-02-30T12:00:05Z", "2026-02-30T12:00:05Z"),
        (None, ""),
    ],
)
def test_times_are_those_of_the_readers_clock(service: Service, value: str | None, shown: str) -> None:
    assert local_time(value) == shown


@pytest.mark.parametrize(
    "text", ["2026-03-04T12:00", "2026-03-04T12:00+01:00", "2026-03-04T11:00Z", "2026-03-04 12:00"]
)
def test_a_typed_time_is_local_unless_it_has_an_offset(service: Service, text: str) -> None:
    assert utc(text) == "2026-03-04T11:00:00Z"


# -------------------------------------------------------------------------------------------------------- on a terminal


Terminal = Callable[..., str]


@pytest.fixture
def terminal(service: Service, monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Run the client with its output on a pseudo terminal; everything that was written to that."""

    def run(*arguments: str, columns: int = 200) -> str:
        master, slave = os.openpty()
        written: list[bytes] = []

        def read() -> None:
            while True:
                try:
                    written.append(os.read(master, 65536))
                except OSError:  # the other end is closed
                    return
                if not written[-1]:
                    return

        reader = threading.Thread(target=read)
        reader.start()
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.setenv("COLUMNS", str(columns))
        with os.fdopen(slave, "w", encoding="utf-8") as screen, monkeypatch.context() as patched:
            patched.setattr(sys, "stdout", screen)
            patched.setattr(sys, "stderr", screen)
            patched.setattr(sys, "stdin", io.StringIO("y\n"))
            main(arguments, sleep=lambda _: None)
        reader.join(10)
        os.close(master)
        text = b"".join(written).decode()
        assert KEY not in text
        return text

    return run


COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-9][0-9;]*m")


def test_states_have_colours_and_text_of_others_has_none(service: Service, terminal: Terminal) -> None:
    service.answers("GET promotions", LISTED)

    shown = terminal("list")

    assert COLOUR.findall(shown) == ["\x1b[31m"], "refused is red, and nothing else has a colour"
    assert "\x1b]0;" not in shown
    assert "[bold red]" in shown


def test_no_colour_where_none_is_wanted(service: Service, terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    service.answers("GET promotions", LISTED)

    assert COLOUR.findall(terminal("list")) == []


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_ids_are_whole_on_a_terminal_of_any_width(service: Service, terminal: Terminal, columns: int) -> None:
    """Folded rather than cut: an id is there to be copied."""
    service.answers("GET promotions", {"promotions": [a_row()], "continuation": None})

    lines = re.sub(r"\x1b\[[0-9;]*m", "", terminal("list", columns=columns)).splitlines()[1:]

    assert "…" not in "".join(lines)
    if columns == 200:
        assert ID in lines[0]


def test_a_watched_list_is_redrawn_in_place(service: Service, terminal: Terminal) -> None:
    pages = [{"promotions": [a_row(state=state)], "continuation": None} for state in ("waiting", "succeeded")]
    service.answers("GET promotions", *pages)

    shown = terminal("list", "--watch")

    assert ("waiting" in shown, "succeeded" in shown, "\x1b[1A" in shown) == (True, True, True)


def test_a_watched_promotion_shows_its_steps_and_what_it_waits_for(service: Service, terminal: Terminal) -> None:
    service.answers(
        f"GET promotions/{ID}",
        a_detail("copy", state="waiting", why=f"deployment is being created {EVIL}"),
        a_detail("copy", "deploy", state="succeeded"),
    )

    shown = terminal("show", ID, "--watch")

    assert ("copy" in shown, "deploy" in shown, "\x1b]0;" in shown) == (True, True, False)


def test_no_traceback_where_nobody_reads(service: Service) -> None:
    """`... list --all | head -1`: a reader that has gone is no fault."""
    service.answers("GET promotions", {"promotions": [a_row() for _ in range(3000)], "continuation": None})
    command = f"{sys.executable} -m promotions list | head -1"

    ran = subprocess.run(
        ["bash", "-c", command], cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False
    )

    assert (ran.stdout.split()[0], ran.stderr) == ("PROMOTION", "")


def test_names_that_the_terminals_encoding_does_not_have_are_spelled_out(service: Service) -> None:
    service.answers("GET promotions", {"promotions": [a_row(model="größer")], "continuation": None})
    command = [sys.executable, "-m", "promotions", "list"]
    environment = dict(os.environ) | {"PYTHONIOENCODING": "ascii"}

    ran = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True)

    assert r"gr\xf6\xdfer:3" in ran.stdout
