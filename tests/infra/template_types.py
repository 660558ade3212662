"""What a template says of a resource, held against Resource Manager's types (extracts in `types/`, see `extract.py`)."""

from collections.abc import Iterator, Mapping
from typing import Any

from tests.infra.bicep import Resource, Unknown
from tests.wire.arm_types import COMMON, READ_ONLY, REQUIRED, ArmTypes


class TemplateTypes(ArmTypes):
    """As `ArmTypes`, for what is sent: nothing may be read-only, numbers have bounds, expressions are left alone."""

    def knows(self, resource_type: str) -> bool:
        return resource_type.lower() in self._resources

    def faults(self, resource: Resource) -> list[str]:
        """What Azure would refuse in a declared resource, as far as its types tell."""
        kind = self._at(self._resources[resource.type.lower()]["body"])
        return list(self._walk(kind, resource.body, resource.symbol))

    def _walk(self, kind: dict[str, Any], value: Any, path: str) -> Iterator[str]:
        if isinstance(value, Unknown):
            return
        yield from super()._walk(kind, value, path)
        if kind["$type"] != "IntegerType" or not isinstance(value, int):
            return
        if not kind.get("minValue", value) <= value <= kind.get("maxValue", value):
            yield f"{path} is {value}, not from {kind.get('minValue')} to {kind.get('maxValue')}"

    def _discriminated(self, kind: dict[str, Any], value: Any, path: str) -> Iterator[str]:
        if not (isinstance(value, Mapping) and isinstance(value.get(kind["discriminator"]), Unknown)):
            yield from super()._discriminated(kind, value, path)

    def _object(self, properties: Mapping[str, Any], more: Any, value: Any, path: str) -> Iterator[str]:
        yield from super()._object(properties, more, value, path)
        if not isinstance(value, Mapping):
            return
        for name, described in properties.items():
            if name in value and described["flags"] & READ_ONLY:
                yield f"{path}.{name} is Azure's to say"
            if name in COMMON and name not in value and described["flags"] & REQUIRED:
                yield f"{path}.{name} is missing"
