"""Composition root: settings and policy are read once and loudly; clients are made when first needed. No logic."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import azure.functions as func

from core import notifications, policy_file, settings, telemetry
from core.approvals import Approvals
from core.drift_watch import DriftWatch
from core.events import WorkspaceId
from core.explain import Explainer
from core.intake import Intake
from core.monitoring import Changes
from core.orders import Orders
from core.plan import Planner
from core.policy_check import ModelFinder
from core.ports import CommandQueue, News, Target
from core.promotion import Promoter
from core.publishing import Publisher
from core.reconcile import Reconciler
from core.replay import Replay
from core.status_tags import StatusTags
from functions import failed, insight, intake, openapi, operations, reconcile, worker

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential

    from core.adapters.archive_storage import StorageArchive
    from core.adapters.ledger_storage import StorageLedger

# The Azure SDKs tell every request with its headers at INFO: a dozen lines for each line of ours.
logging.getLogger("azure").setLevel(logging.WARNING)
logging.setLogRecordFactory(telemetry.on_every_record(logging.getLogRecordFactory()))

APP_ROOT = Path(__file__).parent
SETTINGS = settings.read(os.environ, app_root=APP_ROOT)
POLICY = policy_file.load(SETTINGS.policy)

if SETTINGS.telemetry:
    from core.adapters.tracing import OpenTelemetryTracer

    telemetry.trace_with(OpenTelemetryTracer())


def _now() -> datetime:
    return datetime.now(UTC)


LOADED_AT = _now()


@cache
def _credential() -> TokenCredential:
    from azure.identity import DefaultAzureCredential

    return DefaultAzureCredential(exclude_interactive_browser_credential=True)


@cache
def _ledger() -> StorageLedger:
    from core.adapters.ledger_storage import StorageLedger

    noted = notifications.noted if SETTINGS.notifications else None
    return StorageLedger(SETTINGS.ledger_tables, SETTINGS.ledger_blobs, _credential(), noted=noted)


@cache
def _archive() -> StorageArchive:
    from core.adapters.archive_storage import StorageArchive

    return StorageArchive(SETTINGS.ledger_blobs, _credential())


@cache
def _queue() -> CommandQueue:
    from core.adapters.service_bus import ServiceBusCommandQueue

    return ServiceBusCommandQueue(SETTINGS.service_bus, SETTINGS.queue, _credential())


@cache
def _intake() -> Intake:
    from core.adapters.azure_ml_source import AzureMLSource

    return Intake(policy=POLICY, source=AzureMLSource(_credential()), ledger=_ledger(), queue=_queue(), now=_now)


@cache
def _targets() -> Callable[[WorkspaceId], Target]:
    from core.adapters.azure_ml_target import AzureMLTarget
    from core.adapters.blobs import Blobs

    blobs = Blobs(_credential())

    @cache
    def target(workspace: WorkspaceId) -> Target:
        return AzureMLTarget(_credential(), workspace, blobs)

    return target


@cache
def _promoter() -> Promoter:
    return Promoter(
        ledger=_ledger(),
        queue=_queue(),
        archive=_archive(),
        target_for=_targets(),
        now=_now,
        news=_news(),
    )


@cache
def _publisher() -> Publisher | None:
    """None where no topic is set: then nothing is noted either."""
    if not SETTINGS.notifications:
        return None
    from core.adapters.notifications import EventGridTopic

    topic = EventGridTopic(SETTINGS.notifications, _credential())
    return Publisher(topic=topic, ledger=_ledger(), overdue_after=SETTINGS.overdue_after)


def _news() -> list[News]:
    publisher = _publisher()
    return [Changes(_now), _status_tags(), *([publisher] if publisher else [])]


@cache
def _status_tags() -> StatusTags:
    from core.adapters.azure_ml_listings import AzureMLListings

    return StatusTags(POLICY.policy, AzureMLListings(_credential()))


@cache
def _reconciler() -> Reconciler:
    from core.adapters.azure_ml_listings import AzureMLListings

    return Reconciler(
        policy=POLICY.policy,
        listings=lambda: AzureMLListings(_credential()),
        ledger=_ledger(),
        intake=_intake(),
        orders=_orders(),
        status=_status_tags(),
        publisher=_publisher(),
        drift=_drift(),
        now=_now,
        loaded_at=LOADED_AT,
    )


@cache
def _drift() -> DriftWatch:
    return DriftWatch(
        policy=POLICY.policy,
        ledger=_ledger(),
        target_for=_targets(),
        orders=_orders(),
        publisher=_publisher(),
        now=_now,
    )


@cache
def _planner() -> Planner:
    return Planner(ledger=_ledger(), target_for=_targets(), now=_now)


@cache
def _explainer() -> Explainer:
    from core.adapters.azure_ml_source import AzureMLSource

    return Explainer(policy=POLICY.policy, ledger=_ledger(), source=lambda: AzureMLSource(_credential()), now=_now)


@cache
def _models() -> ModelFinder:
    from core.adapters.azure_ml_listings import AzureMLListings

    return ModelFinder(policy=POLICY.policy, ledger=_ledger(), listings=lambda: AzureMLListings(_credential()))


@cache
def _replay() -> Replay:
    from core.adapters.dead_letters import ServiceBusDeadLetters

    letters = ServiceBusDeadLetters(SETTINGS.service_bus, SETTINGS.queue, _credential())
    return Replay(ledger=_ledger(), letters=letters, orders=_orders(), now=_now)


@cache
def _orders() -> Orders:
    return Orders(policy=POLICY.policy, ledger=_ledger(), queue=_queue(), now=_now)


@cache
def _approvals() -> Approvals:
    return Approvals(ledger=_ledger(), queue=_queue(), now=_now)


# Modules of HTTP functions: each is registered, and documented in /api/openapi.json.
SIGN_IN = SETTINGS.platform_authentication
API = [operations.routes(_ledger, _archive, _intake, _orders, _approvals, platform_authentication=SIGN_IN)]
API.append(
    insight.routes(
        _ledger, _intake, _explainer, _planner, _models, policy=POLICY.policy, platform_authentication=SIGN_IN
    )
)
API.append(failed.routes(_replay, platform_authentication=SIGN_IN))
API.append(reconcile.routes(_reconciler, _drift, platform_authentication=SIGN_IN))
API.append(openapi.routes(API))

app = func.FunctionApp(http_auth_level=func.AuthLevel.FUNCTION)
app.register_functions(intake.blueprint(_intake, _reconciler))
app.register_functions(reconcile.blueprint(_reconciler))
app.register_functions(worker.blueprint(_promoter))
for module in API:
    app.register_functions(module.blueprint)
