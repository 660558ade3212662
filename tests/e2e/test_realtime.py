"""From a registered model to predictions in the target, through every real part."""

import threading
from pathlib import Path
from typing import Any

import pytest
import requests

from core.realtime import UNVERIFIED
from tests import models
from tests.local import LocalAzure
from tests.models import Builder, SavedModel


def register(azure: LocalAzure, name: str, saved: SavedModel, **tags: str) -> str:
    """Upload and register with the real SDK, in the source workspace; the version."""
    from azure.ai.ml.entities import Model

    client = azure.ml_client(azure.endpoints["source"])
    model = Model(name=name, path=str(saved.folder), type="mlflow_model", tags=tags)
    return str(client.models.create_or_update(model).version)


def ask(azure: LocalAzure, row: dict[str, Any], request: dict[str, Any]) -> Any:
    """Ask the endpoint of a promotion as its users do, with a key or a token fetched by the SDK."""
    client = azure.ml_client(azure.endpoints["targets"][row["target"]])
    given = client.online_endpoints.get_keys(row["endpoint"])
    bearer = given.access_token if row["result"]["auth_mode"] == "amltoken" else given.primary_key
    answer = requests.post(
        row["result"]["scoring_uri"], json=request, headers={"Authorization": f"Bearer {bearer}"}, timeout=30
    )
    assert answer.status_code == 200, answer.text
    return answer.json()


def steps_of(row: dict[str, Any]) -> list[str]:
    return [step["step"] for step in row["steps"]]


@pytest.mark.parametrize(
    ("name", "build", "verified_with"),
    [
        ("table-model", models.regression_with_example, "input_example.json"),
        ("tensor-model", models.tensor_without_example, UNVERIFIED),
        ("picky-model", models.that_dislikes_made_up_values, UNVERIFIED),
        ("custom-model", models.pyfunc_of_strings, "signature"),
    ],
)
def test_a_registered_model_answers_in_the_target(
    local_azure: LocalAzure, tmp_path: Path, name: str, build: Builder, verified_with: str
) -> None:
    """Whatever MLflow could save is served: tables, tensors, custom Python; with and without an example."""
    saved = build(tmp_path)
    version = register(local_azure, name, saved, **{"promote-to": "prod"})

    row = local_azure.wait_for_end(name, version)

    assert (row["state"], row["why"]) == ("succeeded", "")
    assert row["origin"] == "notebook"
    assert row["result"]["verified_with"] == verified_with
    assert ask(local_azure, row, saved.request) == saved.expected


def test_the_result_tells_how_to_call_the_endpoint(local_azure: LocalAzure, tmp_path: Path) -> None:
    saved = models.regression_with_example(tmp_path)
    version = register(local_azure, "how-to-call", saved, **{"promote-to": "prod"})

    result = local_azure.wait_for_end("how-to-call", version)["result"]

    example = result["example_request"]
    assert result["auth_mode"] == "key"
    assert example["url"] == result["scoring_uri"]
    row = {"target": "prod", "endpoint": result["endpoint"], "result": result}
    assert ask(local_azure, row, example["body"]) == pytest.approx(saved.expected[:1])


def test_the_target_shows_where_everything_comes_from(local_azure: LocalAzure, tmp_path: Path) -> None:
    """Model, endpoint and deployment carry the provenance that docs/contracts/tags.md promises."""
    version = register(local_azure, "provenance", models.regression_with_example(tmp_path), **{"promote-to": "prod"})
    row = local_azure.wait_for_end("provenance", version)
    client = local_azure.ml_client(local_azure.endpoints["targets"]["prod"])

    model = client.models.get("provenance", version)
    endpoint = client.online_endpoints.get("provenance")
    deployment = client.online_deployments.get(row["result"]["deployment"], "provenance")

    assert model.tags["promotion-source"].endswith("/workspaces/ml-dev")
    assert (model.tags["promotion-model"], model.tags["promotion-version"]) == ("provenance", version)
    assert model.tags["promotion-manifest"] == row["manifest_digest"]
    assert endpoint.tags["promotion-id"] == row["id"]
    assert endpoint.tags["promotion-stable-deployment"] == deployment.name
    assert deployment.tags["promotion-recipe"] == row["recipe_digest"]
    assert endpoint.traffic == {deployment.name: 100}


def test_a_copy_that_azure_gives_up_is_made_again(local_azure: LocalAzure, tmp_path: Path) -> None:
    before = max(each["number"] for each in local_azure.control.requests())
    local_azure.control.post("/storage/copies", {"pending_seconds": 0, "outcome": "failed"})
    try:
        saved = models.regression_with_example(tmp_path)
        version = register(local_azure, "copied-twice", saved, **{"promote-to": "prod"})
        removed = {"principal": "promotion-service", "service": "blob", "method": "DELETE"}
        local_azure.wait_for(
            lambda: local_azure.control.requests(before, **removed) or None, what="a copy that is removed"
        )
    finally:
        local_azure.control.post("/storage/copies", {"pending_seconds": None})
    row = local_azure.wait_for_end("copied-twice", version)
    assert (row["state"], row["attempt"]) == ("succeeded", 1)
    assert steps_of(row).count("copy artifacts") >= 2
    assert ask(local_azure, row, saved.request) == saved.expected


def test_a_second_version_takes_over_without_a_failed_request(local_azure: LocalAzure, tmp_path: Path) -> None:
    """Requests flow all the while; each is answered by one version or the other, and the old deployment is gone."""
    first, second = (models.regression_with_example(tmp_path, slope=slope) for slope in (3.0, 5.0))
    version = register(local_azure, "takeover", first, **{"promote-to": "prod"})
    row = local_azure.wait_for_end("takeover", version)
    old = row["result"]["deployment"]

    with Traffic(local_azure, row, first.request) as traffic:
        newer = register(local_azure, "takeover", second, **{"promote-to": "prod"})
        row = local_azure.wait_for_end("takeover", newer)
        traffic.wait_for(second.expected)

    assert traffic.failures == []
    assert {str(answer) for answer in traffic.answers} == {str(first.expected), str(second.expected)}
    deployments = local_azure.ml_client(local_azure.endpoints["targets"]["prod"]).online_deployments.list("takeover")
    assert [found.name for found in deployments] == [row["result"]["deployment"]] != [old]


def test_stages_are_taken_in_order(local_azure: LocalAzure, tmp_path: Path) -> None:
    """Production begins after test has succeeded, in another workspace, and both answer."""
    saved = models.regression_with_example(tmp_path)
    register(local_azure, "staged-model", saved)

    def both() -> list[dict[str, Any]] | None:
        rows = local_azure.promotions_of("staged-model")
        return rows if [row["state"] for row in rows] == ["succeeded"] * 2 else None

    local_azure.wait_for(both, what="both stages")
    rows = sorted((local_azure.promotion(r["id"]) or {} for r in local_azure.promotions_of("staged-model")), key=_id)
    assert [(row["target"], row["endpoint"]) for row in rows] == [
        ("test", "staged-model"),
        ("prod", "staged-model-prod"),
    ]
    assert rows[0]["steps"][-1]["at"] < rows[1]["steps"][0]["at"]
    assert [ask(local_azure, row, saved.request) for row in rows] == [pytest.approx(saved.expected)] * 2


def _id(row: dict[str, Any]) -> str:
    return str(row["id"])


def test_of_two_versions_of_one_endpoint_the_newer_wins(local_azure: LocalAzure, tmp_path: Path) -> None:
    """While the older one is still being deployed, the newer one claims the endpoint; nothing is left of the older."""
    older, newer = (models.regression_with_example(tmp_path, slope=slope) for slope in (3.0, 5.0))
    local_azure.control.put("/azure-ml/durations", {"deployment": 30})
    try:
        register(local_azure, "shared-older", older)

        def is_deploying() -> bool | None:
            rows = local_azure.promotions_of("shared-older")
            return True if rows and "is being created" in rows[0]["why"] else None

        local_azure.wait_for(is_deploying, what="the older version's deployment")
        register(local_azure, "shared-newer", newer)
        local_azure.wait_for(
            lambda: local_azure.promotions_of("shared-newer") or None, what="the newer version's promotion"
        )
    finally:
        local_azure.control.put("/azure-ml/durations", {"deployment": 0})
        local_azure.control.advance(31)

    won, lost = (local_azure.wait_for_end(name) for name in ("shared-newer", "shared-older"))
    assert (won["state"], lost["state"], lost["reason"]) == ("succeeded", "superseded", "superseded")
    client = local_azure.ml_client(local_azure.endpoints["targets"]["prod"])

    def one_is_left() -> bool | None:
        left = [found.name for found in client.online_deployments.list("shared")]
        return True if left == [won["result"]["deployment"]] else None

    local_azure.wait_for(one_is_left, what="the older deployment's end")
    assert ask(local_azure, won, newer.request) == pytest.approx(newer.expected)


def test_an_older_version_never_replaces_a_newer_one(local_azure: LocalAzure, tmp_path: Path) -> None:
    """Events come in any order: the event of version 1, delivered after version 2 is live, changes nothing."""
    saved = models.regression_with_example(tmp_path)
    source = local_azure.endpoints["source"]
    register(local_azure, "disorder", saved)  # no tag: no rule matches, so its event promotes nothing
    register(local_azure, "disorder", models.regression_with_example(tmp_path, slope=5.0), ready="yes")
    won = local_azure.wait_for_end("disorder", "2")

    client = local_azure.ml_client(source)
    first = client.models.get("disorder", "1")
    first.tags["ready"] = "yes"
    client.models.create_or_update(first)
    publish(local_azure, "disorder", "1", event_id="late")

    lost = local_azure.wait_for_end("disorder", "1")
    assert (won["state"], lost["state"]) == ("succeeded", "superseded")
    assert steps_of(lost) == []


def test_events_may_come_many_times(local_azure: LocalAzure, tmp_path: Path) -> None:
    """Duplicates, under one id or several, in either envelope, give one promotion with one write for each effect."""
    before = max((entry["number"] for entry in local_azure.control.requests()), default=0)
    register(local_azure, "duplicate", models.regression_with_example(tmp_path), **{"promote-to": "prod"})
    for number in range(3):
        publish(local_azure, "duplicate", "1", event_id=f"again-{number % 2}", cloud_event=number == 2)

    row = local_azure.wait_for_end("duplicate")
    local_azure.wait_for(
        lambda: True if len(local_azure.events_of("models/duplicate:1")) == 3 else None, what="all events"
    )

    assert len(local_azure.promotions_of("duplicate")) == 1
    assert len(steps_of(row)) == len(set(steps_of(row)))
    writes = local_azure.control.requests(before, service="arm", principal="promotion-service", method="PUT")
    written = [entry["path"].partition("/workspaces/")[2] for entry in writes if "duplicate" in entry["path"]]
    paths = [path for path in written if not path.startswith("ml-dev/")]  # but for the status tags in the source
    deployment = f"ml-prod/onlineEndpoints/duplicate/deployments/{row['result']['deployment']}"
    assert paths == [
        "ml-prod/models/duplicate/versions/1",
        "ml-prod/onlineEndpoints/duplicate",
        deployment,
        "ml-prod/onlineEndpoints/duplicate",
    ]


def publish(
    azure: LocalAzure, model: str, version: str, *, event_id: str, cloud_event: bool = False, **changes: Any
) -> None:
    """Publish an event by hand with Microsoft's publisher client."""
    from datetime import UTC, datetime

    from azure.core.credentials import AzureKeyCredential
    from azure.core.messaging import CloudEvent
    from azure.eventgrid import EventGridEvent, EventGridPublisherClient

    source = azure.endpoints["source"]
    topic = (
        f"/subscriptions/{source['subscription_id']}/resourceGroups/{source['resource_group']}"
        f"/providers/Microsoft.MachineLearningServices/workspaces/{source['workspace']}"
    )
    kind = "Microsoft.MachineLearningServices.ModelRegistered"
    data = {"modelName": model, "modelVersion": version, "modelTags": {}, "modelProperties": {}}
    subject = f"models/{model}:{version}"
    credential = AzureKeyCredential(azure.endpoints["event_grid_key"])
    client = EventGridPublisherClient(azure.endpoints["event_grid_endpoint"], credential)
    if cloud_event:
        event = {"source": topic, "type": kind, "id": event_id, "subject": subject, "data": data} | changes
        client.send(CloudEvent(time=datetime.now(UTC), **event))
    else:
        event = {"topic": topic, "event_type": kind, "id": event_id, "subject": subject, "data": data} | changes
        client.send(EventGridEvent(data_version="1", **event))


class Traffic:
    """Requests to an endpoint, one after the other, for as long as the block lasts."""

    def __init__(self, azure: LocalAzure, row: dict[str, Any], request: dict[str, Any]) -> None:
        client = azure.ml_client(azure.endpoints["targets"][row["target"]])
        self._headers = {"Authorization": f"Bearer {client.online_endpoints.get_keys(row['endpoint']).primary_key}"}
        self._uri = row["result"]["scoring_uri"]
        self._request = request
        self._stop = threading.Event()
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._run)
        self.answers: list[Any] = []
        self.failures: list[str] = []

    def __enter__(self) -> "Traffic":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with requests.Session() as session:
            while not self._stop.is_set():
                answer = session.post(self._uri, json=self._request, headers=self._headers, timeout=30)
                with self._news:
                    if answer.status_code == 200:
                        self.answers.append(answer.json())
                    else:
                        self.failures.append(f"{answer.status_code}: {answer.text[:200]}")
                    self._news.notify_all()

    def wait_for(self, expected: Any) -> None:
        with self._news:
            assert self._news.wait_for(lambda: expected in self.answers or self.failures, timeout=30)
