"""Event Grid's events as facts: both schemas, both casings, and everything that is refused."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import Reason, Refusal
from core.events import Fact, ModelRegistered, RunEnded, WorkspaceId, parse
from tests.unit.builders import DEV, NOON

PREFIX = "Microsoft.MachineLearningServices."
RUN = "AutoML_ad912b2d-6467-4f32-a616-dbe4af6dd8fc_5"
EXPERIMENT = "0fa9dfaa-cba3-4fa7-b590-23e48548f5c1"


def registered(**changes: Any) -> dict[str, Any]:
    """A model registered, in Event Grid's schema; keys that are set to `...` are left out."""
    data = {"ModelName": "churn", "ModelVersion": 3, "ModelTags": {"area": "sales"}, "ModelProperties": {}}
    return _without(
        {
            "id": "831e1650",
            "topic": DEV.arm_id,
            "subject": "models/churn:3",
            "eventType": f"{PREFIX}ModelRegistered",
            "eventTime": NOON,
            "data": data,
        }
        | changes
    )


def run_ended(**changes: Any) -> dict[str, Any]:
    """A run that completed, as CloudEvent."""
    data: dict[str, Any] = {
        "experimentId": EXPERIMENT,
        "runId": RUN,
        "runType": None,
        "runTags": {},
        "runProperties": {},
    }
    return _without(
        {
            "id": "831e1651",
            "source": DEV.arm_id,
            "subject": f"experiments/{EXPERIMENT}/runs/{RUN}",
            "type": f"{PREFIX}RunCompleted",
            "time": NOON,
            "data": data,
        }
        | changes
    )


def _without(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not ...}


def churn(version: str = "3", **changes: Any) -> ModelRegistered:
    return ModelRegistered.model_validate(
        {"event_id": "831e1650", "source": DEV, "model": "churn", "version": version, "time": NOON} | changes
    )


def the_run(*, completed: bool = True) -> RunEnded:
    return RunEnded(event_id="831e1651", source=DEV, run_id=RUN, completed=completed, time=NOON)


def refusal(envelope: dict[str, Any]) -> Refusal:
    with pytest.raises(Refusal) as caught:
        parse(envelope)
    return caught.value


AS_CLOUD_EVENT = {"topic": ..., "eventType": ..., "eventTime": ..., "source": DEV.arm_id, "time": NOON}


@pytest.mark.parametrize(
    ("envelope", "expected"),
    [
        pytest.param(registered(), churn(), id="Event Grid's schema, keys in PascalCase"),
        pytest.param(
            registered(**AS_CLOUD_EVENT, type=f"{PREFIX}ModelRegistered"), churn(), id="CloudEvents, keys in PascalCase"
        ),
        pytest.param(
            registered(data={"modelName": "churn", "modelVersion": 3}), churn(), id="keys in camelCase, as specified"
        ),
        pytest.param(registered(data={"MODELNAME": "churn", "modelversion": "3"}), churn(), id="keys in any case"),
        pytest.param(registered(eventTime=...), churn(time=None), id="without time"),
        pytest.param(registered(eventTime="2026-03-04"), churn(time=None), id="a time that the worker did not read"),
        pytest.param(registered(dataVersion="", unheardOf=[1]), churn(), id="more fields than we know"),
        pytest.param(
            registered(data={"ModelName": "churn", "ModelVersion": 3, "modelStage": "x"}), churn(), id="more data"
        ),
        pytest.param(registered(topic=f"{DEV.arm_id}/"), churn(), id="a topic that ends in a slash"),
        pytest.param(run_ended(), the_run(), id="a run completed"),
        pytest.param(
            run_ended(type=f"{PREFIX}RunStatusChanged"),
            the_run(completed=False),
            id="a status that changed is a failure",
        ),
        pytest.param(run_ended(data={"RunId": RUN}), the_run(), id="a run in PascalCase"),
        pytest.param(
            run_ended(
                data={
                    "runId": RUN,
                    "experimentName": "regression",
                    "runTags": {"a": "b", "n": 1},
                    "RunProperties": {"runTemplate": "automl_child", "iteration": "5"},
                }
            ),
            the_run().model_copy(
                update={
                    "experiment": "regression",
                    "tags": {"a": "b"},
                    "properties": {"runTemplate": "automl_child", "iteration": "5"},
                }
            ),
            id="a trial of Automated ML, with what it tells of itself",
        ),
        pytest.param(
            run_ended(data={"runId": RUN, "experimentName": 5, "runTags": None, "runProperties": ["x"]}),
            the_run(),
            id="hints that are none",
        ),
        pytest.param(run_ended(data={}), the_run(), id="the run's id from the subject"),
        pytest.param(run_ended(data=None), the_run(), id="a run without data"),
    ],
)
def test_an_event_becomes_a_fact(envelope: dict[str, Any], expected: Fact) -> None:
    assert parse(envelope) == expected


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        (20, "20"),
        (20.0, "20"),
        (1.5, "1.5"),
        ("20", "20"),
        ("1.0.0-rc.1", "1.0.0-rc.1"),
        ("2026-03-04", "2026-03-04"),
        (0, "0"),
    ],
)
def test_a_version_is_text_however_it_was_sent(version: object, expected: str) -> None:
    """JSON knows no integers: what was an integer somewhere may come as a float."""
    envelope = registered(data={"ModelName": "churn", "ModelVersion": version})
    assert parse(envelope) == churn(version=expected)


@pytest.mark.parametrize(
    ("subject", "data"),
    [
        ("models/churn:3", {}),
        ("models/churn:3", None),
        ("models/churn:3", "text"),
        ("models/churn:3", ["list"]),
        ("models/churn:3", {"ModelName": None, "ModelVersion": None}),
        ("models/churn:3", {"ModelName": "", "ModelVersion": ""}),
        ("models/churn:3", {"ModelName": "churn"}),
        ("models/churn:3", {"ModelVersion": "3"}),
    ],
)
def test_the_subject_has_what_the_data_lacks(subject: str, data: object) -> None:
    assert parse(registered(subject=subject, data=data)) == churn()


def test_a_subject_without_version_gives_none() -> None:
    """The name must not be taken for the version."""
    problem = refusal(registered(subject="models/churn", data={"ModelName": "churn"}))
    assert (problem.reason, str(problem)) == (Reason.EVENT_MALFORMED, "the event has no modelVersion")


def test_the_last_colon_of_a_subject_divides_name_from_version() -> None:
    problem = refusal(registered(subject="models/odd:name:3", data={}))
    assert str(problem) == "modelName 'odd:name' is no valid Azure ML name"


PATH_TRICKS = [
    "../x",
    "..",
    ".hidden",
    "a/b",
    "a\\b",
    "a?x=1",
    "a#b",
    "a%2fb",
    "a b",
    "a\nb",
    "churn\n",
    "a\x00b",
    "a:b",
    "-a",
    "_a",
    "modèle",
    "模型",
    "a" * 256,
    " ",
]


@pytest.mark.parametrize("name", PATH_TRICKS)
def test_a_name_that_could_bend_a_url_is_refused(name: str) -> None:
    problem = refusal(registered(data={"ModelName": name, "ModelVersion": 3}))
    assert (problem.reason, "modelName" in str(problem)) == (Reason.EVENT_MALFORMED, True)


@pytest.mark.parametrize("version", [*PATH_TRICKS, True, False, [3], {"a": 1}, -1, 1e300])
def test_a_version_that_could_bend_a_url_is_refused(version: object) -> None:
    envelope = registered(data={"ModelName": "churn", "ModelVersion": version})
    problem = refusal(envelope)
    assert (problem.reason, "modelVersion" in str(problem)) == (Reason.EVENT_MALFORMED, True)


@pytest.mark.parametrize("run_id", ["../x", "a/b", "a?b", "a\nb", "a" * 256, 5, ["x"], {}])
def test_a_run_id_that_could_bend_a_url_is_refused(run_id: object) -> None:
    problem = refusal(run_ended(subject="somewhere/else", data={"runId": run_id}))
    assert (problem.reason, str(problem)) == (Reason.EVENT_MALFORMED, "the event has no valid runId")


@pytest.mark.parametrize("name", ["a", "churn", "Churn_2.0-final", "0", "a" * 255])
def test_names_that_azure_ml_allows_are_taken(name: str) -> None:
    assert parse(registered(data={"ModelName": name, "ModelVersion": 3})) == churn(model=name)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"id": ...}, "the event has no id"),
        ({"id": None}, "the event has no id"),
        ({"id": 7}, "the event has no id"),
        ({"subject": ...}, "the event has no subject"),
        ({"subject": "  "}, "the event has no subject"),
        ({"topic": ...}, "the event has no topic or source"),
        ({"eventType": ...}, "the event has no eventtype or type"),
        ({"eventType": None}, "the event has no eventtype or type"),
        ({"subject": ":", "data": {}}, "the event has no modelName"),
        ({"subject": "models/:3", "data": {}}, "the event has no modelName"),
        ({"data": {"ModelName": 5, "ModelVersion": 3}}, "the event has no modelName"),
    ],
)
def test_what_is_missing_is_named(changes: dict[str, Any], expected: str) -> None:
    problem = refusal(registered(**changes))
    assert (problem.reason, str(problem)) == (Reason.EVENT_MALFORMED, expected)


@pytest.mark.parametrize(
    "topic",
    [
        "promotions",
        "/subscriptions/1/resourceGroups/rg/providers/Microsoft.Storage/storageAccounts/acc",
        f"{DEV.arm_id}/models/churn",
        f"https://management.azure.com{DEV.arm_id}",
        "/subscriptions//resourceGroups/rg/providers/Microsoft.MachineLearningServices/workspaces/ws",
    ],
)
def test_a_topic_that_is_no_workspace_is_refused(topic: str) -> None:
    problem = refusal(registered(topic=topic))
    assert (problem.reason, topic[:100] in str(problem)) == (Reason.EVENT_MALFORMED, True)


@pytest.mark.parametrize(
    "event_type",
    [
        "ModelRegistered",
        f"{PREFIX}modelregistered",
        f"{PREFIX}ModelDeployed",
        f"{PREFIX}DatasetDriftDetected",
        "Microsoft.Storage.BlobCreated",
        f"{PREFIX}{PREFIX}ModelRegistered",
    ],
)
def test_other_types_of_events_are_refused_by_name(event_type: str) -> None:
    problem = refusal(registered(eventType=event_type))
    assert (problem.reason, repr(event_type) in str(problem)) == (Reason.EVENT_TYPE_UNKNOWN, True)


def test_an_event_of_another_service_is_refused_for_its_type() -> None:
    """Its topic is no workspace either, but the subscription is what has to be corrected."""
    problem = refusal(registered(topic="/subscriptions/1/storage", eventType="Microsoft.Storage.BlobCreated"))
    assert (problem.reason, "Subscribe to" in problem.remedy) == (Reason.EVENT_TYPE_UNKNOWN, True)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    max_leaves=8,
)
_KEYS = st.sampled_from(
    ["id", "topic", "source", "subject", "eventType", "type", "eventTime", "time", "data", "ModelName", "modelVersion"]
)


@given(
    st.dictionaries(_KEYS, _JSON),
    st.sampled_from([registered(), run_ended()]),
    st.dictionaries(st.sampled_from(["ModelName", "ModelVersion", "runId"]), _JSON),
)
def test_whatever_comes_is_a_fact_or_a_refusal(
    noise: dict[str, Any], envelope: dict[str, Any], data: dict[str, Any]
) -> None:
    """Nothing that a publisher can write raises anything else: that would make Event Grid send it for a day."""
    try:
        fact = parse(envelope | {"data": data} | noise)
    except Refusal as problem:
        assert problem.remedy
        return
    assert json.loads(fact.model_dump_json())["source"] == DEV.model_dump()


class TestWorkspaceId:
    @pytest.mark.parametrize(
        "arm_id",
        [DEV.arm_id, DEV.arm_id.lower(), DEV.arm_id.upper(), DEV.arm_id.replace("resourceGroups", "resourcegroups")],
    )
    def test_two_spellings_of_a_workspace_have_one_key(self, arm_id: str) -> None:
        assert WorkspaceId.parse(arm_id).key == DEV.key

    def test_its_arm_id_is_read_back(self) -> None:
        assert WorkspaceId.parse(DEV.arm_id) == DEV


class TestSubjects:
    def test_of_a_model(self) -> None:
        assert churn().subject == "models/churn:3"

    def test_of_a_run(self) -> None:
        assert the_run().subject == f"runs/{RUN}"
