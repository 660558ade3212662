"""What the environment says, read once; what is missing is named. Keys are spelled as Azure Functions spells them."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

QUEUE = "PROMOTION_QUEUE"
POLICY = "PROMOTION_POLICY"
SERVICE_BUS = "ServiceBusConnection"
PLATFORM_AUTHENTICATION = "PROMOTION_PLATFORM_AUTHENTICATION"
RECONCILE_SCHEDULE = "PROMOTION_RECONCILE_SCHEDULE"
NOTIFICATIONS = "PROMOTION_NOTIFICATIONS_ENDPOINT"
OVERDUE_MINUTES = "PROMOTION_OVERDUE_MINUTES"
LEDGER_TABLES = "LedgerStorage__tableServiceUri"
LEDGER_BLOBS = "LedgerStorage__blobServiceUri"
TELEMETRY = "PYTHON_APPLICATIONINSIGHTS_ENABLE_TELEMETRY"
OVERDUE_AFTER = timedelta(minutes=60)
LONGEST_OVERDUE_MINUTES = 365 * 24 * 60


class SettingsInvalid(Exception):
    """A setting is missing or wrong; the message names each one and what it should hold."""


@dataclass(frozen=True)
class ServiceBusConnection:
    """Either the namespace's host name, reached with the managed identity, or a connection string (development)."""

    namespace: str | None
    connection_string: str | None


@dataclass(frozen=True)
class Settings:
    """Everything that the service is told from outside. Without `notifications`, nothing is published."""

    queue: str
    service_bus: ServiceBusConnection
    ledger_tables: str
    ledger_blobs: str
    policy: Path
    platform_authentication: bool = False
    notifications: str | None = None
    overdue_after: timedelta = OVERDUE_AFTER
    telemetry: bool = False


def read(environment: Mapping[str, str], *, app_root: Path) -> Settings:
    """The settings. Raises SettingsInvalid, naming all that is missing."""
    missing: list[str] = []

    def required(name: str, what: str) -> str:
        value = environment.get(name, "").strip()
        if not value:
            missing.append(f"{name}: {what}")
        return value

    namespace = environment.get(f"{SERVICE_BUS}__fullyQualifiedNamespace", "").strip() or None
    connection_string = environment.get(SERVICE_BUS, "").strip() or None
    if not (namespace or connection_string):
        missing.append(
            f"{SERVICE_BUS}__fullyQualifiedNamespace: the Service Bus namespace, NAME.servicebus.windows.net"
        )
    minutes = _minutes(environment.get(OVERDUE_MINUTES, "").strip() or str(OVERDUE_AFTER // timedelta(minutes=1)))
    settings = Settings(
        queue=required(QUEUE, "name of the Service Bus queue for promotion commands"),
        service_bus=ServiceBusConnection(namespace, connection_string),
        ledger_tables=required(LEDGER_TABLES, "https://ACCOUNT.table.core.windows.net"),
        ledger_blobs=required(LEDGER_BLOBS, "https://ACCOUNT.blob.core.windows.net"),
        platform_authentication=environment.get(PLATFORM_AUTHENTICATION, "").strip().lower() == "true",
        notifications=environment.get(NOTIFICATIONS, "").strip() or None,
        overdue_after=timedelta(minutes=minutes or 0),
        telemetry=environment.get(TELEMETRY, "").strip().lower() == "true",
        policy=app_root / (environment.get(POLICY, "").strip() or "promotion.yaml"),
    )
    required(RECONCILE_SCHEDULE, "when tags and lost messages are looked for: NCRONTAB, such as 0 */5 * * * *")
    if settings.notifications and not settings.notifications.lower().startswith("https://"):
        missing.append(
            f"{NOTIFICATIONS}: endpoint of an Event Grid topic, https://TOPIC.REGION-1.eventgrid.azure.net/api/events"
        )
    if minutes is None:
        missing.append(f"{OVERDUE_MINUTES}: whole minutes, from 1 to {LONGEST_OVERDUE_MINUTES}")
    if not settings.policy.is_file():
        missing.append(f"{POLICY}: path of the promotion policy; there is no file {settings.policy}")
    if missing:
        raise SettingsInvalid("settings are missing:\n" + "\n".join(f"  {line}" for line in missing))
    return settings


def _minutes(text: str) -> int | None:
    """The number, if it is one and within bounds."""
    number = int(text) if text.isdecimal() and len(text) <= len(str(LONGEST_OVERDUE_MINUTES)) else 0
    return number if 0 < number <= LONGEST_OVERDUE_MINUTES else None
