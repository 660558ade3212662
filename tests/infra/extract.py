"""Takes the types that infra/ uses out of a checkout of Azure/bicep-types-az, into tests/infra/types/.

    python -m tests.infra.extract CHECKOUT

Descriptions and everything that our resources cannot reach are left out. To be run again when a resource type or an
api-version is added; `test_templates.py` tells when.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.infra import bicep

TYPES = Path(__file__).parent / "types"
ROOT = Path(__file__).parent.parent.parent / "infra"


def used(root: Path = ROOT) -> dict[tuple[str, str], set[str]]:
    """The resource types of the templates, in lower case, by provider and api-version."""
    found: dict[tuple[str, str], set[str]] = {}
    for template in bicep.templates(root).values():
        for resource in template.resources:
            provider = resource.type.partition("/")[0].lower()
            found.setdefault((provider, resource.api_version), set()).add(resource.type.lower())
    return found


def file_name(provider: str, api_version: str) -> str:
    return f"{provider}@{api_version}.json"


def extract(types: list[dict[str, Any]], names: set[str]) -> list[dict[str, Any]]:
    """These resource types and all that they refer to, renumbered."""
    wanted = [
        index
        for index, each in enumerate(types)
        if each["$type"] == "ResourceType" and each["name"].partition("@")[0].lower() in names
    ]
    order: dict[int, int] = {}
    pending = wanted
    while pending:
        index = pending.pop(0)
        if index not in order:
            order[index] = len(order)
            pending += _references(_slim(types[index]))
    return [_renumbered(_slim(types[index]), order) for index in order]


def _slim(value: Any) -> Any:
    if isinstance(value, dict):
        # `functions` of a resource are operations such as listKeys, which no template here calls.
        return {key: _slim(inner) for key, inner in value.items() if key != "functions" and not _is_prose(key, inner)}
    return [_slim(each) for each in value] if isinstance(value, list) else value


def _is_prose(key: str, value: Any) -> bool:
    """A property may be called `description` as well."""
    return key == "description" and isinstance(value, str)


def _references(value: Any) -> list[int]:
    if isinstance(value, dict):
        if "$ref" in value:
            return [int(value["$ref"].removeprefix("#/"))]
        return [index for each in value.values() for index in _references(each)]
    return [index for each in value for index in _references(each)] if isinstance(value, list) else []


def _renumbered(value: Any, order: dict[int, int]) -> Any:
    if isinstance(value, dict):
        if "$ref" in value:
            return {"$ref": f"#/{order[int(value['$ref'].removeprefix('#/'))]}"}
        return {key: _renumbered(each, order) for key, each in value.items()}
    return [_renumbered(each, order) for each in value] if isinstance(value, list) else value


def main(checkout: Path) -> None:
    def git(*command: str) -> str:
        done = subprocess.run(["git", "-C", str(checkout), *command], check=True, capture_output=True, text=True)
        return done.stdout

    files = git("ls-tree", "-r", "HEAD", "--name-only", "generated").splitlines()
    for (provider, api_version), names in sorted(used().items()):
        lines: list[str] = []
        for file in files:
            if file.lower().endswith(f"/{provider}/{api_version}/types.json"):
                found = extract(json.loads(git("show", f"HEAD:{file}")), names)
                if found:
                    lines = [json.dumps(each, separators=(",", ":")) for each in found]
        text = "[\n" + ",\n".join(lines) + "\n]\n"
        (TYPES / file_name(provider, api_version)).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
