"""The runbook against the code: every reason, command, route and field exists; and every link of the documentation leads
somewhere. What is read at night must be true.
"""

import json
import re
import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from core.errors import Reason
from promotions.app import app
from promotions.command import PROGRAM

REPOSITORY = Path(__file__).parents[2]
DOCS = REPOSITORY / "docs"
PAGES = sorted([*DOCS.glob("**/*.md"), REPOSITORY / "README.md"])
RUNBOOK = (DOCS / "runbook.md").read_text(encoding="utf-8")
PATHS: dict[str, Any] = json.loads((DOCS / "contracts" / "openapi.json").read_text(encoding="utf-8"))["paths"]
CONSOLE = typer.main.get_command(app)
USAGE_ERROR: Any = typer.BadParameter.__bases__[0]
# Pages for operators, whose commands and routes are held against the console and the API.
OPERATORS = [
    DOCS / f"{name}.md"
    for name in ("runbook", "operations", "disaster-recovery", "migrating", "upgrading", "limits", "cost", "install")
    if (DOCS / f"{name}.md").is_file()
]


def without_code(text: str) -> str:
    """The text without its code blocks, indented ones of lists as well: what stands there is no link and no heading."""
    return re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE)


def blocks(text: str, language: str) -> list[str]:
    return [found for _, found in re.findall(rf"^( *)```{language}\n(.*?)^\1```", text, re.DOTALL | re.MULTILINE)]


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to headings: a repeated one gets a number."""
    seen = Counter[str]()
    found = set()
    for heading in re.findall(r"^#+ +(.+?) *$", without_code(text), re.MULTILINE):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w -]", "", plain.lower()).replace(" ", "-")
        found.add(f"{name}-{seen[name]}" if seen[name] else name)
        seen[name] += 1
    return found | set(re.findall(r'<a (?:id|name)="([^"]+)"', text))


def broken_links(page: Path, text: str) -> list[str]:
    """The relative links of a page that lead nowhere, to a file or to a heading of one."""
    found = []
    for link in re.findall(r"(?<!!)\[[^]]*\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", without_code(text))):
        path, _, anchor = link.partition("#")
        if ":" in path:
            continue  # somewhere else
        goal = (page.parent / path).resolve() if path else page
        is_there = goal.exists() and goal.is_relative_to(REPOSITORY)
        if not is_there or (anchor and anchor not in anchors(goal.read_text(encoding="utf-8"))):
            found.append(link)
    return found


def known_route(method: str, route: str) -> dict[str, Any] | None:
    """The operation behind a route as people write it: with placeholders of any name, with values, with a query."""
    path, _, query = route.partition("?")
    for template, item in PATHS.items():
        if not re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), path.removeprefix("/api")):
            continue
        operation: dict[str, Any] | None = item.get(method.lower())
        takes = {each["name"] for each in (operation or {}).get("parameters", ()) if each["in"] == "query"}
        asked = {part.partition("=")[0] for part in query.split("&") if part}
        if operation is not None and asked <= takes:
            return operation
    return None


def routes(text: str) -> list[tuple[str, str]]:
    """Methods and routes that a page names, and those that its `curl` lines ask."""
    named = re.findall(r"\b(GET|POST) (/api/[^\s`|)]+?)(?=[`\s|)]|[.,;:]\s)", text)
    asked = []
    for line in re.findall(r"^ *curl (?:.*\\\n)*.*", text, re.MULTILINE):
        path = re.search(r"/(?:api|runtime)/[^\s\"'`]+", line)
        assert path, f"no address in: {line}"
        method = re.search(r"-X (\w+)", line)
        asked.append((method[1] if method else "GET", path[0]))
    return [*named, *asked]


def console_lines(text: str) -> Iterator[str]:
    """The commands of the console client that a page shows, in blocks and in sentences."""
    yield from re.findall(rf"^ *({re.escape(PROGRAM)} [^#\n|]+)", "\n".join(blocks(text, "sh")), re.MULTILINE)
    yield from re.findall(rf"`({re.escape(PROGRAM)} [^`]+)`", text)


def mistake_in(line: str) -> str | None:
    """What the console would say to this command before it asks the service anything; None if it would ask."""
    words = shlex.split(line)[len(PROGRAM.split()) :]
    command: Any = CONSOLE
    while below := getattr(command, "commands", {}):
        if not words or words[0] not in below:
            return f"no command {' '.join(words[:1])!r}"
        command, words = below[words[0]], words[1:]
    try:
        command.make_context(command.name, words)
    except USAGE_ERROR as error:
        return str(error.format_message())
    return None


# ---------------------------------------------------------------------------------------------------------------- links


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_every_link_leads_somewhere(page: Path) -> None:
    assert broken_links(page, page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "link", ["nowhere.md", "runbook.md#no-such-heading", "#no-such-heading", "../..", "contracts/nothing.md"]
)
def test_a_link_that_leads_nowhere_is_found(link: str) -> None:
    assert broken_links(DOCS / "runbook.md", f"See [this]({link}).") == [link]


# -------------------------------------------------------------------------------------------------------------- reasons


def entries() -> dict[str, list[str]]:
    """The rows of the tables of reasons, by reason."""
    _, _, below = RUNBOOK.partition("\n# Reasons\n")
    lines = re.findall(r"^\| `([a-z_]+)` \|(.*)\|$", below, re.MULTILINE)
    assert [name for name, times in Counter(name for name, _ in lines).items() if times > 1] == []
    return {name: [cell.strip() for cell in rest.split("|")] for name, rest in lines}


def test_every_reason_has_its_entry() -> None:
    assert sorted(entries()) == sorted(Reason)


@pytest.mark.parametrize("reason", Reason)
def test_an_entry_says_what_it_means_what_to_do_and_whether_it_goes_on(reason: Reason) -> None:
    means, do, by_itself = entries()[reason]
    assert means and do
    assert by_itself.partition(",")[0] in ("yes", "no")


def test_what_goes_on_by_itself_is_what_is_parked() -> None:
    """The contract says which reasons park. What a tag asks in wrong words is the one event that is asked for again."""
    contract = (DOCS / "contracts" / "promotions.md").read_text(encoding="utf-8")
    parked = set(re.findall(r"^\| `([a-z_]+)` \| parked \|", contract, re.MULTILINE))
    by_itself = {reason for reason, cells in entries().items() if cells[2].startswith("yes")}
    assert by_itself == parked | {Reason.TAG_NOT_UNDERSTOOD}


# ------------------------------------------------------------------------------------------- commands, routes, queries


@pytest.mark.parametrize("page", OPERATORS, ids=lambda page: page.name)
def test_every_command_of_the_console_is_one(page: Path) -> None:
    lines = list(console_lines(page.read_text(encoding="utf-8")))
    assert {line: mistake for line in lines if (mistake := mistake_in(line))} == {}


def test_the_runbook_shows_commands() -> None:
    assert len(list(console_lines(RUNBOOK))) > 20


@pytest.mark.parametrize(
    ("line", "mistake"),
    [
        (f"{PROGRAM} dance churn", "no command 'dance'"),
        (f"{PROGRAM} failed forget", "no command 'forget'"),
        (f"{PROGRAM} list --status parked", "No such option: --status"),
        (f"{PROGRAM} list --state asleep", "is not one of"),
        (f"{PROGRAM} dead-letters show", "Missing argument"),
    ],
)
def test_a_command_that_does_not_exist_is_found(line: str, mistake: str) -> None:
    assert mistake in (mistake_in(line) or "")


@pytest.mark.parametrize("page", OPERATORS, ids=lambda page: page.name)
def test_every_route_is_in_the_api(page: Path) -> None:
    found = [(method, route) for method, route in routes(page.read_text(encoding="utf-8"))]
    assert [each for each in found if each[1].startswith("/api/") and not known_route(*each)] == []


def test_the_one_address_outside_of_the_api_is_the_webhook() -> None:
    """Event Grid's webhook is the host's own; the contract of the HTTP API names it."""
    others = {route.partition("&")[0] for _, route in routes(RUNBOOK) if not route.startswith("/api/")}
    assert others == {"/runtime/webhooks/eventgrid?functionName=intake"}
    assert f"`{others.pop()}`" in (DOCS / "contracts" / "http.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("method", "route"),
    [
        ("GET", "/api/promotion"),
        ("GET", "/api/promotions/7/retry"),
        ("POST", "/api/reconcile"),
        ("GET", "/api/events?color=red"),
    ],
)
def test_a_route_that_does_not_exist_is_found(method: str, route: str) -> None:
    assert known_route(method, route) is None
    assert routes(f"Ask `{method} {route}`.") == [(method, route)]


def test_every_alert_links_to_its_query() -> None:
    """But the two that look at metrics of Azure."""
    linked = set(re.findall(r"\(\.\./infra/queries/([a-z-]+\.kql)\)", RUNBOOK))
    assert linked == {path.name for path in (REPOSITORY / "infra" / "queries").glob("*.kql")}


def test_every_query_asks_for_fields_that_are_written() -> None:
    written = "".join(
        (REPOSITORY / "core" / name).read_text(encoding="utf-8") for name in ("monitoring.py", "promotion.py")
    )
    asked = {field for block in blocks(RUNBOOK, "kusto") for field in re.findall(r"Properties\.(\w+)", block)}
    assert asked
    assert {field for field in asked if not re.search(rf"\b{field}=", written)} == set()


def test_the_lines_that_queries_look_for_are_written() -> None:
    sought = [text for block in blocks(RUNBOOK, "kusto") for text in re.findall(r'startswith "([^"]+)"', block)]
    written = "".join(path.read_text(encoding="utf-8") for path in (REPOSITORY / "core").glob("*.py"))
    assert sought
    assert [text for text in sought if f'("{text}' not in written] == []


@pytest.mark.parametrize(
    "detail", re.findall(r"^\| `([^`]+)` \| ", RUNBOOK.partition("(403)\n")[2].partition("\n#")[0], re.M)
)
def test_what_a_403_says_is_what_the_service_says(detail: str) -> None:
    written = (REPOSITORY / "core" / "approvals.py").read_text(encoding="utf-8")
    parts = [part.strip() for part in detail.split("...") if part.strip()]
    assert parts
    assert all(part in written for part in parts)
