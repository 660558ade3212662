"""Whether a new deployment answers as it should, before it gets traffic: requests, their answers, and what is wrong. Pure.

Requests come from the policy or from a file of JSON lines in the target; without either, it is the model's own sample that
the smoke request (`realtime`) asks with. Answers are held against a schema, against predictions that were recorded, or against
those of the version that is live.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core.stages import Verification

# Bounded, since all requests are asked in one delivery.
MOST_REQUESTS, MOST_SECONDS, SHOWN = 100, 40.0, 3
FILE_LIMIT = 1_000_000


@dataclass(frozen=True)
class Case:
    """One request, and the answer that was recorded for it."""

    request: Any
    expected: Any = None
    is_recorded: bool = False


@dataclass(frozen=True)
class Answered:
    """What the new deployment made of a case: `problem` if it was no answer at all or violates the schema.

    `reference` is what it is held against, None if that could not be had.
    """

    seconds: float
    answer: Any = None
    problem: str | None = None
    reference: Any = None
    has_reference: bool = False


@dataclass(frozen=True)
class Verdict:
    """What came of all cases. `failed` says what is wrong, `doubt` why nobody can tell."""

    summary: str
    failed: str | None = None
    doubt: str | None = None


class UnreadableCases(ValueError):
    """A file of requests that is none; the text names the line."""


def inline(verification: Verification) -> tuple[Case, ...]:
    return tuple(
        Case(each.request, each.expected, is_recorded="expected" in each.model_fields_set)
        for each in verification.requests[:MOST_REQUESTS]
    )


def cases(text: str) -> tuple[Case, ...]:
    """The cases in a file: each line an object with `request` and, where it was recorded, `expected`."""
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            given = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UnreadableCases(f"line {number} is no JSON: {error}") from None
        if not isinstance(given, Mapping) or "request" not in given:
            raise UnreadableCases(f"line {number} is no object with `request`")
        found.append(Case(given["request"], given.get("expected"), is_recorded="expected" in given))
    return tuple(found[:MOST_REQUESTS])


def judged(verification: Verification, answers: Sequence[Answered], asked: int) -> Verdict:
    """The verdict on the answers to the cases; `asked` is how many cases there are."""
    summary = f"{len(answers)} of {asked} requests answered"
    if not answers:
        return Verdict(summary, doubt="there is no request to verify it with")
    times = sorted(each.seconds for each in answers)
    problems = [each.problem for each in answers if each.problem is not None]
    if problems:
        return Verdict(summary, failed=f"{len(problems)} of {len(answers)} answers are wrong: {_first(problems)}")
    if (limit := verification.latency) is not None:
        measured = 1000 * percentile(times, limit.percentile)
        summary += f", P{limit.percentile} {measured:.0f} ms"
        if measured > limit.milliseconds:
            return Verdict(summary, failed=f"P{limit.percentile} is {measured:.0f} ms, more than {limit.below}")
    golden = verification.golden
    if golden is None:
        return Verdict(summary)
    without = sum(not each.has_reference for each in answers)
    if without:
        source = "no recorded answer" if golden.compare_with == "expected" else "no answer of the live version"
        return Verdict(summary, doubt=f"{without} of {len(answers)} requests have {source} to compare with")
    found = [next(differences(each.answer, each.reference, golden.tolerance), None) for each in answers]
    different = [each for each in found if each is not None]
    summary += f", {len(different)} different"
    if len(different) > golden.allowed_differences:
        return Verdict(summary, failed=f"{len(different)} of {len(answers)} answers differ: {_first(different)}")
    return Verdict(summary)


def _first(texts: Sequence[str]) -> str:
    more = f"; and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return "; ".join(each[:200] for each in texts[:SHOWN]) + more


def percentile(ordered: Sequence[float], percent: int) -> float:
    """By nearest rank, of values in ascending order."""
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


def differences(found: Any, wanted: Any, tolerance: float, at: str = "answer") -> Iterator[str]:
    """Where two answers differ, as paths with both values.

    Numbers may differ by `tolerance`, absolute or relative to the larger; NaN equals NaN. Everything else must be equal.
    """
    if _is_number(found) and _is_number(wanted):
        same = math.isclose(found, wanted, rel_tol=tolerance, abs_tol=tolerance)
        if not same and not (math.isnan(found) and math.isnan(wanted)):
            yield f"{at} is {found!r}, not {wanted!r}"
    elif isinstance(found, Mapping) and isinstance(wanted, Mapping):
        for key in [*wanted, *(each for each in found if each not in wanted)]:
            if key not in found or key not in wanted:
                yield f"{at}.{key} is {'missing' if key in wanted else 'unexpected'}"
            else:
                yield from differences(found[key], wanted[key], tolerance, f"{at}.{key}")
    elif isinstance(found, list) and isinstance(wanted, list):
        if len(found) != len(wanted):
            yield f"{at} has {len(found)} entries, not {len(wanted)}"
        for number, (one, other) in enumerate(zip(found, wanted, strict=False)):
            yield from differences(one, other, tolerance, f"{at}[{number}]")
    elif type(found) is not type(wanted) or found != wanted:
        yield f"{at} is {found!r}, not {wanted!r}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
