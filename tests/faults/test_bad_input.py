"""Each class of bad input gets a refusal that names its cause, where an operator can see it, and holds up nobody."""

import json
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests import models
from tests.e2e.test_realtime import publish, register
from tests.faults.test_redelivery import send, wait_until_drained
from tests.local import LOCK_SECONDS, REPOSITORY, LocalAzure
from tests.models import Builder

_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
ML = "Microsoft.MachineLearningServices"
FOREIGN = "/subscriptions/s/resourceGroups/r/providers/Microsoft.MachineLearningServices/workspaces/somebody-else"


def only_event(azure: LocalAzure, event_id: str) -> dict[str, Any]:
    def found() -> dict[str, Any] | None:
        events = [event for event in azure.api("events")["events"] if event["event_id"] == event_id]
        return events[0] if events else None

    return azure.wait_for(found, what=f"event {event_id}")


@pytest.mark.parametrize(
    ("event_id", "changes", "outcome", "reason", "cause"),
    [
        ("foreign-source", {"topic": FOREIGN}, "refused", "source_unknown", "somebody-else"),
        ("no-workspace", {"topic": "/subscriptions/s/x"}, "refused", "event_malformed", "/subscriptions/s/x"),
        ("unknown-type", {"event_type": "Contoso.Thing"}, "refused", "event_type_unknown", "Contoso.Thing"),
        ("other-name", {"data": {"modelName": "../../etc", "modelVersion": 1}}, "refused", "event_malformed", "../../etc"),
        ("bool-version", {"data": {"modelName": "m", "modelVersion": True}}, "refused", "event_malformed", "modelVersion"),
        ("no-such-model", {}, "refused", "model_not_found", "nobody-registered:1"),
        ("no-such-run", {"event_type": f"{ML}.RunCompleted", "subject": "experiments/e/runs/r", "data": {"runId": "r"}},
         "refused", "model_not_found", "no run r"),
        ("run-elsewhere", {"event_type": f"{ML}.RunCompleted", "data": {"runId": "../../r"}},
         "refused", "event_malformed", "runId"),
        ("step", {"event_type": f"{ML}.RunCompleted", "data": {"runId": "s", "runProperties": {"azureml.runsource":
         "azureml.StepRun"}}}, "ignored", "not_a_trigger", "run s is a part"),
        ("failed-run", {"event_type": f"{ML}.RunStatusChanged", "data": {"runId": "f", "runStatus": "failed"}},
         "ignored", "run_failed", "run f failed"),
    ],
)  # fmt: skip
def test_an_event_that_cannot_promote_is_recorded_with_its_cause(
    local_azure: LocalAzure, event_id: str, changes: dict[str, Any], outcome: str, reason: str, cause: str
) -> None:
    publish(local_azure, "adopting-nobody-registered", "1", event_id=event_id, **_named(changes))

    event = only_event(local_azure, event_id)

    assert (event["outcome"], event["reason"]) == (outcome, reason)
    assert cause in event["why"]
    assert outcome == "ignored" or event["remedy"]


def _named(changes: dict[str, Any]) -> dict[str, Any]:
    """A rule is about models of this name whatever their tags, so that the event is looked into."""
    return changes


def test_an_event_of_a_megabyte_is_read_like_any_other(local_azure: LocalAzure) -> None:
    """Event Grid delivers up to 1 MiB; what is recorded of it stays small."""
    data = {"modelName": "adopting-large", "modelVersion": 1, "modelTags": {"notes": "x" * 1_000_000}}
    publish(local_azure, "adopting-large", "1", event_id="large", data=data)

    assert only_event(local_azure, "large")["reason"] == "model_not_found"


@pytest.mark.parametrize(
    "body", [b"\xff\xfe\x00", b"{not json", b"[]", b'"text"', b"", b'[{"id": 5}]', b"[" * 5000], ids=repr
)
def test_what_is_no_event_at_all_is_turned_away_and_nothing_stops(local_azure: LocalAzure, body: bytes) -> None:
    """Straight to the webhook, past Event Grid: an error for the sender, and the next event is handled."""
    ready = json.loads((local_azure.directory / "function-app.ready.json").read_text())
    url = f"{ready['url']}/runtime/webhooks/eventgrid?functionName=intake&code={ready['keys']['eventgrid']}"
    headers = {"aeg-event-type": "Notification", "Content-Type": "application/json"}
    try:
        with _DIRECT.open(urllib.request.Request(url, body[:1000], headers), timeout=30) as answer:
            status = answer.status
    except urllib.error.HTTPError as error:
        status = error.code

    assert status in (202, 400, 500)  # 202: recorded as refused; else told to the sender
    publish(local_azure, "adopting-still-there", "1", event_id=f"after-{body[:8]!r}")
    assert only_event(local_azure, f"after-{body[:8]!r}")["reason"] == "model_not_found"


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        (b"\xff\xfe", "invalid"),
        (b"{}", "promotion_id"),
        (b'{"kind": "delete_everything"}', "kind"),
        (b"x" * 200_000, "JSON"),
    ],
    ids=["not-utf-8", "empty", "unknown-kind", "large"],
)
def test_a_message_that_is_no_command_is_dead_lettered_whole(
    local_azure: LocalAzure, body: bytes, cause: str, tmp_path: Path
) -> None:
    """After three deliveries, with the body as it came; the messages behind it in its session are worked on."""
    local_azure.control.delete("/service-bus/queues/promotions/messages?sub_queue=dead_letter")

    send(local_azure, "some-session", body)
    wait_until_drained(local_azure)

    letters = local_azure.control.get("/service-bus/queues/promotions/messages?sub_queue=dead_letter")["messages"]
    assert [letter["dead_letter_reason"] for letter in letters] == ["MaxDeliveryCountExceeded"]
    assert letters[0]["body"].startswith(body.decode(errors="replace")[:100])
    log = (local_azure.directory / "function-app.log").read_text()
    assert "no promotion command" in log
    assert cause in log
    local_azure.control.delete("/service-bus/queues/promotions/messages?sub_queue=dead_letter")


@pytest.mark.parametrize(
    ("name", "build", "reason", "told"),
    [
        ("cannot-load", models.that_cannot_load, "deployment_failed", "log"),
        ("fails-on-example", models.that_fails_on_its_example, "smoke_failed", "log"),
    ],
)
def test_a_model_that_does_not_work_gets_no_traffic_and_tells_why(
    local_azure: LocalAzure, tmp_path: Path, name: str, build: Builder, reason: str, told: str
) -> None:
    """Refused with the container's own log; a version that served before goes on serving."""
    good = models.regression_with_example(tmp_path)
    register(local_azure, name, good, **{"promote-to": "prod"})
    live = local_azure.wait_for_end(name)["result"]["deployment"]

    version = register(local_azure, name, build(tmp_path), **{"promote-to": "prod"})
    row = local_azure.wait_for_end(name, version)

    assert (row["state"], row["reason"]) == ("refused", reason)
    assert row["remedy"]
    assert "Traceback" in row["result"][told]
    client = local_azure.ml_client(local_azure.endpoints["targets"]["prod"])
    assert client.online_endpoints.get(name).traffic[live] == 100


def test_a_folder_without_a_model_is_refused_with_what_is_missing(local_azure: LocalAzure, tmp_path: Path) -> None:
    from azure.ai.ml.entities import Model

    (tmp_path / "notes.txt").write_text("no model here")
    client = local_azure.ml_client(local_azure.endpoints["source"])
    tags = {"promote-to": "prod", "promotion-origin": "notebook"}
    client.models.create_or_update(Model(name="no-model", path=str(tmp_path), type="custom_model", tags=tags))

    event = local_azure.wait_for(
        lambda: next(iter(local_azure.events_of("models/no-model:1")), None), what="the event of no-model"
    )

    assert (event["outcome"], event["reason"]) == ("refused", "not_servable")
    assert "MLmodel" in event["why"]
    assert "notes.txt" in event["why"]


def test_an_endpoint_that_is_not_ours_parks_the_promotion_until_it_is_free(
    local_azure: LocalAzure, tmp_path: Path
) -> None:
    """Nothing is written to it; once it is gone, the promotion resumes by itself."""
    from azure.ai.ml.entities import ManagedOnlineEndpoint

    client = local_azure.ml_client(local_azure.endpoints["targets"]["prod"])
    client.online_endpoints.begin_create_or_update(ManagedOnlineEndpoint(name="not-ours")).result()
    register(local_azure, "foreign-model", models.regression_with_example(tmp_path))

    def is_parked() -> dict[str, Any] | None:
        rows = [row for row in local_azure.promotions_of("foreign-model") if row["state"] == "parked"]
        return rows[0] if rows else None

    parked = local_azure.wait_for(is_parked, what="the parked promotion")
    assert parked["reason"] == "endpoint_not_ours"
    assert "adopt" in parked["remedy"]
    assert client.online_endpoints.get("not-ours").tags == {}

    client.online_endpoints.begin_delete("not-ours").result()
    local_azure.control.advance(16 * 60)
    assert local_azure.wait_for_end("foreign-model")["state"] == "succeeded"


def test_an_adopted_endpoint_keeps_what_others_deployed(local_azure: LocalAzure, tmp_path: Path) -> None:
    from azure.ai.ml.entities import ManagedOnlineEndpoint

    client = local_azure.ml_client(local_azure.endpoints["targets"]["prod"])
    by_hand = ManagedOnlineEndpoint(name="by-hand", tags={"team": "wine"}, description="made by hand")
    client.online_endpoints.begin_create_or_update(by_hand).result()
    register(local_azure, "adopting-model", models.regression_with_example(tmp_path))

    row = local_azure.wait_for_end("adopting-model")

    endpoint = client.online_endpoints.get("by-hand")
    assert row["state"] == "succeeded"
    assert (endpoint.tags["team"], endpoint.description) == ("wine", "made by hand")


def test_what_takes_too_long_is_refused_at_its_deadline(local_azure: LocalAzure, tmp_path: Path) -> None:
    local_azure.control.put("/azure-ml/durations", {"deployment": 3600})
    try:
        register(local_azure, "impatient-model", models.regression_with_example(tmp_path))
        row = local_azure.wait_for_end("impatient-model")
    finally:
        local_azure.control.put("/azure-ml/durations", {"deployment": 0})
        local_azure.control.advance(3601)

    assert (row["state"], row["reason"]) == ("refused", "deadline_exceeded")
    assert "deadlines.deploy" in row["remedy"]


def test_a_source_that_is_away_for_a_moment_loses_no_event(local_azure: LocalAzure, tmp_path: Path) -> None:
    """Reading the model fails with 503: Event Grid delivers the event again, and the promotion goes its way."""
    local_azure.control.plant(
        service="arm", method="GET", path="/models/away/versions/1$", principal="promotion-service", status=503, times=2
    )
    register(local_azure, "away", models.regression_with_example(tmp_path), **{"promote-to": "prod"})
    for attempts in (1, 2):
        wait_for_retry(local_azure, attempts)
        local_azure.control.advance(LOCK_SECONDS)

    assert local_azure.wait_for_end("away")["state"] == "succeeded"


def wait_for_retry(azure: LocalAzure, attempts: int) -> None:
    """Until Event Grid has tried this often and waits to try again."""

    def is_pending() -> bool | None:
        pending = azure.control.get("/event-grid/pending")
        return True if any(event["attempts"] == attempts for event in pending) else None

    azure.wait_for(is_pending, what=f"attempt {attempts} to fail")


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ({"service": "arm", "method": "PUT", "status": 429, "headers": {"Retry-After": "1"}}, "429"),
        ({"service": "arm", "method": "PUT", "status": 500}, "500"),
        ({"service": "arm", "method": "PUT", "drop": True, "phase": "after"}, "dropped"),
        ({"service": "table", "method": "PUT", "status": 503}, "503"),
        ({"service": "blob", "method": "PUT", "path": "promoted-models", "drop": True}, "dropped"),
    ],
    ids=["busy", "error", "answer-lost", "ledger-away", "storage-away"],
)
def test_passing_faults_of_azure_are_waited_out(
    local_azure: LocalAzure, tmp_path: Path, fault: dict[str, Any], why: str, request: pytest.FixtureRequest
) -> None:
    name = f"weather-{request.node.callspec.id}"
    saved = models.regression_with_example(tmp_path)
    (saved.folder / "build.txt").write_text(name)  # other content: what is copied already would not be copied again
    local_azure.control.plant(principal="promotion-service", times=2, **fault)

    register(local_azure, name, saved, **{"promote-to": "prod"})

    assert local_azure.wait_for_end(name)["state"] == "succeeded"


@pytest.mark.parametrize(
    ("setting", "value"),
    [("PROMOTION_QUEUE", None), ("LedgerStorage__tableServiceUri", None), ("PROMOTION_POLICY", "nowhere.yaml")],
)
def test_the_app_does_not_start_without_a_setting_and_names_it(setting: str, value: str | None) -> None:
    sample = json.loads((REPOSITORY / "local.settings.sample.json").read_text())["Values"]
    settings = {**sample, "PROMOTION_POLICY": "promotion.sample.yaml"}
    settings.pop(setting)
    if value is not None:
        settings[setting] = value

    ended = subprocess.run(
        [sys.executable, "-c", "import function_app"],
        env={**settings, "PATH": ""},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.returncode != 0
    assert setting in ended.stderr.splitlines()[-1]
