"""The reader of Resource Manager's types, on types small enough to see through."""

from typing import Any

import pytest

from tests.wire.arm_types import ArmTypes

TYPES = ArmTypes(
    [
        {"$type": "StringType"},
        {"$type": "IntegerType"},
        {"$type": "StringLiteralType", "value": "Blue"},
        {"$type": "StringLiteralType", "value": "Green"},
        {"$type": "UnionType", "elements": [{"$ref": "#/2"}, {"$ref": "#/3"}]},
        {"$type": "ArrayType", "itemType": {"$ref": "#/1"}},
        {
            "$type": "ObjectType",
            "properties": {
                "colour": {"type": {"$ref": "#/4"}, "flags": 1},
                "sizes": {"type": {"$ref": "#/5"}, "flags": 0},
                "tags": {"type": {"$ref": "#/7"}, "flags": 0},
                "action": {"type": {"$ref": "#/8"}, "flags": 0},
                "secret": {"type": {"$ref": "#/0"}, "flags": 5},
            },
        },
        {"$type": "ObjectType", "properties": {}, "additionalProperties": {"$ref": "#/0"}},
        {
            "$type": "DiscriminatedObjectType",
            "discriminator": "kind",
            "baseProperties": {"note": {"type": {"$ref": "#/0"}, "flags": 0}},
            "elements": {"Run": {"$ref": "#/9"}},
        },
        {
            "$type": "ObjectType",
            "properties": {
                "kind": {"type": {"$ref": "#/0"}, "flags": 1},
                "times": {"type": {"$ref": "#/1"}, "flags": 0},
            },
        },
        {"$type": "ObjectType", "properties": {"properties": {"type": {"$ref": "#/6"}, "flags": 1}}},
        {"$type": "ResourceType", "name": "Some.Provider/things@2024-01-01", "body": {"$ref": "#/10"}},
    ]
)


@pytest.mark.parametrize(
    ("properties", "mistakes"),
    [
        (
            {"colour": "Blue", "sizes": [1, 2], "tags": {"a": "b"}, "action": {"kind": "run", "note": "x", "times": 2}},
            [],
        ),
        ({"colour": "blue", "sizes": None}, []),
        ({"colour": "red"}, ["things.properties.colour is 'red', which is none of 2 that it may be"]),
        ({}, ["things.properties.colour is missing"]),
        ({"colour": "Blue", "size": 1}, ["things.properties.size is unknown"]),
        ({"colour": "Blue", "sizes": ["1"]}, ["things.properties.sizes[0] must be a whole number"]),
        ({"colour": "Blue", "sizes": 1}, ["things.properties.sizes must be a list"]),
        ({"colour": "Blue", "tags": {"a": 1}}, ["things.properties.tags.a must be a text"]),
        ({"colour": "Blue", "action": {"kind": "walk"}}, ["things.properties.action.kind is 'walk', none of Run"]),
        ({"colour": "Blue", "action": {"kind": "run", "x": 1}}, ["things.properties.action.x is unknown"]),
    ],
)
def test_a_body_is_held_against_its_type(properties: Any, mistakes: list[str]) -> None:
    body = {"id": "/x", "name": "x", "properties": properties}
    assert TYPES.mistakes("Some.Provider/things", body) == mistakes


def test_a_type_that_nobody_knows_is_told() -> None:
    assert TYPES.mistakes("Some.Provider/nothing", {}) == ["Some.Provider/nothing is no resource type"]
