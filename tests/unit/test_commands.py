"""Commands on the queue: their codec, and the ids and names that make repeats harmless."""

import json
import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import tags
from core.commands import (
    MESSAGE_LIMIT,
    Generation,
    Operation,
    Phase,
    PromoteModel,
    decode,
    path_id,
    promotion_id,
    session_id,
)
from core.errors import UndecodableMessage
from core.events import WorkspaceId
from core.origin import Origin
from core.stages import RealtimeStage, RequestSettings
from tests.unit.builders import DEV, NOON, PROD, TEST, a_command, a_stage

# Names as Azure ML allows them, and times as its services write them.
_NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}", fullmatch=True)
_TIMES = st.datetimes(
    datetime(2015, 1, 1),
    datetime(2100, 1, 1),
    timezones=st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes))),
)
_COUNTS = st.integers(0, 10**6)
_TEXTS = st.text(max_size=30)
_STAGES = st.builds(
    RealtimeStage,
    target=st.sampled_from(["prod", "test"]),
    serve=st.just("realtime"),
    endpoint=st.sampled_from(["{model}", "{model}-prod", "shared"]),
    target_model_name=st.none() | _NAMES,
    instance_count=st.integers(1, 20),
    request_settings=st.none() | st.builds(RequestSettings, request_timeout_ms=st.integers(1, 180_000)),
    environment_variables=st.dictionaries(_TEXTS, _TEXTS, max_size=3),
    adopt=st.booleans(),
)


@st.composite
def commands(draw: st.DrawFn) -> PromoteModel:
    stages = draw(st.lists(_STAGES, min_size=1, max_size=3))
    changes = {
        "model": draw(_NAMES),
        "version": draw(_NAMES),
        "model_created_at": draw(_TIMES),
        "origin": draw(st.sampled_from(list(Origin))),
        "requested_by": draw(_TEXTS),
        "rule": draw(_TEXTS),
        "stages": tuple(stages),
        "stage_number": draw(st.integers(0, len(stages) - 1)),
        "attempt": draw(st.integers(1, 99)),
        "hop": draw(_COUNTS),
        "operation": draw(st.none() | st.builds(Operation, url=_TEXTS, retry_after=st.none() | st.floats(0, 1e6))),
        "phase": draw(st.none() | st.sampled_from(list(Phase))),
        "phase_since": draw(st.none() | _TIMES),
    }
    return a_command(**changes)


# ---------------------------------------------------------------------------------------------------------------- codec


@given(commands())
def test_a_command_is_read_back_as_it_was(command: PromoteModel) -> None:
    assert decode(command.encode()) == command


@given(commands())
def test_nothing_that_names_a_command_changes_on_its_way(command: PromoteModel) -> None:
    read = decode(command.encode())
    assert isinstance(read, PromoteModel)
    assert (read.deployment, read.session_id, read.message_id, read.generation) == (
        command.deployment,
        command.session_id,
        command.message_id,
        command.generation,
    )


def changed(**changes: Any) -> bytes:
    """The message of a command with these keys set, or left out if they are `...`."""
    values = json.loads(a_command().encode()) | changes
    return json.dumps({key: value for key, value in values.items() if value is not ...}).encode()


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", "body: Invalid JSON"),
        (b"\xff", "body: Invalid JSON"),
        (b"null", "body: Input should be an object"),
        (b"[]", "body: Input should be an object"),
        (b"{}", "promotion_id: Field required"),
        (changed(kind="roll_back"), "kind: Input should be 'promote_model'"),
        (changed(schema_version=2), "schema_version: Input should be 1"),
        (changed(promotion_id=...), "promotion_id: Field required"),
        (changed(surprise=1), "surprise: Extra inputs are not permitted"),
        (changed(origin="magic"), "origin: Input should be 'designer', 'notebook' or 'automl'"),
        (changed(model_created_at="2026-03-04T12:00:00"), "model_created_at: Input should have timezone info"),
        (changed(stages=[]), "stages: Tuple should have at least 1 item"),
        (changed(hop=-1), "hop: Input should be greater than or equal to 0"),
        (changed(attempt=0), "attempt: Input should be greater than or equal to 1"),
        (changed(stage_number=-1), "stage_number: Input should be greater than or equal to 0"),
        (changed(stage_number=1), "it has no stage number 1"),
        (changed(targets={}), "it does not say where target 'prod' is"),
        (
            changed(stages=[{"target": "prod", "serve": "realtime"}, {"target": "moon", "serve": "realtime"}]),
            "it does not say where target 'moon' is",
        ),
    ],
)
def test_what_is_no_command_says_why(body: bytes, expected: str) -> None:
    with pytest.raises(UndecodableMessage) as caught:
        decode(body)
    assert str(caught.value).startswith(f"no promotion command: {expected}")


@given(st.binary(max_size=200))
def test_no_body_whatsoever_makes_the_codec_crash(body: bytes) -> None:
    with pytest.raises(UndecodableMessage):
        decode(body)


def test_a_message_leaves_room_for_what_its_hops_add() -> None:
    """The row of the ledger takes 32 Ki characters."""
    since = {"phase": Phase.ARTIFACTS, "phase_since": NOON, "hop": 10**9, "faults": 5, "transients": 10**9}
    operation = Operation(url="https://management.azure.com/" + "x" * 1500, retry_after=1e6)
    later = a_command().model_copy(update=since | {"operation": operation})
    assert len(later.encode()) - len(a_command().encode()) < 32 * 1024 - MESSAGE_LIMIT


# ------------------------------------------------------------------------------------------------------------------ ids


@given(_NAMES, _NAMES, st.text(max_size=100), st.integers(0, 9))
def test_a_promotion_id_is_fit_for_a_table_a_url_and_a_tag(model: str, version: str, rule: str, stage: int) -> None:
    found = promotion_id(path_id(DEV, model, version, rule), stage)
    assert (re.fullmatch(r"[A-Za-z0-9._-]{1,128}", found) is not None, found) == (True, found)


def test_a_promotion_id_is_readable() -> None:
    assert re.sub("[0-9a-f]{10}", "DIGEST", a_command().promotion_id) == "churn-3-DIGEST-1"


def test_the_path_of_a_promotion_stands_before_the_last_hyphen() -> None:
    path = path_id(DEV, "a-b", "1-2", "rule")
    assert [promotion_id(path, number).rpartition("-") for number in (0, 1)] == [(path, "-", "1"), (path, "-", "2")]


SHOUTED = WorkspaceId.parse(DEV.arm_id.upper())


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (path_id(SHOUTED, "churn", "3", "everything"), True),
        (path_id(PROD, "churn", "3", "everything"), False),
        (path_id(DEV, "Churn", "3", "everything"), False),
        (path_id(DEV, "churn", "4", "everything"), False),
        (path_id(DEV, "churn", "3", "something"), False),
        (path_id(DEV, "churn-3", "", "everything"), False),
        (path_id(DEV, "churn" + "x" * 60, "3", "everything"), False),
    ],
)
def test_one_path_for_one_version_under_one_rule(other: str, same: bool) -> None:
    assert (path_id(DEV, "churn", "3", "everything") == other) is same


@given(commands())
def test_the_message_id_is_new_for_each_hop(command: PromoteModel) -> None:
    following = command.model_copy(update={"hop": command.hop + 1})
    assert (following.message_id == command.message_id, len(command.message_id) <= 128) == (False, True)


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (session_id(PROD, "online", "churn"), True),
        (session_id(WorkspaceId.parse(PROD.arm_id.upper()), "online", "CHURN"), True),
        (session_id(TEST, "online", "churn"), False),
        (session_id(PROD, "batch", "churn"), False),
        (session_id(PROD, "online", "churn-2"), False),
    ],
)
def test_one_session_for_one_endpoint(other: str, same: bool) -> None:
    assert (a_command().session_id == other) is same


def test_all_promotions_of_one_endpoint_are_in_one_session() -> None:
    """Whatever they promote: an endpoint has one writer at a time."""
    shared = (a_stage(endpoint="shared"),)
    assert a_command(model="a", stages=shared).session_id == a_command(model="b", stages=shared).session_id


# ----------------------------------------------------------------------------------------------------------- deployment


@given(commands())
def test_a_deployment_has_a_name_that_azure_takes(command: PromoteModel) -> None:
    """3 to 32 letters, digits and hyphens, from a letter to a letter or digit."""
    name = command.deployment
    assert (re.fullmatch(r"[a-z][a-z0-9-]{1,30}[a-z0-9]", name) is not None, name) == (True, name)


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("3", "v3-"),
        ("1.0.0", "v1-0-0-"),
        ("2026-03-04", "v2026-03-04-"),
        ("RC_1", "vrc-1-"),
        ("9" * 40, f"v{'9' * 20}-"),
    ],
)
def test_a_deployment_is_recognised_by_its_version(version: str, expected: str) -> None:
    assert a_command(version=version).deployment[:-8] == expected


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "other"},
        {"version": "4"},
        {"source": TEST},
        {"manifest_digest": "0" * 64},
        {"recipe_digest": "0" * 64},
        {"stages": (a_stage(instance_type="Standard_F4s_v2"),)},
        {"stages": (a_stage(instance_count=2),)},
        {"stages": (a_stage(environment_variables={"A": "1"}),)},
        {"stages": (a_stage(request_settings=RequestSettings(request_timeout_ms=1)),)},
        {"stages": (a_stage(target_model_name="other"),)},
    ],
)
def test_other_content_or_serving_is_another_deployment(changes: dict[str, Any]) -> None:
    assert a_command(**changes).deployment != a_command().deployment


@pytest.mark.parametrize(
    "changes",
    [
        {"hop": 7},
        {"attempt": 2},
        {"requested_by": "somebody else"},
        {"policy_digest": "0" * 64},
        {"source": WorkspaceId.parse(DEV.arm_id.upper())},
        {"stages": (a_stage(deadlines={"deploy": "2h"}),)},
        {"stages": (a_stage(adopt=True),)},
    ],
)
def test_a_repeat_finds_its_deployment(changes: dict[str, Any]) -> None:
    assert a_command(**changes).deployment == a_command().deployment


# ----------------------------------------------------------------------------------------------------------- generation

_GENERATIONS = st.builds(Generation, time=_TIMES, promotion_id=_TEXTS)


@given(_GENERATIONS)
def test_a_generation_is_read_back_from_its_tag(generation: Generation) -> None:
    assert Generation.parse(str(generation)) == generation


@given(_GENERATIONS, _GENERATIONS)
def test_of_two_generations_exactly_one_is_newer(one: Generation, other: Generation) -> None:
    newer = (one.is_newer_than(other), other.is_newer_than(one))
    same = (one.time, one.promotion_id) == (other.time, other.promotion_id)
    assert sorted(newer) == ([False, False] if same else [False, True])


def test_the_later_version_is_the_newer_generation() -> None:
    later = a_command(version="4", model_created_at=NOON + timedelta(microseconds=1))
    assert (later.generation.is_newer_than(a_command().generation), later.generation.time.tzinfo) == (True, UTC)


# ----------------------------------------------------------------------------------------------------------------- tags


@given(commands())
def test_what_we_write_in_tags_is_read_back_and_fits(command: PromoteModel) -> None:
    """Azure allows 256 characters in a value."""
    written = tags.claim(command) | tags.deployment(command)
    assert (
        tags.generation(written),
        tags.attempt(written),
        tags.is_copy(written),
        tags.is_copy_of(written, command),
    ) == (
        command.generation,
        command.attempt,
        True,
        True,
    )
    assert max(map(len, written.values())) <= tags.VALUE_LIMIT


@pytest.mark.parametrize("key", [tags.SOURCE, tags.MODEL, tags.VERSION, tags.MANIFEST])
def test_a_copy_of_something_else_is_told_apart(key: str) -> None:
    command = a_command()
    assert tags.is_copy_of(tags.provenance(command) | {key: "other"}, command) is False


def test_a_copy_is_one_whichever_promotion_made_it() -> None:
    """Two stages may share a workspace, and with it the copy."""
    command = a_command()
    assert tags.is_copy_of(tags.provenance(command) | {tags.PROMOTION: "other"}, command) is True


@pytest.mark.parametrize(
    "text",
    ["", "yesterday", "2026-03-04T12:00:00|churn-3-1", "|churn-3-1", "2026-13-04T12:00:00+00:00|x", "9" * 256],
)
def test_an_edited_generation_is_none(text: str) -> None:
    """So the endpoint counts as somebody else's until it is adopted."""
    assert tags.generation({tags.GENERATION: text}) is None


@pytest.mark.parametrize(("text", "expected"), [("2", 2), ("", 0), ("-1", 0), ("two", 0), ("²", 0), ("1.5", 0)])
def test_an_edited_attempt_is_the_lowest(text: str, expected: int) -> None:
    assert tags.attempt({tags.ATTEMPT: text}) == expected


@pytest.mark.parametrize(
    ("found", "expected"),
    [({}, False), ({"team": "x"}, False), ({tags.SOURCE: "s"}, False), ({tags.SOURCE: "s", tags.MANIFEST: "m"}, True)],
)
def test_models_that_a_promotion_made_are_known(found: dict[str, str], expected: bool) -> None:
    assert tags.is_copy(found) is expected
