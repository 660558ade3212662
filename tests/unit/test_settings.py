"""Settings: everything that is missing is named at once, with what it should hold."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from azure_functions_runtime.utils import threadpool

from core.settings import ServiceBusConnection, Settings, SettingsInvalid, read
from emulator.functions_host.configuration import load_host_json, worker_settings

REPOSITORY = Path(__file__).parents[2]
THREADS = "PYTHON_THREADPOOL_THREAD_COUNT"
COMPLETE = {
    "PROMOTION_QUEUE": "promotions",
    "ServiceBusConnection__fullyQualifiedNamespace": "ns.servicebus.windows.net",
    "LedgerStorage__tableServiceUri": "https://acc.table.core.windows.net",
    "LedgerStorage__blobServiceUri": "https://acc.blob.core.windows.net",
    "PROMOTION_RECONCILE_SCHEDULE": "0 */5 * * * *",
}


@pytest.fixture
def app_root(tmp_path: Path) -> Path:
    """An app with a policy in its place."""
    (tmp_path / "promotion.yaml").touch()
    return tmp_path


def missing(environment: dict[str, str], app_root: Path) -> list[str]:
    with pytest.raises(SettingsInvalid) as caught:
        read(environment, app_root=app_root)
    return [line.strip().partition(":")[0] for line in str(caught.value).splitlines()[1:]]


def test_complete_settings(app_root: Path) -> None:
    assert read(COMPLETE, app_root=app_root) == Settings(
        queue="promotions",
        service_bus=ServiceBusConnection(namespace="ns.servicebus.windows.net", connection_string=None),
        ledger_tables="https://acc.table.core.windows.net",
        ledger_blobs="https://acc.blob.core.windows.net",
        policy=app_root / "promotion.yaml",
    )


def test_a_connection_string_serves_where_there_is_no_identity(app_root: Path) -> None:
    environment = {key: value for key, value in COMPLETE.items() if not key.startswith("ServiceBus")}
    found = read(environment | {"ServiceBusConnection": "Endpoint=sb://x/"}, app_root=app_root)
    assert found.service_bus == ServiceBusConnection(namespace=None, connection_string="Endpoint=sb://x/")


def test_notifications_are_off_unless_a_topic_is_set(app_root: Path) -> None:
    topic = "https://told.westeurope-1.eventgrid.azure.net/api/events"
    found = read(COMPLETE | {"PROMOTION_NOTIFICATIONS_ENDPOINT": topic}, app_root=app_root)
    assert (found.notifications, found.overdue_after) == (topic, timedelta(hours=1))
    assert read(COMPLETE | {"PROMOTION_NOTIFICATIONS_ENDPOINT": " "}, app_root=app_root).notifications is None
    found = read(COMPLETE | {"PROMOTION_OVERDUE_MINUTES": "5"}, app_root=app_root)
    assert found.overdue_after == timedelta(minutes=5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PROMOTION_NOTIFICATIONS_ENDPOINT", "told.westeurope-1.eventgrid.azure.net"),
        ("PROMOTION_NOTIFICATIONS_ENDPOINT", "http://told.westeurope-1.eventgrid.azure.net/api/events"),
        ("PROMOTION_OVERDUE_MINUTES", "0"),
        ("PROMOTION_OVERDUE_MINUTES", "-5"),
        ("PROMOTION_OVERDUE_MINUTES", "an hour"),
        ("PROMOTION_OVERDUE_MINUTES", "9" * 400),
        ("PROMOTION_OVERDUE_MINUTES", "\u00b2"),
    ],
)
def test_what_notifications_cannot_be_set_to_is_named(name: str, value: str, app_root: Path) -> None:
    assert missing(COMPLETE | {name: value}, app_root) == [name]


def test_the_policy_may_be_elsewhere_in_the_app(app_root: Path) -> None:
    (app_root / "other.yaml").touch()
    assert read(COMPLETE | {"PROMOTION_POLICY": "other.yaml"}, app_root=app_root).policy == app_root / "other.yaml"


def test_the_policy_may_be_outside_of_the_app(app_root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("config") / "promotion.yaml"
    elsewhere.touch()
    assert read(COMPLETE | {"PROMOTION_POLICY": str(elsewhere)}, app_root=app_root).policy == elsewhere


@pytest.mark.parametrize("key", COMPLETE)
@pytest.mark.parametrize("value", [None, "", "  "])
def test_what_is_missing_or_blank_is_named(key: str, value: str | None, app_root: Path) -> None:
    environment = {name: text for name, text in COMPLETE.items() if name != key} | ({key: value} if value else {})
    assert missing(environment, app_root) == [key]


def test_everything_that_is_missing_is_named_at_once(tmp_path: Path) -> None:
    assert sorted(missing({}, tmp_path)) == sorted([*COMPLETE, "PROMOTION_POLICY"])


def test_a_policy_that_is_not_there_is_named_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalid, match=str(tmp_path / "promotion.yaml")):
        read(COMPLETE, app_root=tmp_path)


def test_secrets_are_not_told(tmp_path: Path) -> None:
    """The error goes into logs."""
    with pytest.raises(SettingsInvalid) as caught:
        read({"ServiceBusConnection": "SharedAccessKey=hunter2"}, app_root=tmp_path)
    assert "hunter2" not in str(caught.value)


def test_the_sample_of_local_settings_is_complete(app_root: Path) -> None:
    values = json.loads((REPOSITORY / "local.settings.sample.json").read_text())["Values"]
    assert read(values, app_root=app_root).queue == "promotions"


def test_the_worker_has_a_thread_for_each_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the settings of the sample, and by those that the local host gives to an app without them."""
    host = load_host_json(REPOSITORY)
    sample = json.loads((REPOSITORY / "local.settings.sample.json").read_text())["Values"]
    for settings in (sample, worker_settings(host)):
        with monkeypatch.context() as environment:
            environment.setenv(THREADS, settings[THREADS])
            threadpool.start_threadpool_executor()
        executor: Any = threadpool.get_threadpool_executor()
        threadpool.stop_threadpool_executor()
        assert executor._max_workers == host.service_bus.max_concurrent_sessions
