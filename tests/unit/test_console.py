"""The console client over a real socket: what each command asks, what it shows, how it ends."""

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.dead_letters import Letter
from core.explain import Explanation, RuleVerdict, Told
from core.ledger import Approval, Decision, EventOutcome, EventRecord, Promotion, State, StepRecord
from core.plan import Difference, Ending, Plan, PlannedStep
from core.policy_check import Checked, MatchedModel, RuleMatches
from core.reconcile import BackfillRow, Tick
from core.replay import Failed
from promotions.app import app, main
from promotions.commands import arguments, insight, policies
from promotions.exits import FINAL, Exit
from tests.unit.builders import NOON, a_command
from tests.unit.console_runs import Console
from tests.unit.console_service import (
    KEY,
    Reply,
    Service,
    a_detail,
    a_row,
    an_approval,
    an_audit_record,
    dumped,
    problem,
)

ROW = a_row()
ID = ROW["id"]
PLACE = "endpoints/prod/realtime/churn"


# ------------------------------------------------------------------------------------------------------------- reading


def test_the_list_is_a_table_with_local_times(service: Service, console: Console) -> None:
    service.answers("GET promotions", {"promotions": [ROW], "continuation": None})

    ran = console("list")

    header, line = ran.out.splitlines()
    assert header.split() == ["PROMOTION", "MODEL", "ENDPOINT", "STATE", "UPDATED", "WHY"]
    assert line.split() == [ID, "churn:3", "prod/realtime/churn", "requested", "2026-03-04", "13:00:00", "+01:00"]
    assert (ran.code, service.the("GET promotions").headers["x-functions-key"]) == (0, KEY)


def test_filters_are_asked_of_the_service(service: Service, console: Console) -> None:
    service.answers("GET promotions", {"promotions": [], "continuation": None})

    wanted = "--state parked --model churn:3 --endpoint churn --target prod --reason on_hold --limit 5"
    ran = console("list", *wanted.split())

    assert ran.out == "No promotions.\n"
    assert service.the("GET promotions").query == {
        "state": "parked",
        "model": "churn",
        "version": "3",
        "endpoint": "churn",
        "target": "prod",
        "reason": "on_hold",
        "limit": "5",
    }


def test_all_pages_are_one_document(service: Service, console: Console) -> None:
    pages = [{"promotions": [a_row(id=f"p-{n}")], "continuation": token} for n, token in enumerate(["b", "c", None])]
    service.answers("GET promotions", *pages)

    ran = console("list", "--all", "--json")

    assert ran.json == {"promotions": [a_row(id=f"p-{n}") for n in range(3)], "continuation": None}
    assert [asked.query.get("continuation") for asked in service.of("GET promotions")] == [None, "b", "c"]


def test_one_page_says_that_there_are_more(service: Service, console: Console) -> None:
    service.answers("GET promotions", {"promotions": [ROW], "continuation": "b"})

    assert "--all" in console("list").err


def test_a_page_that_comes_again_is_an_error(service: Service, console: Console) -> None:
    service.answers("GET promotions", {"promotions": [ROW], "continuation": "b"})

    assert console("list", "--all").code == 2


def test_show_has_steps_decisions_result_and_remedy(service: Service, console: Console) -> None:
    row = a_detail(
        "copy", "deploy", state="refused", reason="deployment_failed", why="it did not start", remedy="See log"
    )
    row |= {"approvals": [an_approval(row)], "result": {"azure_error": "BadArgument", "log": "one\ntwo"}}
    service.answers(f"GET promotions/{ID}", row)

    ran = console("show", ID)

    for text in ("churn:3", "refused", "it did not start", "See log", "Ada", "copy", "deploy", "BadArgument", "  two"):
        assert text in ran.out
    assert ran.code == 0
    assert console("show", ID, "--json").json == row


EVENT = dumped(
    EventRecord(
        event_id="e",
        event_type="Microsoft.MachineLearningServices.ModelRegistered",
        source="dev",
        subject="models/churn:3",
        outcome=EventOutcome.IGNORED,
        why="no rule",
        received_at=NOON,
    )
)
HOLD = {
    "session_id": "s",
    "target": "prod",
    "serve": "realtime",
    "endpoint": "churn",
    "order": {
        "id": "o",
        "verb": "hold",
        "by": "Ada",
        "at": "2026-03-04T12:00:00Z",
        "reason": "audit",
        "overrides_hold": False,
        "replaces": None,
    },
}
NAMED = {"target": "prod", "serve": "realtime", "endpoint": "churn"}
LIVE = {"model": "churn", "version": "3"}
LETTER = dumped(
    Letter(
        sequence_number=42,
        message_id="m",
        reason="undecodable",
        why="no JSON",
        remedy="drop it",
        stale=False,
        promotion_id=None,
        endpoint=None,
        target=None,
        state=None,
        dead_letter_reason="MaxDeliveryCountExceeded",
        dead_letter_description="Message could not be consumed after 3 delivery attempts.",
        delivery_count=3,
        enqueued_at=NOON,
        body={"text": "rubbish"},
    )
)
FAILED = dumped(
    Failed(
        kind="refused",
        id=ID,
        promotion_id=ID,
        endpoint="churn",
        target="prod",
        reason="smoke_failed",
        why="answered 500",
        remedy="look at the log",
        at=NOON,
    )
)
RETRIED = Reply({"retried": [ID], "failed": [], "remaining": 0}, 202)
CHECKED = Checked(
    valid=True,
    rules=(
        RuleMatches(
            rule="all",
            matches=(
                MatchedModel(source="dev", model="churn", version="3", decides=True, by_name=False),
                MatchedModel(source="dev", model="fraud", version="1", decides=False, by_name=True),
            ),
        ),
    ),
    notes=("the models of test cannot be listed now",),
).model_dump(mode="json")
PLANNED = BackfillRow(source="dev", model="churn", version="3").model_dump(mode="json")
TOLD = Told(
    promotion=Promotion.requested(a_command(), now=NOON),
    steps=(StepRecord(promotion_id=ID, hop=0, number=1, step="copy artifacts", at=NOON),),
    approvals=(Approval.model_validate(an_approval(ROW)),),
    audit=(),
)
EXPLAINED = Explanation(
    answer="it is on its way",
    source="dev",
    model="churn",
    version="3",
    events=(EventRecord.model_validate(EVENT),),
    rules=(RuleVerdict(rule="all", matches=False, decides=False, why="tag missing"),),
    promotions=(TOLD,),
).model_dump(mode="json")
A_PLAN = Plan(
    outcome="done",
    changes=True,
    about="a retry of promotion churn-3-1, which is refused",
    promotion_id="churn-3-1",
    model="churn",
    version="3",
    target="prod",
    serve="realtime",
    endpoint="churn",
    steps=(PlannedStep(step="move traffic", detail="v3"),),
    differences=(Difference(what="traffic", shown="100 % to v2", wanted="100 % to v3"),),
    then=Ending(outcome="refused", why="the name is taken"),
    later=("batch endpoint churn of prod",),
).model_dump(mode="json")
TICKS = {"ticks": [dumped(Tick(at=NOON, requests=7, problems=("dev cannot be read",)))]}
REASON = ["--reason", "why not"]
WHY = {"reason": "why not"}
SHOWN = {name: ROW[name] for name in ("manifest_digest", "recipe_digest")}

# command, route, what the service answers, what it is asked (query or body), and what stands in the output
ROUTES: list[tuple[list[str], str, Any, dict[str, Any], str]] = [
    (["events", "--outcome", "ignored"], "GET events", {"events": [EVENT]}, {"outcome": "ignored"}, "no rule"),
    (["audit", "--limit", "3"], "GET audit", {"audit": [an_audit_record()]}, {"limit": "3"}, "churn:3"),
    (["endpoint", "prod/realtime/churn"], f"GET {PLACE}", NAMED | {"live": LIVE, "hold": HOLD}, {}, "audit"),
    (["endpoint", "prod/realtime/churn"], f"GET {PLACE}", NAMED | {"live": None, "hold": None}, {}, "nothing"),
    (
        ["history", "prod/realtime/churn"],
        f"GET {PLACE}/history",
        {"history": [an_audit_record()]},
        {},
        "Data Scientist",
    ),
    (
        ["history", "prod/realtime/churn", "--at", "2026-03-04T12:00"],
        f"GET {PLACE}/history",
        {"history": [], "live": LIVE},
        {"at": "2026-03-04T11:00:00Z"},
        "live at 2026-03-04 12:00:00 +01:00",
    ),
    (
        ["explain", "azureml:churn:3", "--source", "dev"],
        "GET explain",
        EXPLAINED,
        {"source": "dev", "model": "churn", "version": "3"},
        "tag missing",
    ),
    (["reconcile"], "GET reconcile", TICKS, {}, "dev cannot be read"),
    (["drift"], "GET drift", {"drifts": []}, {}, "is as it was promoted"),
    (["dead-letters", "list"], "GET dead-letters", {"dead_letters": [LETTER]}, {}, "42"),
    (["dead-letters", "show", "42"], "GET dead-letters/42", LETTER, {}, "rubbish"),
    (
        ["dead-letters", "resubmit", "42", *REASON],
        "POST dead-letters/42/resubmit",
        Reply(LETTER, 202),
        WHY,
        "sent again",
    ),
    (["dead-letters", "drop", "42", "--yes", *REASON], "POST dead-letters/42/drop", LETTER, WHY, "dropped"),
    (["failed", "list"], "GET failed", {"failed": [FAILED], "groups": []}, {}, "look at the log"),
    (
        ["failed", "list", "--group"],
        "GET failed",
        {"failed": [], "groups": [{"reason": "smoke_failed", "count": 7}]},
        {"group": "reason"},
        "smoke_failed  7",
    ),
    (
        ["failed", "retry", "a", "b"],
        "POST failed/retry",
        RETRIED,
        {"ids": ["a", "b"], "reason": None, "all": False, "per_minute": 60, "note": ""},
        "Sent again: 1",
    ),
    (
        ["failed", "retry", "--all", "--per-minute", "5", "--note", "n"],
        "POST failed/retry",
        RETRIED,
        {"ids": None, "reason": None, "all": True, "per_minute": 5, "note": "n"},
        "Sent again: 1",
    ),
    (
        ["promote", "churn:3", "--source", "dev", "--rule", "all", *REASON, "--overrides-hold"],
        "POST promotions",
        Reply(ROW, 202),
        {"source": "dev", "model": "churn", "version": "3", "rule": "all", "overrides_hold": True} | WHY,
        ID,
    ),
    (
        ["approve", ID, "--yes"],
        f"POST promotions/{ID}/approve",
        an_approval(ROW),
        SHOWN | {"comment": ""},
        "approved by Ada",
    ),
    (
        ["reject", ID, "--yes", "--comment", "no"],
        f"POST promotions/{ID}/reject",
        an_approval(ROW, Decision.REJECTED),
        SHOWN | {"comment": "no"},
        "rejected by Ada",
    ),
    (["cancel", ID, *REASON], f"POST promotions/{ID}/cancel", Reply(ROW, 202), WHY, ID),
    (["retry", ID, *REASON], f"POST promotions/{ID}/retry", Reply(ROW, 202), WHY, ID),
    (["wake", ID], f"POST promotions/{ID}/wake", Reply(ROW, 202), {}, ID),
    (
        ["redeploy", ID, "--target", "eu", "--fresh"],
        f"POST promotions/{ID}/redeploy",
        Reply(ROW, 202),
        {"reason": "", "target": "eu", "fresh": True, "overrides_hold": False},
        ID,
    ),
    (
        ["rollback", "prod/realtime/churn", "--to", "p-1", *REASON],
        f"POST {PLACE}/rollback",
        Reply(ROW, 202),
        WHY | {"to": "p-1"},
        ID,
    ),
    (["hold", "prod/realtime/churn", *REASON], f"POST {PLACE}/hold", Reply(HOLD, 202), WHY, "stay away"),
    (["release", "prod/realtime/churn"], f"POST {PLACE}/release", Reply(NAMED, 202), {"reason": ""}, "may go there"),
    (["retire", "prod/realtime/churn", "--yes", *REASON], f"POST {PLACE}/retire", Reply(ROW, 202), WHY, ID),
    (
        ["backfill", "all", "--limit", "9"],
        "POST backfill",
        {"plan": [PLANNED], "sent": []},
        {"rule": "all", "dry_run": True, "limit": 9},
        "churn:3  planned",
    ),
    (
        ["backfill", "all", "--send"],
        "POST backfill",
        {"plan": [], "sent": [PLANNED | {"outcome": "accepted"}]},
        {"rule": "all", "dry_run": False},
        "churn:3  accepted",
    ),
]


@pytest.mark.parametrize(
    ("command", "route", "answer", "asks", "shows"), ROUTES, ids=[" ".join(case[0][:3]) for case in ROUTES]
)
def test_each_command_asks_one_route(
    service: Service, console: Console, command: list[str], route: str, answer: Any, asks: dict[str, Any], shows: str
) -> None:
    service.answers(f"GET promotions/{ID}", a_detail())
    service.answers(route, answer)

    plain = console(*command)
    as_json = console(*command, "--json")

    assert (plain.code, as_json.code) == (0, 0), plain.err
    assert shows in plain.out
    assert as_json.json == (answer.content if isinstance(answer, Reply) else answer), "the service's own JSON"
    first, second = service.of(route)
    assert (first.query if first.method == "GET" else first.json) == asks
    if first.method == "POST":
        keys = [asked.headers["idempotency-key"] for asked in (first, second)]
        assert len(set(keys)) == 2, "each run is an order of its own"


def test_the_table_above_has_all_commands() -> None:
    """`list`, `show`, `plan`, `policy check` and `bundle` have tests of their own."""
    from typer.main import get_command

    root: Any = get_command(app)
    known = {
        name if not hasattr(found, "commands") else f"{name} {inner}"
        for name, found in root.commands.items()
        for inner in getattr(found, "commands", {name: None})
    }
    groups = {"failed", "dead-letters", "policy"}
    tested = {" ".join(case[0][:2]) if case[0][0] in groups else case[0][0] for case in ROUTES}

    assert known - tested == {"list", "show", "plan", "policy check", "bundle"}


def test_every_command_has_an_example(console: Console) -> None:
    from typer.main import get_command

    def commands(found: Any, *path: str) -> Iterator[tuple[str, ...]]:
        if not hasattr(found, "commands"):
            yield path
        for name, inner in getattr(found, "commands", {}).items():
            yield from commands(inner, *path, name)

    for path in commands(get_command(app)):
        ran = console(*path, "--help")
        assert ran.code == 0
        assert f"Example:\n    python -m promotions {' '.join(path)}" in ran.out


# -------------------------------------------------------------------------------------------------------------- orders


def test_an_approval_shows_what_it_is_about_and_sends_the_digests_that_were_shown(
    service: Service, console: Console
) -> None:
    service.answers(f"GET promotions/{ID}", a_detail(state="parked", reason="approval_wanted"))
    service.answers(f"POST promotions/{ID}/approve", an_approval(ROW))

    ran = console("approve", ID, "--comment", "fine", typed="y\n")

    sent = service.the(f"POST promotions/{ID}/approve").json
    assert sent == SHOWN | {"comment": "fine"}
    shown = ran.out
    for text in (*SHOWN.values(), "churn:3", "prod", "realtime endpoint churn", "an MLflow model"):
        assert text in shown
    assert f"Approve {ID}, to prod? [y/N]" in ran.err
    assert ran.code == 0


def test_an_approval_in_json_is_one_document_and_shows_the_rest_on_stderr(service: Service, console: Console) -> None:
    service.answers(f"GET promotions/{ID}", a_detail())
    service.answers(f"POST promotions/{ID}/approve", an_approval(ROW))

    ran = console("approve", ID, "--json", typed="yes\n")

    assert ran.json == an_approval(ROW)
    assert SHOWN["manifest_digest"] in ran.err


@pytest.mark.parametrize("typed", ["", "n\n", "\n", "churn\n"])
@pytest.mark.parametrize(
    "command",
    [["approve", ID], ["reject", ID], ["dead-letters", "drop", "42", *REASON]],
    ids=["approve", "reject", "drop"],
)
def test_what_is_not_confirmed_is_not_sent(service: Service, console: Console, command: list[str], typed: str) -> None:
    service.answers(f"GET promotions/{ID}", a_detail())

    ran = console(*command, typed=typed)

    assert (ran.code, "nothing was sent" in ran.err) == (2, True)
    assert [asked.method for asked in service.asked if asked.method == "POST"] == []


@pytest.mark.parametrize(("typed", "code"), [("churn\n", 0), ("y\n", 2), ("Churn\n", 2), ("", 2)])
def test_retiring_asks_for_the_endpoints_name(service: Service, console: Console, typed: str, code: int) -> None:
    service.answers(f"POST {PLACE}/retire", Reply(ROW, 202))

    ran = console("retire", "prod/realtime/churn", typed=typed)

    assert (ran.code, len(service.of(f"POST {PLACE}/retire"))) == (code, 1 if code == 0 else 0)


def test_a_changed_content_is_not_approved(service: Service, console: Console) -> None:
    service.answers(f"GET promotions/{ID}", a_detail())
    service.answers(f"POST promotions/{ID}/approve", problem(409, "promotion has other content than was shown"))

    ran = console("approve", ID, "--yes")

    assert ran.code == 1
    assert "error: promotion has other content than was shown (HTTP 409)." in ran.err


def test_failed_work_that_could_not_be_retried_is_an_error(service: Service, console: Console) -> None:
    answer = {"retried": [], "failed": [{"id": ID, "why": "it is under way"}], "remaining": 3}
    service.answers("POST failed/retry", Reply(answer, 202))

    ran = console("failed", "retry", "--reason", "smoke_failed")

    assert (ran.code, "it is under way" in ran.out, "another time: 3." in ran.out) == (1, True, True)


@pytest.mark.parametrize(
    "command",
    [
        ["failed", "retry"],
        ["failed", "retry", "a", "--all"],
        ["promote", "churn", "--source", "dev"],
        ["promote", "a:b:3", "--source", "dev"],
        ["promote", ":3", "--source", "dev"],
        ["promote", "churn:3"],
        ["endpoint", "prod/churn"],
        ["endpoint", "prod/online/churn"],
        ["endpoint", "prod//churn"],
        ["history", "prod/realtime/churn", "--at", "yesterday"],
        ["hold", "prod/realtime/churn"],
        ["dead-letters", "drop", "42"],
        ["dead-letters", "show", "x"],
        ["list", "--state", "done"],
        ["list", "--limit", "0"],
        ["show", ".."],
        ["show", ""],
        ["plan"],
        ["plan", "churn:3", "--promotion", ID],
        ["policy", "check", "no-such-file.yaml"],
        ["dance"],
    ],
    ids=" ".join,
)
def test_wrong_use_asks_nothing(service: Service, console: Console, command: list[str]) -> None:
    ran = console(*command)

    assert (ran.code, service.asked, ran.out) == (2, [], "")
    assert ran.err


# -------------------------------------------------------------------------------------------------------------- watching


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ({"state": "succeeded"}, 0),
        ({"state": "retired"}, 0),
        ({"state": "refused", "why": "no", "remedy": "mend it"}, 1),
        ({"state": "cancelled"}, 1),
        ({"state": "superseded"}, 1),
        ({"state": "rolled_back"}, 1),
        ({"state": "parked", "reason": "on_hold", "why": "on hold", "remedy": "release it"}, 3),
    ],
    ids=lambda value: value["state"] if isinstance(value, dict) else str(value),
)
def test_a_watch_shows_each_step_once_and_ends_with_the_promotion(
    service: Service, console: Console, end: dict[str, Any], code: int
) -> None:
    service.answers(
        f"GET promotions/{ID}",
        a_detail("copy", state="running"),
        a_detail("copy", "register", state="waiting"),
        a_detail("copy", "register", "deploy", **end),
    )

    ran = console("show", ID, "--watch")

    assert ran.code == code
    for step in ("copy", "register", "deploy"):
        assert sum(step in line.split() for line in ran.out.splitlines()) == 1
    assert end.get("remedy", "") in ran.out
    assert len(ran.slept) == 2


def test_a_watch_in_json_prints_a_line_for_each_change(service: Service, console: Console) -> None:
    rows = [a_detail("copy", state="waiting"), a_detail("copy", state="waiting"), a_detail("copy", state="succeeded")]
    service.answers(f"GET promotions/{ID}", *rows)

    ran = console("show", ID, "--watch", "--json")

    assert ran.lines == [rows[0], rows[2]]


def test_promoting_and_watching_is_one_command(service: Service, console: Console) -> None:
    service.answers("POST promotions", Reply(ROW, 202))
    service.answers(f"GET promotions/{ID}", a_detail("deploy", state="succeeded"))

    ran = console("promote", "churn:3", "--source", "dev", "--watch")

    assert (ran.code, "deploy" in ran.out) == (0, True)


def test_what_is_approved_already_is_not_taken_for_waiting(service: Service, console: Console) -> None:
    parked = a_detail(state="parked", reason="approval_wanted")
    service.answers(
        f"GET promotions/{ID}", parked | {"approvals": [an_approval(parked)]}, a_detail("deploy", state="succeeded")
    )

    assert console("show", ID, "--watch").code == 0


def test_an_approval_of_an_earlier_attempt_is_none(service: Service, console: Console) -> None:
    parked = a_detail(state="parked", reason="approval_wanted", attempt=2)
    service.answers(f"GET promotions/{ID}", parked | {"approvals": [an_approval(parked | {"attempt": 1})]})

    assert console("show", ID, "--watch").code == 3


def test_a_watch_may_stay_while_a_person_is_waited_for(service: Service, console: Console) -> None:
    service.answers(f"GET promotions/{ID}", a_detail(state="parked"), a_detail(state="succeeded"))

    assert console("show", ID, "--watch", "--stay").code == 0


def test_the_pause_follows_what_is_due_by_the_services_clock(service: Service, console: Console) -> None:
    """Bounded below and above; this machine's clock has no say."""
    noon = {"Date": "Wed, 04 Mar 2026 12:00:00 GMT"}
    dues = ["2026-03-04T12:00:04Z", "2026-03-04T11:00:00Z", "2026-03-04T19:00:00Z", None]
    rows = [Reply(a_detail(state="waiting", due=due), headers=noon) for due in dues]
    service.answers(f"GET promotions/{ID}", *rows, a_detail(state="succeeded"))

    assert console("show", ID, "--watch").slept == [5.0, 1.0, 10.0, 2.0]


def test_a_watch_outlives_a_restart_of_the_service(service: Service, console: Console) -> None:
    away = [problem(503, "starting") for _ in range(9)]
    service.answers(f"GET promotions/{ID}", a_detail(state="waiting"), *away, a_detail(state="succeeded"))

    ran = console("show", ID, "--watch")

    assert (ran.code, "Still watching" in ran.err) == (0, True)


def test_a_watch_does_not_go_on_for_ever_without_the_service(service: Service, console: Console) -> None:
    service.answers(f"GET promotions/{ID}", problem(503, "starting"))

    assert console("show", ID, "--watch").code == 2


def test_ctrl_c_ends_a_watch(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    service.answers(f"GET promotions/{ID}", a_detail(state="waiting"))
    service.answers("GET promotions", {"promotions": [a_row(state="waiting")], "continuation": None})

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    assert main(["show", ID, "--watch"], sleep=interrupt) == 130
    assert main(["list", "--watch"], sleep=interrupt) == 0, "looking at a list has no end of its own"


def test_watching_the_list_tells_each_change_until_nothing_is_open(service: Service, console: Console) -> None:
    def listed(*states: str) -> dict[str, Any]:
        rows = [a_row(id=f"p-{number}", state=state) for number, state in enumerate(states)]
        return {"promotions": rows, "continuation": None}

    pages = [listed("waiting", "running"), listed("waiting", "succeeded"), listed("refused", "succeeded")]
    service.answers("GET promotions", *pages)
    ran = console("list", "--watch")
    service.answers("GET promotions", *pages, pages[2])

    told = [" ".join(line.split()[3:]) for line in ran.out.splitlines()]
    assert told == ["p-1 running", "p-0 waiting", "p-1 succeeded", "p-0 refused"]
    assert ran.code == 0
    assert console("list", "--watch", "--json").lines == pages


# -------------------------------------------------------------------------------------------------- plans and policies


@pytest.mark.parametrize(
    ("outcome", "changes", "code"),
    [
        ("nothing_to_do", False, 0),
        ("done", True, 10),
        ("waiting", False, 10),
        ("waiting", True, 10),
        ("parked", True, 10),
        ("parked", False, 3),
        ("refused", False, 1),
        ("superseded", False, 1),
    ],
)
def test_a_plans_exit_code_tells_pipelines_what_it_comes_to(
    service: Service, console: Console, outcome: str, changes: bool, code: int
) -> None:
    answer = A_PLAN | {"outcome": outcome, "changes": changes}
    service.answers("POST plan", answer)
    service.answers(f"GET promotions/{ID}/plan", answer)

    asked = console("plan", "churn:3", "--source", "dev", "--rule", "all")
    existing = console("plan", "--promotion", ID, "--json")

    assert (asked.code, existing.code) == (code, code)
    assert service.the("POST plan").json == {"source": "dev", "model": "churn", "version": "3", "rule": "all"}
    for text in (
        "1. move traffic v3",
        "100 % to v2",
        "Then batch endpoint churn of prod",
        "Then refused: the name is taken",
        "a retry of",
    ):
        assert text in asked.out
    assert existing.json == answer


def test_an_explanation_tells_the_whole_way(service: Service, console: Console) -> None:
    service.answers("GET explain", EXPLAINED)

    shown = console("explain", "churn:3").out

    for text in (
        "it is on its way",
        "ModelRegistered",
        "does not match",
        "tag missing",
        ID,
        "copy artifacts",
        "by Ada",
    ):
        assert text in shown


def test_a_backfill_that_was_refused_in_part_is_an_error(service: Service, console: Console) -> None:
    refused = PLANNED | {"outcome": "refused", "why": "its origin is unknown"}
    service.answers("POST backfill", Reply({"plan": [], "sent": [PLANNED | {"outcome": "accepted"}, refused]}, 202))

    ran = console("backfill", "all", "--send")

    assert (ran.code, "its origin is unknown" in ran.out) == (1, True)


def test_the_policys_mistakes_are_lines_that_editors_know(service: Service, console: Console, tmp_path: Path) -> None:
    file = tmp_path / "promotion.yaml"
    file.write_bytes(b"version: 1\n")
    found = [
        {"line": 3, "field": "rules.0.stages", "message": "is required"},
        {"line": None, "field": "", "message": "not UTF-8"},
    ]
    answer = {"valid": False, "mistakes": found, "rules": [], "notes": []}
    service.answers("POST policy/validate", answer)

    ran = console("policy", "check", str(file))

    assert ran.out.splitlines() == [f"{file}:3: rules.0.stages: is required", f"{file}: not UTF-8"]
    asked = service.the("POST policy/validate")
    assert (asked.body, asked.headers["content-type"], ran.code) == (b"version: 1\n", "application/yaml", 1)
    as_json = console("policy", "check", str(file), "--json")
    assert (as_json.json, as_json.code) == (answer, 1)


def test_a_valid_policy_shows_what_each_rule_matches(service: Service, console: Console, tmp_path: Path) -> None:
    file = tmp_path / "promotion.yaml"
    file.write_bytes(b"version: 1\n")
    service.answers("POST policy/validate", CHECKED)

    ran = console("policy", "check", str(file))

    assert (ran.code, "dev/churn:3" in ran.out) == (0, True)
    assert "dev/fraud:1 (a rule before it decides; judged by its name alone)" in ran.out
    assert "the models of test cannot be listed now" in ran.err


def test_a_policy_that_is_too_large_is_not_sent(service: Service, console: Console, tmp_path: Path) -> None:
    file = tmp_path / "promotion.yaml"
    file.write_bytes(b"#" * (policies.POLICY_LIMIT + 1))

    assert (console("policy", "check", str(file)).code, service.asked) == (2, [])


# --------------------------------------------------------------------------------------------------------------- bundles


def zipped(**files: str) -> Reply:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return Reply(buffer.getvalue(), headers={"Content-Type": "application/zip"})


def test_a_bundle_is_unpacked_into_a_folder_of_its_own(service: Service, console: Console, tmp_path: Path) -> None:
    service.answers(f"GET promotions/{ID}/bundle", zipped(**{"x/README.md": "hello", "x/code/score.py": "pass"}))
    folder = tmp_path / "deployed" / "churn"

    ran = console("bundle", ID, "--output", str(folder), "--attempt", "2")

    assert ran.code == 0
    assert (folder / "x" / "README.md").read_text() == "hello"
    assert (folder / "x" / "code" / "score.py").read_text() == "pass"
    assert service.the(f"GET promotions/{ID}/bundle").query == {"attempt": "2"}
    assert console("bundle", ID, "--output", str(folder)).code == 2, "nothing is overwritten"


def test_a_link_in_a_bundle_is_refused(service: Service, console: Console, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        link = zipfile.ZipInfo("link")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    service.answers(f"GET promotions/{ID}/bundle", Reply(buffer.getvalue()))

    assert console("bundle", ID, "--output", str(tmp_path / "out")).code == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "..\\evil", "C:\\evil", "c:evil", "./a", "a//b"])
def test_a_path_that_leads_out_of_the_folder_is_refused(
    service: Service, console: Console, tmp_path: Path, name: str
) -> None:
    service.answers(f"GET promotions/{ID}/bundle", zipped(**{"good": "fine", name: "bad"}))
    folder = tmp_path / "a" / "b" / "out"

    ran = console("bundle", ID, "--output", str(folder))

    assert (ran.code, "nothing was unpacked" in ran.err) == (1, True)
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize(
    "content", [b"", b"no zip", zipped(**{"a": "1", "A": "2"}).content], ids=["empty", "no zip", "twice"]
)
def test_what_is_no_bundle_is_refused(service: Service, console: Console, tmp_path: Path, content: bytes) -> None:
    service.answers(f"GET promotions/{ID}/bundle", Reply(content))

    assert console("bundle", ID, "--output", str(tmp_path / "out")).code == 1
    assert not (tmp_path / "out").exists()


# ----------------------------------------------------------------------------------------------------------------- words


def test_the_states_are_those_of_the_service() -> None:
    assert {state.value for state in arguments.State} == {state.value for state in State}
    assert {state.value for state in State if state.is_final} == FINAL
    assert {outcome.value for outcome in insight.EventOutcome} == {outcome.value for outcome in EventOutcome}


def test_the_documentation_has_every_command_and_exit_code() -> None:
    text = (Path(__file__).parents[2] / "docs" / "console.md").read_text()

    missing = [name for name in {" ".join(case[0][:1]) for case in ROUTES} if f"`{name}" not in text]
    assert missing == []
    assert [code for code in Exit if f"| {code} |" not in text] == []
