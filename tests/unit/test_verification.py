"""What answers are held against: recorded ones, those of the live version, a latency."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from core.errors import Reason
from core.ledger import Decision
from core.outcomes import Done, Parked, Refused
from core.ports import Deployment
from core.stages import Golden, Latency, Verification
from core.verification import Answered, UnreadableCases, Verdict, cases, differences, judged
from tests.unit.builders import a_command, a_stage, a_wanted, an_approval
from tests.unit.world import World, end

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(JSON)
def test_every_answer_is_equal_to_itself(answer: Any) -> None:
    assert [*differences(answer, answer, 0.0)] == []


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=5), st.floats(1e-9, 0.1))
def test_numbers_may_differ_by_the_tolerance_and_no_more(numbers: list[float], tolerance: float) -> None:
    near = [number * (1 + tolerance / 2) for number in numbers]
    far = [number * (1 + 4 * tolerance) + 4 * tolerance for number in (abs(number) for number in numbers)]
    assert [*differences(near, numbers, tolerance)] == []
    assert len([*differences(far, [abs(number) for number in numbers], tolerance)]) == len(numbers)


@pytest.mark.parametrize(
    ("found", "wanted", "told"),
    [
        ([1, 2], [1, 2.0], []),
        ([1, 2], [1, 3], ["answer[1] is 2, not 3"]),
        ([1], [1, 3], ["answer has 1 entries, not 2"]),
        ({"a": 1}, {"b": 1}, ["answer.b is missing", "answer.a is unexpected"]),
        ({"a": ["x"]}, {"a": ["y"]}, ["answer.a[0] is 'x', not 'y'"]),
        ([True], [1], ["answer[0] is True, not 1"]),
        (None, 0, ["answer is None, not 0"]),
        ("1", 1, ["answer is '1', not 1"]),
    ],
)
def test_where_answers_differ_is_told(found: Any, wanted: Any, told: list[str]) -> None:
    assert [*differences(found, wanted, 1e-6)] == told


OK = Answered(0.1, [1.0], reference=[1.0], has_reference=True)
EXPECTED = Verification(golden=Golden())


@pytest.mark.parametrize(
    ("verification", "answers", "failed", "doubt"),
    [
        (EXPECTED, [OK, OK], None, None),
        (EXPECTED, [], None, "there is no request to verify it with"),
        (
            EXPECTED,
            [OK, replace(OK, problem="500: boom")],
            "1 of 2 answers are wrong: 500: boom",
            None,
        ),
        (EXPECTED, [OK, replace(OK, answer=[2.0])], "1 of 2 answers differ: answer[0] is 2.0, not 1.0", None),
        (Verification(golden=Golden(allowed_differences=1)), [OK, replace(OK, answer=[2.0])], None, None),
        (Verification(golden=Golden(tolerance=2.0)), [replace(OK, answer=[2.0])], None, None),
        (EXPECTED, [OK, Answered(0.1, [1.0])], None, "1 of 2 requests have no recorded answer to compare with"),
        (
            Verification(golden=Golden(compare_with="live")),
            [Answered(0.1, [1.0])],
            None,
            "1 of 1 requests have no answer of the live version to compare with",
        ),
        (Verification(), [replace(OK, answer=[2.0])], None, None),
        (Verification(latency=Latency(percentile=50, below="100ms")), [OK, OK, replace(OK, seconds=9)], None, None),
        (
            Verification(latency=Latency(percentile=99, below="100ms")),
            [OK, OK, replace(OK, seconds=9)],
            "P99 is 9000 ms, more than 100ms",
            None,
        ),
    ],
)
def test_a_verdict_follows_from_the_answers(
    verification: Verification, answers: list[Answered], failed: str | None, doubt: str | None
) -> None:
    verdict = judged(verification, answers, len(answers))
    assert (verdict.failed, verdict.doubt) == (failed, doubt)


def test_a_file_has_a_case_in_each_line() -> None:
    first, second = cases('{"request": [1], "expected": [2]}\n\n{"request": [3]}\n')
    assert (first.request, first.expected, first.is_recorded) == ([1], [2], True)
    assert (second.request, second.is_recorded) == ([3], False)
    for text, told in (("nonsense", "line 1 is no JSON"), ("[1]", "line 1 is no object with `request`")):
        with pytest.raises(UnreadableCases, match=told):
            cases(text)


@pytest.mark.parametrize("file", ["../other.jsonl", "/etc/passwd", "a.csv", "a/../b.jsonl", "{model}.jsonl"])
def test_a_file_of_the_model_stays_in_its_folder(file: str) -> None:
    with pytest.raises(ValidationError):
        Verification(model_file=file)


@pytest.mark.parametrize("file", ["../other.jsonl", "/etc/passwd", "a.csv", "{other}.jsonl", "a/../b.jsonl"])
def test_a_file_stays_in_its_datastore(file: str) -> None:
    with pytest.raises(ValidationError):
        Verification(file=file)


@pytest.mark.parametrize(
    ("verdict", "outcome", "reason"),
    [
        (Verdict("2 of 2 requests answered"), Done, None),
        (Verdict("2 of 2", failed="1 of 2 answers differ"), Refused, Reason.VERIFICATION_FAILED),
        (Verdict("0 of 0", doubt="no file"), Parked, Reason.VERIFICATION_INCONCLUSIVE),
    ],
)
def test_what_is_not_verified_gets_no_traffic(verdict: Verdict, outcome: type, reason: Reason | None) -> None:
    wanted = a_wanted(a_command(stages=(a_stage(verification=Verification()),)))
    world = World(verdict=verdict)
    found = end(world, wanted)
    assert isinstance(found, outcome)
    assert getattr(found, "reason", None) == reason
    assert world.endpoint is not None
    assert world.endpoint.traffic == ({wanted.command.deployment: 100} if reason is None else {})
    assert [each.name for each in world.deployments.values() if isinstance(each, Deployment)] == [
        wanted.command.deployment
    ]


@pytest.mark.parametrize(
    ("decision", "question", "attempt", "outcome"),
    [
        (Decision.APPROVED, "verification", 1, Done),
        (Decision.REJECTED, "verification", 1, Refused),
        (Decision.APPROVED, "analysis at 20 %", 1, Parked),
        (Decision.APPROVED, "", 1, Parked),
        (Decision.APPROVED, "verification", 2, Parked),
    ],
)
def test_in_doubt_somebody_decides(decision: Decision, question: str, attempt: int, outcome: type) -> None:
    command = a_command(stages=(a_stage(verification=Verification()),))
    said = an_approval(command, decision, question, attempt=attempt)
    world = World(verdict=Verdict("0 of 0", doubt="no file"))
    found = end(world, replace(a_wanted(command), approvals=(said,)))
    assert isinstance(found, outcome)
    if isinstance(found, Refused):
        assert (found.reason, found.why) == (Reason.REJECTED, f"Ada rejected deployment {command.deployment}: odd")
    if isinstance(found, Parked):
        assert found.question == "verification"
    assert world.endpoint is not None
    assert world.endpoint.traffic == ({command.deployment: 100} if outcome is Done else {})
