"""What is said of a policy before it is rolled out: its mistakes, and the known models that its rules match."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from core.errors import PromotionError, Transient
from core.events import WorkspaceId
from core.ledger import EventOutcome, EventRecord, Promotion
from core.origin import Origin
from core.policy import Policy
from core.policy_check import LOOKED_AT, MISTAKES, Checked, KnownModel, KnownModels, ModelFinder, check
from core.policy_file import VALUE_LIMIT, parse
from core.ports import ListedVersion
from tests.unit.builders import DEV, NOON, POLICY, TEST, a_command, a_policy_with

STAGES = "stages: [{target: prod, serve: realtime}]"


def a_policy(*rules: str) -> bytes:
    """POLICY with these rules: each the text of its `match`, and what else it has."""
    head = POLICY.partition(b"rules:")[0].decode()
    text = "".join(f"  - {{name: r{number}, match: {rule}, {STAGES}}}\n" for number, rule in enumerate(rules, 1))
    return f"{head}rules:\n{text}".encode()


def matches(content: bytes, *known: KnownModel) -> list[list[str]]:
    """The models that each rule matches; in brackets where a rule before it decides, with `?` by the name alone."""
    found = check(content, lambda _: KnownModels(known))
    assert found.valid, found.mistakes
    return [[_shown(match.model, match.decides, match.by_name) for match in rule.matches] for rule in found.rules]


def _shown(model: str, decides: bool, by_name: bool) -> str:
    text = model if decides else f"({model})"
    return f"{text}?" if by_name else text


def a_model(name: str = "churn", **changes: Any) -> KnownModel:
    return replace(KnownModel(DEV, name, "3", tags={}), **changes)


# ----------------------------------------------------------------------------------------------------------- matches


@pytest.mark.parametrize(
    ("rules", "known", "expected"),
    [
        (["{}"], [a_model()], [["churn"]]),
        (["{}"], [], [[]]),
        (["{model: 'x-*'}", "{}"], [a_model(), a_model("x-1")], [["x-1"], ["churn", "(x-1)"]]),
        (["{tags: {team: risk}}"], [a_model(), a_model("risky", tags={"team": "risk"})], [["risky"]]),
        (["{tags: {team: risk}}"], [a_model("unread", tags=None)], [["unread?"]]),
        (["{origin: automl}"], [a_model(origin=Origin.NOTEBOOK), a_model("auto", origin=Origin.AUTOML)], [["auto"]]),
        (["{origin: automl}"], [a_model("unknown", origin=None)], [["unknown"]]),
        (["{source: dev}"], [a_model(workspace=TEST)], [[]]),
        (["{trigger: [requested]}"], [a_model()], [["churn"]]),
        # Each decides for a trigger of its own; what is behind it does for none.
        (["{trigger: [requested]}", "{trigger: [tagged]}", "{}"], [a_model()], [["churn"], ["churn"], ["churn"]]),
        (["{}", "{trigger: [tagged]}"], [a_model()], [["churn"], ["(churn)"]]),
    ],
)
def test_each_rule_shows_the_known_models_that_it_would_match(
    rules: list[str], known: list[KnownModel], expected: list[list[str]]
) -> None:
    assert matches(a_policy(*rules), *known) == expected


def test_a_source_goes_by_its_workspace_and_not_by_its_name() -> None:
    renamed = a_policy_with("  dev:\n", "  laboratory:\n").replace(b"source: dev", b"source: laboratory")
    (rule,) = check(renamed, lambda _: KnownModels((a_model(tags={"promote-to": "prod"}),))).rules
    assert [match.source for match in rule.matches] == ["laboratory"]


# ---------------------------------------------------------------------------------------------------------- mistakes


def refused(content: bytes) -> Checked:
    def never(_: Policy) -> KnownModels:
        raise AssertionError("there is no policy to ask about")

    found = check(content, never)
    assert not found.valid
    return found


def test_a_mistake_has_its_line_and_field() -> None:
    (mistake,) = refused(a_policy_with("serve: realtime", "serve: sometimes")).mistakes
    assert (mistake.line, mistake.field) == (19, "rules.0.stages.0")
    assert mistake.message == "is 'sometimes', none of 'realtime', 'batch'"


def test_of_many_mistakes_the_first_are_told_and_how_many_more_there_are() -> None:
    found = refused(POLICY + b"".join(b"k%d: 1\n" % number for number in range(MISTAKES + 7)))
    assert len(found.mistakes) == MISTAKES
    assert found.notes == ("... and 7 mistakes more",)


BOMB = "\n".join(["a0: &a0 [x, x, x, x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12))])
MERGES = "\n".join(
    ["a0: &a0 {x: 1}", *(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, 12))]
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (BOMB.encode(), f"stands for more than {VALUE_LIMIT} values"),
        (MERGES.encode(), f"stands for more than {VALUE_LIMIT} values"),
        (b"a: &a [*a]", "is nested too deeply, or refers to itself"),
        (b"[" * 100_000, "is nested too deeply, or refers to itself"),
        (b"version: " + b"1" * 200_000, "is too long for a number; put it in quotes if it is meant as text"),
        (b"version: " + b"1:" * 100_000 + b"1", "is too long for a number; put it in quotes if it is meant as text"),
        (b"\xff", "not UTF-8: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"),
        (b"", "must hold version, sources, targets and rules; it is empty"),
    ],
)
def test_a_text_that_would_keep_the_service_busy_is_refused_at_once(content: bytes, message: str) -> None:
    assert [mistake.message for mistake in refused(content).mistakes] == [message]


def test_thousands_of_mistakes_cost_no_more_than_reading_them() -> None:
    """As many keys as there may be: comparing each with each would take minutes."""
    found = refused("\n".join(f"k{number}: 1" for number in range(VALUE_LIMIT // 2)).encode())
    assert len(found.mistakes) == MISTAKES


# ------------------------------------------------------------------------------------------------------ what is known


class Seen:
    """Rows of the ledger, and listings of sources, as values."""

    def __init__(
        self,
        *,
        rows: Sequence[Promotion] = (),
        events: Sequence[EventRecord] = (),
        listed: Mapping[str, Sequence[ListedVersion]] | None = None,
        fault: PromotionError | None = None,
    ) -> None:
        self._rows, self._events, self._listed, self._fault = rows, events, listed or {}, fault
        self.requests = 0

    def promotions(self, *, limit: int = 100) -> tuple[Promotion, ...]:
        return tuple(self._rows[:limit])

    def events(self, *, limit: int = 100) -> tuple[EventRecord, ...]:
        return tuple(self._events[:limit])

    def model_names(self, workspace: WorkspaceId) -> tuple[str, ...]:
        return tuple(self._asked(workspace))

    def versions(self, workspace: WorkspaceId, name: str) -> tuple[ListedVersion, ...]:
        return tuple(self._asked(workspace).get(name, ()))

    def _asked(self, workspace: WorkspaceId) -> Mapping[str, Sequence[ListedVersion]]:
        assert workspace == DEV, "only the sources of the policy in force are looked into"
        self.requests += 1
        if self._fault is not None:
            raise self._fault
        return self._listed


def listed(name: str, version: str, day: int = 1, **tags: str) -> ListedVersion:
    at = NOON + timedelta(days=day)
    return ListedVersion(name=name, version=version, tags=tags, created_at=at, modified_at=at, modified_by="Ada")


def a_row(model: str, version: str, day: int = 0) -> Promotion:
    command = a_command(model=model, version=version, requested_at=NOON + timedelta(days=day))
    return Promotion.requested(command, now=NOON)


def an_event(subject: str, source: str = DEV.arm_id, day: int = 0) -> EventRecord:
    return EventRecord(
        event_id=subject,
        event_type="x.ModelRegistered",
        source=source,
        subject=subject,
        outcome=EventOutcome.IGNORED,
        received_at=NOON + timedelta(days=day),
    )


def known(seen: Seen, content: bytes = POLICY) -> tuple[dict[str, KnownModel], list[str]]:
    found = ModelFinder(policy=parse(POLICY).policy, ledger=seen, listings=lambda: seen).known(parse(content).policy)
    return {each.model: each for each in found.models}, found.notes


def test_models_are_known_from_promotions_events_and_listings() -> None:
    seen = Seen(
        rows=[a_row("promoted", "2")],
        events=[an_event("models/ignored:4"), an_event("models/../x:5"), an_event("runs/7"), an_event("models/e:1", "x")],
        listed={"listed": [listed("listed", "1"), listed("listed", "10", day=3, team="risk"), listed("listed", "9", day=2)]},
    )  # fmt: skip
    models, notes = known(seen)
    assert {name: each.version for name, each in models.items()} == {
        "promoted": "2",
        "ignored": "4",
        "listed": "10",
    }
    assert models["listed"].tags == {"team": "risk"}
    assert models["promoted"].tags is None, "it is listed no more"
    assert notes == []


def test_the_newest_version_counts_and_the_origin_is_that_of_the_version() -> None:
    rows = [a_row("same", "1"), a_row("newer", "1"), a_row("later", "1"), a_row("later", "2", day=1)]
    events = [an_event("models/same:1"), an_event("models/later:3", day=2)]
    seen = Seen(rows=rows, events=events, listed={"same": [listed("same", "1")], "newer": [listed("newer", "2")]})
    models, _ = known(seen)
    assert {name: (each.version, each.origin) for name, each in models.items()} == {
        "same": ("1", Origin.NOTEBOOK),
        "newer": ("2", None),
        "later": ("3", None),
    }


def test_what_a_promotion_has_put_into_a_source_is_no_model_of_its_own() -> None:
    put = {"promotion-source": "x", "promotion-manifest": "y"}
    copy = listed("copy", "1").model_copy(update={"tags": put})
    assert known(Seen(listed={"copy": [copy]}))[0] == {}


def test_only_models_that_a_rule_can_be_about_are_looked_at() -> None:
    seen = Seen(listed={name: [listed(name, "1")] for name in ("churn-1", "churn-2", "fraud")})
    models, _ = known(seen, a_policy("{model: 'churn-*'}"))
    assert (set(models), seen.requests) == ({"churn-1", "churn-2"}, 1 + 2)


def test_requests_are_bounded_and_what_is_left_out_is_told() -> None:
    rows = [a_row(f"seen-{number}", "1", day=number) for number in range(LOOKED_AT + 5)]
    seen = Seen(rows=rows, listed={f"listed-{number}": [listed("x", "1")] for number in range(7)})
    models, notes = known(seen)
    assert seen.requests == 1 + LOOKED_AT
    assert set(models) == {row.model for row in rows}, "those that were seen are judged by their names"
    assert notes == [f"7 models more are listed in the sources; {LOOKED_AT} were looked at"]


def test_without_the_source_the_ledger_is_what_is_known() -> None:
    models, notes = known(Seen(rows=[a_row("promoted", "2")], fault=Transient("dev is busy")))
    assert {name: each.version for name, each in models.items()} == {"promoted": "2"}
    assert notes == [
        "the models of dev cannot be listed now: dev is busy",
        "the versions of promoted cannot be listed now: dev is busy",
    ]


def test_a_workspace_that_is_no_source_yet_is_not_looked_into() -> None:
    new = a_policy_with("  dev:\n", f"  new:\n    {TEST.model_dump_json()}\n  dev:\n")
    models, notes = known(Seen(listed={"churn": [listed("churn", "1")]}), new)
    assert (set(models), notes) == ({"churn"}, ["source new is new: its models are not looked at"])
