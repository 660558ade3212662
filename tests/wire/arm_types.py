"""Resource Manager's types, in the form in which Azure publishes them for Bicep, and what a body has against them.

A file holds a list of types that refer to each other by position (`{"$ref": "#/5"}`).
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

REQUIRED, READ_ONLY, WRITE_ONLY = 1, 2, 4
# Azure's answers have these in every resource; the types list them only in part.
COMMON = frozenset({"id", "name", "type", "systemData", "etag"})


class ArmTypes:
    """The types of one api-version. `version` is that of the file's name."""

    def __init__(self, types: list[dict[str, Any]]) -> None:
        self._types = types
        self._resources = {
            each["name"].partition("@")[0].lower(): each for each in types if each["$type"] == "ResourceType"
        }

    @classmethod
    def read(cls, path: Path) -> Self:
        return cls(json.loads(path.read_text(encoding="utf-8")))

    def mistakes(self, resource_type: str, body: Mapping[str, Any]) -> list[str]:
        """What is wrong with a body that Azure is said to have answered: unknown fields, wrong kinds, unknown values."""
        resource = self._resources.get(resource_type.lower())
        if resource is None:
            return [f"{resource_type} is no resource type"]
        shown = {key: value for key, value in body.items() if key not in COMMON}
        return list(self._walk(self._at(resource["body"]), shown, resource_type.rpartition("/")[2]))

    def _at(self, reference: Mapping[str, str]) -> dict[str, Any]:
        return self._types[int(reference["$ref"].removeprefix("#/"))]

    def _walk(self, kind: dict[str, Any], value: Any, path: str) -> Iterator[str]:
        if value is None:
            return  # Azure shows what is not set as null, or leaves it out
        match kind["$type"]:
            case "ObjectType":
                yield from self._object(kind["properties"], kind.get("additionalProperties"), value, path)
            case "DiscriminatedObjectType":
                yield from self._discriminated(kind, value, path)
            case "ArrayType":
                if not isinstance(value, list):
                    yield f"{path} must be a list"
                    return
                for index, item in enumerate(value):
                    yield from self._walk(self._at(kind["itemType"]), item, f"{path}[{index}]")
            case "UnionType":
                found = [list(self._walk(self._at(each), value, path)) for each in kind["elements"]]
                if all(found):
                    yield f"{path} is {value!r}, which is none of {len(found)} that it may be"
            case "StringLiteralType":
                if not isinstance(value, str) or value.lower() != kind["value"].lower():
                    yield f"{path} is {value!r}, not {kind['value']!r}"
            case "StringType":
                if not isinstance(value, str):
                    yield f"{path} must be a text"
                elif (pattern := kind.get("pattern")) and not re.search(pattern, value):
                    yield f"{path} is {value!r}, which {pattern} does not match"
            case "IntegerType":
                if not isinstance(value, int) or isinstance(value, bool):
                    yield f"{path} must be a whole number"
            case "BooleanType":
                if not isinstance(value, bool):
                    yield f"{path} must be true or false"
            case _:
                return

    def _object(self, properties: Mapping[str, Any], more: Any, value: Any, path: str) -> Iterator[str]:
        if not isinstance(value, Mapping):
            yield f"{path} must be an object"
            return
        for name, inner in value.items():
            if name in properties:
                yield from self._walk(self._at(properties[name]["type"]), inner, f"{path}.{name}")
            elif more is not None:
                yield from self._walk(self._at(more), inner, f"{path}.{name}")
            else:
                yield f"{path}.{name} is unknown"
        for name, described in properties.items():
            if described["flags"] & REQUIRED and not described["flags"] & WRITE_ONLY and name not in {*value, *COMMON}:
                yield f"{path}.{name} is missing"

    def _discriminated(self, kind: dict[str, Any], value: Any, path: str) -> Iterator[str]:
        if not isinstance(value, Mapping):
            yield f"{path} must be an object"
            return
        chosen = str(value.get(kind["discriminator"])).lower()
        element = next((each for name, each in kind["elements"].items() if name.lower() == chosen), None)
        if element is None:
            yield f"{path}.{kind['discriminator']} is {chosen!r}, none of {', '.join(kind['elements'])}"
            return
        of_kind = self._at(element)
        yield from self._object(
            kind["baseProperties"] | of_kind["properties"], of_kind.get("additionalProperties"), value, path
        )
