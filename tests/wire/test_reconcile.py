"""What no event tells, found by looking: with the real ledger, queue and listings, and requests counted."""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from azure.identity import ManagedIdentityCredential
from mlflow.entities.model_registry import ModelVersionTag
from mlflow.store.model_registry.rest_store import RestStore
from mlflow.utils.rest_utils import MlflowHostCreds

from core import tags
from core.adapters.arm import ML_SCOPE, Arm
from core.adapters.azure_ml_listings import AzureMLListings
from core.adapters.azure_ml_source import AzureMLSource
from core.adapters.ledger_storage import StorageLedger
from core.adapters.service_bus import ServiceBusCommandQueue
from core.errors import Refusal
from core.intake import Intake
from core.ledger import Memo, State
from core.orders import Orders
from core.policy_file import parse
from core.reconcile import OVERDUE, Reconciler
from core.settings import ServiceBusConnection
from core.status_tags import StatusTags
from tests import models
from tests.local import LocalAzure, started
from tests.unit.builders import DEV, a_command

STARTED = datetime.now(UTC)
POLICY = """\
version: 1
sources:
  dev: {subscription_id: 11111111-1111-4111-8111-111111111111, resource_group: rg-ml-dev, workspace: ml-dev}
targets:
  prod: {subscription_id: 22222222-2222-4222-8222-222222222222, resource_group: rg-ml-prod, workspace: ml-prod}
rules:
  - name: tagged
    match: {source: dev, model: "PREFIX-*", trigger: [TRIGGER]}
    stages: [{target: prod, serve: realtime}]
"""


@pytest.fixture(scope="module")
def azure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalAzure]:
    """A local Azure without a function app: nobody takes the messages, and no event is delivered."""
    with started(tmp_path_factory.mktemp("azure")) as found, pytest.MonkeyPatch.context() as patch:
        for name in ("CURL_CA_BUNDLE", "HTTP_PROXY", "http_proxy", "https_proxy"):
            patch.delenv(name, raising=False)
        for name, value in found.client_environment.items():
            patch.setenv(name, value)
        assert os.environ["HTTPS_PROXY"]
        yield found


class Service:
    """The service's own parts, in this process. `ahead` is how far its clock is before ours."""

    def __init__(self, azure: LocalAzure, prefix: str, *, trigger: str = "tagged", names_a_tick: int = 200) -> None:
        credential = ManagedIdentityCredential()
        loaded = parse(POLICY.replace("PREFIX", prefix).replace("TRIGGER", trigger).encode())
        places = azure.endpoints["ledger"]
        self.ahead = timedelta()
        self.ledger = StorageLedger(places["table_url"], places["blob_url"], credential)
        connection = ServiceBusConnection(None, azure.endpoints["service_bus_connection_string"])
        queue = ServiceBusCommandQueue(connection, azure.endpoints["queue"], credential)
        self.intake = Intake(
            policy=loaded, source=AzureMLSource(credential), ledger=self.ledger, queue=queue, now=self.now
        )
        self.orders = Orders(policy=loaded.policy, ledger=self.ledger, queue=queue, now=self.now)
        self.reconciler = Reconciler(
            policy=loaded.policy,
            listings=lambda: AzureMLListings(credential),
            ledger=self.ledger,
            intake=self.intake,
            orders=self.orders,
            status=StatusTags(loaded.policy, AzureMLListings(credential)),
            now=self.now,
            loaded_at=STARTED,
            names_a_tick=names_a_tick,
        )

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead


def register(azure: LocalAzure, name: str, directory: Path, **given: str) -> str:
    from azure.ai.ml.entities import Model

    saved = models.regression_with_example(directory)
    client = azure.ml_client(azure.endpoints["source"])
    return str(
        client.models.create_or_update(
            Model(name=name, path=str(saved.folder), type="mlflow_model", tags=given)
        ).version
    )


def put(name: str, version: int, given: dict[str, str] | None = None) -> None:
    body = {"modelUri": "azureml://datastores/workspaceblobstore/paths/x/", "tags": given or {}}
    Arm(ManagedIdentityCredential(), DEV).put(f"/models/{name}/versions/{version}", {"properties": body})


def tag(azure: LocalAzure, name: str, version: str, text: str) -> None:
    AzureMLListings(ManagedIdentityCredential()).set_tag(DEV, name, version, "promote-to", text)


def test_thousands_of_versions_cost_one_listing_for_each_name(azure: LocalAzure, tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        arm = Arm(ManagedIdentityCredential(), DEV)
        body = {"properties": {"modelUri": "azureml://datastores/workspaceblobstore/paths/x/", "tags": {}}}
        paths = [f"/models/many-{number % 10:02d}/versions/{number // 10 + 1}" for number in range(1500)]
        list(pool.map(lambda path: arm.put(path, body), paths))
    version = register(azure, "many-05", tmp_path)
    tag(azure, "many-05", version, "prod")
    service = Service(azure, "many", names_a_tick=4)
    before = max(entry["number"] for entry in azure.control.requests())

    ticks = [service.reconciler.tick() for _ in range(4)]

    listings = [
        entry
        for entry in azure.control.requests(before, service="arm", method="GET")
        if entry["path"].endswith(("/models", "/versions"))
    ]
    assert len(listings) == sum(tick.requests for tick in ticks)
    assert [tick.names for tick in ticks] == [4, 4, 4, 4]
    pages = [
        len({str(entry["query"]) for entry in listings if f"many-{number:02d}/" in entry["path"]})
        for number in range(10)
    ]
    assert max(pages) <= 2, "a page has a hundred versions or more"
    assert sum(tick.asked for tick in ticks) == 1
    assert len(service.ledger.promotions(model="many-05", version=version)) == 1
    writes = [entry for entry in azure.control.requests(before, service="arm") if entry["method"] != "GET"]
    assert writes == [], "without status tags, the source is only read"


def test_two_passes_at_once_hear_an_ask_once(azure: LocalAzure, tmp_path: Path) -> None:
    version = register(azure, "twice-heard", tmp_path)
    tag(azure, "twice-heard", version, "prod")
    services = [Service(azure, "twice") for _ in range(2)]
    both = threading.Barrier(2)

    def passed(service: Service) -> None:
        both.wait()
        service.reconciler.tick()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(passed, services))

    (row,) = services[0].ledger.promotions(model="twice-heard", version=version)
    assert (row.attempt, row.state) == (1, State.REQUESTED)
    assert services[0].reconciler.tick().asked == 0


def test_a_crash_between_the_order_and_the_memo_asks_once(
    azure: LocalAzure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = register(azure, "crash-heard", tmp_path)
    tag(azure, "crash-heard", version, "prod")
    service = Service(azure, "crash")
    keep: Callable[[Memo], Memo] = service.ledger.save_memo

    def dies(memo: Memo) -> Memo:
        if memo.kind.startswith("ask-"):
            raise KeyboardInterrupt
        return keep(memo)

    monkeypatch.setattr(service.ledger, "save_memo", dies)
    with pytest.raises(KeyboardInterrupt):
        service.reconciler.tick()
    monkeypatch.setattr(service.ledger, "save_memo", keep)

    assert service.reconciler.tick().asked == 1
    (row,) = service.ledger.promotions(model="crash-heard", version=version)
    assert row.attempt == 1
    events = service.ledger.events(model="crash-heard", version=version)
    assert [event.event_type for event in events] == ["promotion.tag"]


def test_a_tag_back_and_forth_is_an_ask_each_time(azure: LocalAzure, tmp_path: Path) -> None:
    version = register(azure, "forth-heard", tmp_path)
    service = Service(azure, "forth")
    asked = []
    for text in ("prod", "none", "prod", "prod"):
        tag(azure, "forth-heard", version, text)
        asked.append(service.reconciler.tick().asked)
    assert asked == [1, 1, 1, 0]
    events = service.ledger.events(model="forth-heard", version=version)
    assert len({event.event_id for event in events}) == 3


def test_a_lost_event_is_found_once_it_is_late(azure: LocalAzure, tmp_path: Path) -> None:
    version = register(azure, "lost-model", tmp_path)
    service = Service(azure, "lost", trigger="model_registered")
    assert service.reconciler.tick().recovered == 0, "its event may still come"
    service.ahead = timedelta(minutes=-30)
    assert service.reconciler.tick().recovered == 0, "a clock that is behind its source finds it later"
    service.ahead = timedelta(minutes=6)
    assert service.reconciler.tick().recovered == 1
    assert service.reconciler.tick().recovered == 0
    (row,) = service.ledger.promotions(model="lost-model", version=version)
    assert (row.trigger, row.order) == ("model_registered", None)


def test_what_a_promotion_put_there_is_no_news(azure: LocalAzure) -> None:
    """A target may be the source of somebody else."""
    put("copy-model", 1, tags.provenance(a_command()) | {"promote-to": "prod"})
    service = Service(azure, "copy", trigger="model_registered, tagged")
    service.ahead = timedelta(minutes=6)
    tick = service.reconciler.tick()
    assert (tick.versions, tick.asked, tick.recovered) == (1, 0, 0)
    assert service.ledger.promotions(model="copy-model") == ()


def test_an_overdue_promotion_is_given_a_new_message(azure: LocalAzure, tmp_path: Path) -> None:
    version = register(azure, "late-model", tmp_path)
    tag(azure, "late-model", version, "prod")
    service = Service(azure, "late")
    service.reconciler.tick()
    assert service.reconciler.tick().woken == 0
    service.ahead = OVERDUE + timedelta(minutes=1)
    assert service.reconciler.tick().woken >= 1


def test_backfill_plans_before_it_sends(azure: LocalAzure, tmp_path: Path) -> None:
    version = register(azure, "older-model", tmp_path)
    service = Service(azure, "older", trigger="model_registered")
    (planned,) = service.reconciler.backfill("tagged", dry_run=True, limit=10)
    assert (planned.model, planned.version, planned.outcome) == ("older-model", version, "planned")
    assert service.ledger.promotions(model="older-model") == ()
    (sent,) = service.reconciler.backfill("tagged", dry_run=False, limit=10)
    assert sent.outcome == "accepted"
    service.reconciler.backfill("tagged", dry_run=False, limit=10)
    (row,) = service.ledger.promotions(model="older-model")
    assert row.attempt == 1


def test_writers_of_tags_keep_each_others(azure: LocalAzure) -> None:
    put("shared-tags", 1, {"owner": "me"})
    writers = [AzureMLListings(ManagedIdentityCredential()) for _ in range(4)]

    def write(number: int) -> None:
        for text in ("in progress", "live"):
            writers[number].set_tag(DEV, "shared-tags", "1", f"promotion.t{number}", text)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    (version,) = writers[0].versions(DEV, "shared-tags")
    assert version.tags == {"owner": "me"} | {f"promotion.t{number}": "live" for number in range(4)}


def test_a_tag_is_set_as_the_client_of_mlflow_sets_it(azure: LocalAzure) -> None:
    """The adapter's request is the one that MLflow's own client sends to a workspace."""
    put("tagged-by-mlflow", 1)
    token = ManagedIdentityCredential().get_token(ML_SCOPE).token
    region = Arm(ManagedIdentityCredential(), DEV).location
    uri = f"https://{region}.api.azureml.ms/mlflow/v2.0{DEV.arm_id}"
    credentials: Any = MlflowHostCreds(uri, token=token)  # type: ignore[no-untyped-call]
    store = RestStore(lambda: credentials)  # type: ignore[no-untyped-call]
    tag: Any = ModelVersionTag("promote-to", "prod")  # type: ignore[no-untyped-call] # MLflow leaves it bare
    store.set_model_version_tag("tagged-by-mlflow", "1", tag)  # type: ignore[no-untyped-call]
    AzureMLListings(ManagedIdentityCredential()).set_tag(DEV, "tagged-by-mlflow", "1", "promotion.prod", "live")
    sent = [each for each in azure.control.requests(plane="azureml") if each["path"].endswith("/set-tag")]
    first, second = sent[-2:]
    assert (first["method"], first["path"].lower()) == (second["method"], second["path"].lower())


def test_a_name_that_nobody_uses_has_no_versions(azure: LocalAzure) -> None:
    assert AzureMLListings(ManagedIdentityCredential()).versions(DEV, "nobody") == ()
    with pytest.raises(Refusal, match="tagging nobody:1"):
        AzureMLListings(ManagedIdentityCredential()).set_tag(DEV, "nobody", "1", "promotion.prod", "live")
