"""Inbound facts: Azure ML events in either envelope of Event Grid, with either casing of their keys.

Sources: Event Grid's documented schema for Azure Machine Learning. Its specification spells data keys in camelCase with
an integer version, its examples in PascalCase; both are accepted, versions as number or string.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from core.errors import Reason, Refusal

MODEL_REGISTERED = "Microsoft.MachineLearningServices.ModelRegistered"
RUN_COMPLETED = "Microsoft.MachineLearningServices.RunCompleted"
RUN_STATUS_CHANGED = "Microsoft.MachineLearningServices.RunStatusChanged"
# Of the resource group or subscription around the workspace: a write to any resource in it.
RESOURCE_WRITTEN = "Microsoft.Resources.ResourceWriteSuccess"
NAME_LIMIT = 255
_WORKSPACE_ID = re.compile(
    r"/subscriptions/(?P<subscription_id>[^/]+)/resourceGroups/(?P<resource_group>[^/]+)"
    r"/providers/Microsoft\.MachineLearningServices/workspaces/(?P<workspace>[^/]+)/?",
    re.IGNORECASE,
)
_MODEL_VERSION = re.compile(
    r"(?P<workspace_id>/subscriptions/[^/]+/resourceGroups/[^/]+"
    r"/providers/Microsoft\.MachineLearningServices/workspaces/[^/]+)/models/(?P<model>[^/]{1,255})"
    r"/versions/(?P<version>[^/]{1,255})",
    re.IGNORECASE,
)
# Azure ML's own rule for asset names and versions; anything else never becomes part of a URL of ours.
_ASSET_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]*")


class _Fact(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class WorkspaceId(_Fact):
    """An Azure ML workspace by the three names of its ARM id."""

    subscription_id: str
    resource_group: str
    workspace: str

    @classmethod
    def parse(cls, arm_id: str) -> "WorkspaceId":
        """Raises ValueError if this is not the ARM id of an Azure ML workspace."""
        found = _WORKSPACE_ID.fullmatch(arm_id)
        if not found:
            raise ValueError(f"not the ARM id of an Azure ML workspace: {arm_id[:200]!r}")
        return cls(**found.groupdict())

    @property
    def arm_id(self) -> str:
        return (
            f"/subscriptions/{self.subscription_id}/resourceGroups/{self.resource_group}"
            f"/providers/Microsoft.MachineLearningServices/workspaces/{self.workspace}"
        )

    @property
    def key(self) -> str:
        """Equal for two spellings of one workspace: ARM ids are case-insensitive."""
        return self.arm_id.lower()


class ModelRegistered(_Fact):
    """A model version was registered. Its data is a hint only: the model itself is read from the workspace."""

    event_id: str
    source: WorkspaceId
    model: str
    version: str
    time: datetime | None = None

    @property
    def subject(self) -> str:
        return f"models/{self.model}:{self.version}"


class RunEnded(_Fact):
    """A run completed, or failed (`completed` tells which: Event Grid has one event type for each).

    `experiment`, `tags` and `properties` are hints: they serve to leave a run alone without a request, and nothing else.
    """

    event_id: str
    source: WorkspaceId
    run_id: str
    completed: bool
    time: datetime | None = None
    experiment: str | None = None
    tags: Mapping[str, str] = Field(default_factory=dict)
    properties: Mapping[str, str] = Field(default_factory=dict)

    @property
    def subject(self) -> str:
        return f"runs/{self.run_id}"


Fact = ModelRegistered | RunEnded


class ModelWritten(_Fact):
    """Somebody wrote to a model version, such as its tags: a hint to look at it."""

    source: WorkspaceId
    model: str
    version: str


def written_model(envelope: Mapping[str, Any]) -> ModelWritten | None:
    """The model version that a write of a resource was about; None for all else that is written in a resource group."""
    fields = {key.lower(): value for key, value in envelope.items()}
    data = _data(fields)
    resource = data.get("resourceuri") or fields.get("subject") or ""
    found = _MODEL_VERSION.fullmatch(resource) if isinstance(resource, str) else None
    if found is None or not all(_ASSET_PART.fullmatch(found[part]) for part in ("model", "version")):
        return None
    return ModelWritten(source=WorkspaceId.parse(found["workspace_id"]), model=found["model"], version=found["version"])


def is_resource_write(envelope: Mapping[str, Any]) -> bool:
    fields = {key.lower(): value for key, value in envelope.items()}
    return RESOURCE_WRITTEN in (fields.get("eventtype"), fields.get("type"))


def parse(envelope: Mapping[str, Any]) -> Fact:
    """One event, as a fact.

    `envelope` has the keys of Event Grid's schema (`topic`, `eventType`, `eventTime`) or of CloudEvents 1.0 (`source`,
    `type`, `time`). Raises Refusal for what is no event of an Azure ML workspace that we know how to read.
    """
    fields = {key.lower(): value for key, value in envelope.items()}
    event_type = _text(fields, "eventtype", "type")
    if event_type not in (MODEL_REGISTERED, RUN_COMPLETED, RUN_STATUS_CHANGED):
        raise Refusal(
            Reason.EVENT_TYPE_UNKNOWN,
            f"event type {event_type[:200]!r} is none that promotes a model",
            remedy=f"Subscribe to {MODEL_REGISTERED}, RunCompleted and RunStatusChanged only.",
        )
    workspace = _workspace(_text(fields, "topic", "source"))
    event_id, subject, time = _text(fields, "id"), _text(fields, "subject"), _time(fields)
    if event_type == MODEL_REGISTERED:
        model, version = _model_version(subject, _data(fields))
        return ModelRegistered(event_id=event_id, source=workspace, model=model, version=version, time=time)
    data = _data(fields)
    return RunEnded(
        event_id=event_id,
        source=workspace,
        run_id=_run_id(subject, data),
        completed=event_type == RUN_COMPLETED,
        time=time,
        experiment=data["experimentname"] if isinstance(data.get("experimentname"), str) else None,
        tags=_texts(data.get("runtags")),
        properties=_texts(data.get("runproperties")),
    )


def _malformed(message: str) -> Refusal:
    return Refusal(
        Reason.EVENT_MALFORMED, message, remedy="Check who publishes this event: Azure ML's own events always have it."
    )


def _text(fields: Mapping[str, Any], *names: str) -> str:
    for name in names:
        value = fields.get(name)
        if isinstance(value, str) and value.strip():
            return value
    raise _malformed(f"the event has no {' or '.join(names)}")


def _workspace(arm_id: str) -> WorkspaceId:
    try:
        return WorkspaceId.parse(arm_id)
    except ValueError as error:
        raise _malformed(f"the event's topic or source is {error}") from error


def _time(fields: Mapping[str, Any]) -> datetime | None:
    value = fields.get("eventtime") or fields.get("time")
    return value if isinstance(value, datetime) else None


def _data(fields: Mapping[str, Any]) -> dict[str, Any]:
    data = fields.get("data")
    return {key.lower(): value for key, value in data.items()} if isinstance(data, Mapping) else {}


def _model_version(subject: str, data: Mapping[str, Any]) -> tuple[str, str]:
    """Name and version from the data; from the subject `models/{name}:{version}` where the data lacks them."""
    subject_name, colon, subject_version = subject.removeprefix("models/").rpartition(":")
    name = data.get("modelname") or subject_name
    version = data.get("modelversion")
    if version in (None, ""):
        version = subject_version if colon else ""
    if isinstance(version, bool) or not isinstance(version, int | str | float):
        raise _malformed(f"modelVersion is {type(version).__name__}, not a number or a string")
    if isinstance(version, float):
        version = int(version) if version.is_integer() else str(version)
    return _asset_part("modelName", name), _asset_part("modelVersion", str(version))


def _asset_part(field: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise _malformed(f"the event has no {field}")
    if not is_asset_name(value):
        raise _malformed(f"{field} {value[:80]!r} is no valid Azure ML name")
    return value


def _texts(values: object) -> dict[str, str]:
    found = values if isinstance(values, Mapping) else {}
    return {str(key): value for key, value in found.items() if isinstance(value, str)}


def _run_id(subject: str, data: Mapping[str, Any]) -> str:
    run_id = data.get("runid") or subject.rpartition("/runs/")[2]
    if not is_run_id(run_id):
        raise _malformed("the event has no valid runId")
    return str(run_id)


def is_run_id(value: object) -> bool:
    """Whether this may become part of a URL as the id of a run."""
    return isinstance(value, str) and len(value) <= NAME_LIMIT and _RUN_ID.fullmatch(value) is not None


def is_asset_name(value: str) -> bool:
    """Whether this may be the name or version of an asset, and become part of a URL."""
    return len(value) <= NAME_LIMIT and _ASSET_PART.fullmatch(value) is not None
