"""What the resources of Azure ML have in common: states, pages, and whole bodies that an update must bring back."""

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

from core.adapters.arm import Arm
from core.errors import Blocked, PromotionError, Reason, Refusal, Transient
from core.ports import Deployment, Provisioning, TargetAsset

_STATES = {
    "succeeded": Provisioning.SUCCEEDED,
    "failed": Provisioning.FAILED,
    "canceled": Provisioning.FAILED,
    "deleting": Provisioning.DELETING,
}
# What Azure ML answers, and what a PUT may bring back.
_WRITABLE = ("location", "tags", "identity", "kind", "sku")


def body_of(rest_object: Any) -> dict[str, Any]:
    """An SDK entity's own REST form. Its method is not public API, hence the pinned SDK and a test on the wire."""
    return dict(rest_object.as_dict())


def asset(arm: Arm, path: str, *, api_version: str | None = None) -> TargetAsset | None:
    """A version of an asset, if it is there."""
    body = arm.find(path, api_version=api_version)
    if body is None:
        return None
    properties = body["properties"]
    return TargetAsset(id=body["id"], tags=properties.get("tags") or {}, archived=bool(properties.get("isArchived")))


def provisioning(properties: Mapping[str, Any]) -> Provisioning:
    state = str(properties.get("provisioningState", "")).lower()
    return _STATES.get(state, Provisioning.CHANGING)


def deployments(arm: Arm, path: str, *, api_version: str | None = None) -> tuple[Deployment, ...]:
    """All deployments of an endpoint that was there a moment ago: if it is gone now, somebody is deleting it."""
    try:
        items = pages(arm, path, api_version=api_version)
    except Refusal as refusal:
        if refusal.reason is not Reason.TARGET_NOT_FOUND:
            raise
        raise Transient(f"the endpoint went away while its deployments were listed: {refusal}") from refusal
    return tuple(
        Deployment(name=item["name"], tags=item.get("tags") or {}, provisioning=provisioning(item["properties"]))
        for item in items
    )


def pages(arm: Arm, path: str, *, api_version: str | None = None) -> list[Mapping[str, Any]]:
    """All items of a list. `nextLink` is followed by its parameter, so that no answer leads our token elsewhere."""
    return [item for page in each_page(arm, path, api_version=api_version) for item in page]


def each_page(arm: Arm, path: str, *, api_version: str | None = None) -> Iterator[list[Mapping[str, Any]]]:
    """As `pages`, one request at a time."""
    query: dict[str, str] = {}
    while True:
        page = arm.get(path, query, api_version=api_version)
        yield page.get("value") or []
        skip = parse_qs(urlsplit(page.get("nextLink") or "").query).get("$skip")
        if not skip:
            return
        query = {"$skip": skip[0]}


def with_changes(
    body: Mapping[str, Any], read_only: frozenset[str], *, tags: Mapping[str, str], properties: Mapping[str, Any]
) -> dict[str, Any]:
    """The whole resource as read, without what is Azure's to say, with these tags and properties."""
    kept: dict[str, Any] = {key: body[key] for key in _WRITABLE if body.get(key) is not None}
    if "identity" in kept:
        kept["identity"] = _identity(kept["identity"])
    old = {key: value for key, value in body["properties"].items() if key not in read_only}
    return kept | {"tags": dict(tags), "properties": old | dict(properties)}


def _identity(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Principal and client ids are Azure's to give; a PUT names the kind and the user-assigned identities only."""
    users = identity.get("userAssignedIdentities")
    return {"type": identity["type"]} | ({"userAssignedIdentities": {key: {} for key in users}} if users else {})


def name_taken(fault: Transient) -> PromotionError:
    """What a refused creation of an endpoint means: 409 is a name that somebody else in the region has."""
    if "HTTP 409" not in str(fault):
        return fault
    return Blocked(
        Reason.ENDPOINT_NAME_TAKEN,
        str(fault),
        remedy="Endpoint names are unique in a region: set another `endpoint` in the stage, or free this one.",
    )


def out_of_quota(refusal: Refusal) -> PromotionError:
    """What a refused creation of a deployment means: Azure ML names no code for it, but its own page about it."""
    if "#error-outofquota" not in str(refusal):
        return refusal
    return Blocked(
        Reason.QUOTA_EXCEEDED,
        str(refusal),
        remedy="Ask for more quota (Azure portal: Quotas, Machine learning), delete deployments that nobody needs; or "
        "cancel it, set a smaller `instance_type` or `instance_count`, and promote again.",
    )


def flavors_as_texts(flavors: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Resource Manager takes texts only; what a flavor nests (its environments, say) stays in MLmodel itself."""
    return {
        name: {key: str(value) for key, value in flavor.items() if isinstance(value, str | int | float | bool)}
        for name, flavor in flavors.items()
        if isinstance(flavor, Mapping)
    }
