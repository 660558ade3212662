"""What infra/ creates is what the code, the host and the local Azure take for granted."""

import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from azure.monitor.opentelemetry._constants import _ALL_SUPPORTED_INSTRUMENTED_LIBRARIES

from core import settings
from core.adapters import archive_storage, ledger_storage
from core.events import MODEL_REGISTERED, RESOURCE_WRITTEN, RUN_COMPLETED, RUN_STATUS_CHANGED, WorkspaceId
from core.policy import SourceWorkspace, Workspace
from emulator import application_insights
from emulator.functions_host.configuration import load_host_json
from emulator.topology import DEV, QueueSpec
from tests.infra import bicep

REPOSITORY = Path(__file__).parent.parent.parent
MODULES = REPOSITORY / "infra" / "modules"
# Read by parts of the app other than core/settings.py: the host, Azure's SDKs, the worker library.
OF_THE_PLATFORM = {
    "APPLICATIONINSIGHTS_AUTHENTICATION_STRING",
    "APPLICATIONINSIGHTS_CONNECTION_STRING",
    "AZURE_CLIENT_ID",
    "AzureWebJobsStorage__accountName",
    "AzureWebJobsStorage__clientId",
    "AzureWebJobsStorage__credential",
    "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS",
    "OTEL_SERVICE_NAME",
    "OTEL_TRACES_SAMPLER",
    "PYTHON_THREADPOOL_THREAD_COUNT",
    "ServiceBusConnection__clientId",
    "ServiceBusConnection__credential",
}
# Expressions of the template of which the app wants something else than an address.
NUMBERS = {settings.OVERDUE_MINUTES: "60"}
_DURATION = re.compile(r"P(?:(?P<days>\d+)D)?(?:T(?:(?P<hours>\d+)H)?(?:(?P<minutes>\d+)M)?(?:(?P<seconds>\d+)S)?)?")


def module(name: str) -> bicep.Template:
    return bicep.read(MODULES / f"{name}.bicep")


def app_settings() -> dict[str, Any]:
    return dict(module("app").resource("settings").body["properties"])


def duration(text: str) -> float:
    found = _DURATION.fullmatch(text)
    assert found is not None, text
    return timedelta(**{unit: int(value or 0) for unit, value in found.groupdict().items()}).total_seconds()


# -------------------------------------------------------------------------------------------------------------- settings


def test_the_app_starts_with_the_settings_that_it_is_given(tmp_path: Path) -> None:
    """`core.settings.read` names what is missing; expressions of the template stand for some address."""
    given = app_settings()
    addresses = {name: f"https://example.net/{name}" for name in given} | NUMBERS
    environment = {name: value if isinstance(value, str) else addresses[name] for name, value in given.items()}
    (tmp_path / environment["PROMOTION_POLICY"]).write_text("version: 1\n", encoding="utf-8")

    read = settings.read(environment, app_root=tmp_path)

    assert read.service_bus.connection_string is None
    assert read.queue == environment["PROMOTION_QUEUE"]


def test_the_template_gives_every_setting_that_the_app_reads_and_no_other() -> None:
    """All names in core/settings.py; of the Service Bus connection the one without a key."""
    names = {value for name, value in vars(settings).items() if name.isupper() and isinstance(value, str)}
    names = names - {settings.SERVICE_BUS} | {f"{settings.SERVICE_BUS}__fullyQualifiedNamespace"}
    assert {*app_settings()} == names | OF_THE_PLATFORM


def test_the_sample_for_local_settings_names_the_same() -> None:
    """What is set in Azure and not there is the identity's, or telemetry."""
    sample = json.loads((REPOSITORY / "local.settings.sample.json").read_text(encoding="utf-8"))["Values"]
    # On Flex Consumption the runtime is a property of the app, and this setting is refused.
    assert {*sample} - {"FUNCTIONS_WORKER_RUNTIME"} <= {*app_settings()}
    assert "FUNCTIONS_WORKER_RUNTIME" not in app_settings()


def test_no_setting_holds_a_key() -> None:
    """No template asks for keys, and the one setting called a connection string opens nothing without a token."""
    for path in MODULES.parent.rglob("*.bicep"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"listKeys|listAccountSas|primaryConnectionString|AccountKey|SharedAccessKey", text), path
    secrets = [name for name in app_settings() if re.search(r"key|secret|password|sas", name, re.IGNORECASE)]
    assert secrets == []
    insights = module("monitoring").resource("insights").body["properties"]
    assert insights["DisableLocalAuth"] is True


@pytest.mark.parametrize(
    ("name", "symbol", "key", "value"),
    [
        ("storage", "account", "allowSharedKeyAccess", False),
        ("storage", "account", "allowBlobPublicAccess", False),
        ("queue", "namespace", "disableLocalAuth", True),
        ("notifications", "topic", "disableLocalAuth", True),
        ("monitoring", "insights", "DisableLocalAuth", True),
        ("app", "publishing", "allow", False),
        ("app", "app", "httpsOnly", True),
    ],
)
def test_keys_open_nothing(name: str, symbol: str, key: str, value: bool) -> None:
    assert module(name).resource(symbol).body["properties"][key] is value


def test_the_identity_of_every_connection_is_named() -> None:
    """A user-assigned identity is only used where it is named; without, the host would look for another one."""
    given = app_settings()
    for connection in ("AzureWebJobsStorage", "ServiceBusConnection"):
        assert given[f"{connection}__credential"] == "managedidentity"
        assert given[f"{connection}__clientId"] == given["AZURE_CLIENT_ID"]


def test_telemetry_is_only_switched_on_with_its_package() -> None:
    required = (REPOSITORY / "requirements.txt").read_text(encoding="utf-8")
    assert ("PYTHON_APPLICATIONINSIGHTS_ENABLE_TELEMETRY" in app_settings()) == (
        "azure-monitor-opentelemetry" in required
    )


def test_no_span_is_made_of_a_request() -> None:
    """URLs of requests may hold signatures: everything that Azure Monitor's distribution would instrument is switched off."""
    off = set(app_settings()["OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"].split(","))
    assert off == set(_ALL_SUPPORTED_INSTRUMENTED_LIBRARIES)


def test_the_local_azure_switches_telemetry_on_as_azure_does() -> None:
    assert application_insights.SETTINGS.keys() - app_settings().keys() == {
        "APPLICATIONINSIGHTS_CONTROLPLANE_DISABLED",
        "APPLICATIONINSIGHTS_SDKSTATS_DISABLED",
        "APPLICATIONINSIGHTS_STATSBEAT_DISABLED_ALL",
    }


def test_functions_have_as_many_threads_as_sessions() -> None:
    host = load_host_json(REPOSITORY)
    assert int(app_settings()["PYTHON_THREADPOOL_THREAD_COUNT"]) == host.service_bus.max_concurrent_sessions


# ------------------------------------------------------------------------------------------------------ queue and storage


def test_the_queue_is_the_one_of_the_local_azure() -> None:
    queue = module("queue").resource("queue").body
    properties = queue["properties"]
    assert QueueSpec(
        name=queue["name"],
        requires_session=properties["requiresSession"],
        lock_duration=duration(properties["lockDuration"]),
        max_delivery_count=properties["maxDeliveryCount"],
        duplicate_detection_window=duration(properties["duplicateDetectionHistoryTimeWindow"]),
        default_time_to_live=duration(properties["defaultMessageTimeToLive"]),
    ) == QueueSpec("promotions")
    assert properties["requiresDuplicateDetection"] is True
    assert properties["deadLetteringOnMessageExpiration"] is True


def test_a_function_cannot_outlive_its_lock() -> None:
    host = json.loads((REPOSITORY / "host.json").read_text(encoding="utf-8"))
    renewal = host["extensions"]["serviceBus"]["maxAutoLockRenewalDuration"]
    assert host["functionTimeout"] < renewal


def test_tables_and_containers_are_there_before_the_app() -> None:
    found = module("storage").variables
    ledger = {ledger_storage.PROMOTIONS, ledger_storage.EVENTS, ledger_storage.ENDPOINTS, ledger_storage.MEMOS}
    assert {*found["tables"]} == ledger
    assert {*found["containers"]} == {
        ledger_storage.DOCUMENTS,
        archive_storage.CONTAINER,
        found["packageContainer"],
        found["deadLetterContainer"],
    }


# ---------------------------------------------------------------------------------------------------------------- events


@pytest.mark.parametrize(
    ("symbol", "types"),
    [("events", [MODEL_REGISTERED, RUN_COMPLETED, RUN_STATUS_CHANGED]), ("writes", [RESOURCE_WRITTEN])],
)
def test_events_reach_intake_or_the_dead_letters(symbol: str, types: list[str]) -> None:
    """The event types that the code reads, delivered to the function that reads them."""
    properties = module("event-subscriptions").resource(symbol).body["properties"]
    function = bicep.read(REPOSITORY / "infra" / "main.bicep").modules["subscriptions"].params["functionId"]

    assert properties["filter"]["includedEventTypes"] == types
    assert properties["destination"]["endpointType"] == "AzureFunction"
    assert function.text == "'${app.outputs.id}/functions/intake'"
    assert '@bp.function_name("intake")' in (REPOSITORY / "functions" / "intake.py").read_text(encoding="utf-8")
    assert properties["retryPolicy"] == {"maxDeliveryAttempts": 30, "eventTimeToLiveInMinutes": 1440}
    assert "deadLetterDestination" in properties["deadLetterWithResourceIdentity"]


def test_the_hint_is_about_model_versions_of_the_workspace_alone() -> None:
    begins = module("event-subscriptions").resource("writes").body["properties"]["filter"]["subjectBeginsWith"].text
    group = f"/subscriptions/{DEV.subscription_id}/resourceGroups/{DEV.resource_group}"
    prefix = begins.strip("'").replace("${resourceGroup().id}", group).replace("${workspaceName}", DEV.name)

    assert WorkspaceId.parse(prefix.removesuffix("/models/")).key == DEV.arm_id.lower()
    assert f"{DEV.arm_id}/models/m/versions/1".startswith(prefix)


def test_sources_and_targets_are_read_from_the_policy() -> None:
    """The keys that main.bicep reads are those of the policy's own model."""
    text = (REPOSITORY / "infra" / "main.bicep").read_text(encoding="utf-8")
    assert set(re.findall(r"\bsource\.value\.\??(\w+)", text)) == {*SourceWorkspace.model_fields}
    assert set(re.findall(r"\btarget\.value\.\??(\w+)", text)) == {*Workspace.model_fields}
