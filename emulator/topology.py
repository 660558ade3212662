"""What exists in the local Azure before anybody calls it: identities, workspaces, storage accounts, one queue."""

import uuid
from dataclasses import dataclass

# Names in the local Azure are fixed, so that logs of two runs can be compared; secrets are made anew for each run.
NAMESPACE = uuid.UUID("6f1c8a52-2f6b-4b0e-9d55-8d1f2f0f7a11")
TENANT_ID = str(uuid.uuid5(NAMESPACE, "tenant"))


@dataclass(frozen=True)
class Identity:
    """A managed identity (or a person) that can get tokens here."""

    name: str

    @property
    def object_id(self) -> str:
        return str(uuid.uuid5(NAMESPACE, f"object:{self.name}"))

    @property
    def client_id(self) -> str:
        return str(uuid.uuid5(NAMESPACE, f"client:{self.name}"))


@dataclass(frozen=True)
class WorkspaceSpec:
    """An Azure ML workspace and the storage account behind its default datastores."""

    key: str
    subscription_id: str
    resource_group: str
    name: str
    location: str
    storage_account: str

    @property
    def arm_id(self) -> str:
        return (
            f"/subscriptions/{self.subscription_id}/resourceGroups/{self.resource_group}"
            f"/providers/Microsoft.MachineLearningServices/workspaces/{self.name}"
        )

    @property
    def workspace_guid(self) -> str:
        return str(uuid.uuid5(NAMESPACE, self.arm_id.lower()))


@dataclass(frozen=True)
class QueueSpec:
    """A Service Bus queue; durations in seconds."""

    name: str
    requires_session: bool = True
    lock_duration: float = 60.0
    max_delivery_count: int = 3
    duplicate_detection_window: float = 600.0
    default_time_to_live: float = 14 * 24 * 3600.0


PROMOTION_SERVICE = Identity("promotion-service")
DATA_SCIENTIST = Identity("data-scientist")

DEV = WorkspaceSpec("dev", "11111111-1111-4111-8111-111111111111", "rg-ml-dev", "ml-dev", "westeurope", "stmldev")
PROD = WorkspaceSpec("prod", "22222222-2222-4222-8222-222222222222", "rg-ml-prod", "ml-prod", "northeurope", "stmlprod")
TEST = WorkspaceSpec("test", "33333333-3333-4333-8333-333333333333", "rg-ml-test", "ml-test", "westeurope", "stmltest")


@dataclass(frozen=True)
class Topology:
    """Everything that one local Azure starts with."""

    identities: tuple[Identity, ...] = (PROMOTION_SERVICE, DATA_SCIENTIST)
    workspaces: tuple[WorkspaceSpec, ...] = (DEV, PROD, TEST)
    service_storage_account: str = "stpromotion"
    queue: QueueSpec = QueueSpec("promotions")
    custom_topic: str = "promotions"
    notifications_topic: str = "promotion-notifications"

    @property
    def storage_accounts(self) -> tuple[str, ...]:
        return (*(workspace.storage_account for workspace in self.workspaces), self.service_storage_account)
