"""Write what follows from the product's models: the JSON Schemas in `schemas/`, `openapi.json` from its routes, and the
reference of the policy, `../policy-reference.md`.

`python docs/contracts/generate.py`
"""

import json
import os
import re
import runpy
import sys
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
sys.path.insert(0, str(REPOSITORY))

from core import durations  # noqa: E402 - found only now that the path is set
from core.commands import EndpointCommand, PromoteModel  # noqa: E402
from core.ledger import Approval, AuditRecord, EventRecord, Hold, Promotion, StepRecord  # noqa: E402
from core.notifications import DATA  # noqa: E402
from core.policy import Policy  # noqa: E402
from functions import openapi  # noqa: E402

# What others write is described as it is read, with its defaults; what this service writes, as it is written.
MODELS: dict[str, tuple[type[BaseModel], Literal["validation", "serialization"]]] = {
    "policy.json": (Policy, "validation"),
    "command.json": (PromoteModel, "validation"),
    "promotion.json": (Promotion, "serialization"),
    "step.json": (StepRecord, "serialization"),
    "event.json": (EventRecord, "serialization"),
    "word.json": (EndpointCommand, "validation"),
    "approval.json": (Approval, "serialization"),
    "hold.json": (Hold, "serialization"),
    "audit.json": (AuditRecord, "serialization"),
    **{f"{kind}.json": (data, "serialization") for kind, data in DATA.items()},
}


def schemas() -> dict[str, str]:
    """The text of each generated file, by its name."""
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return {
        name: json.dumps(dialect | model.model_json_schema(mode=mode), indent=2) + "\n"
        for name, (model, mode) in MODELS.items()
    }


def function_app() -> dict[str, Any]:
    """The names of `function_app.py`, as it is with the sample settings. It connects to nothing."""
    sample = json.loads((REPOSITORY / "local.settings.sample.json").read_text(encoding="utf-8"))["Values"]
    before = dict(os.environ)
    os.environ.update(sample | {"PROMOTION_POLICY": "promotion.sample.yaml"})
    try:
        return runpy.run_path(str(REPOSITORY / "function_app.py"))
    finally:
        os.environ.clear()
        os.environ.update(before)


def api() -> str:
    """The text of `openapi.json`."""
    operations = [operation for module in function_app()["API"] for operation in module.operations]
    return json.dumps(openapi.document(operations), indent=2) + "\n"


# ---------------------------------------------------------------------------------------------- reference of the policy

REFERENCE = HERE.parent / "policy-reference.md"
# Where `policy.md` tells more about a model of the policy.
TOLD = {
    "Policy": "the-file",
    "SourceWorkspace": "a-source",
    "TargetWorkspace": "a-target",
    "Rule": "a-rule",
    "Match": "a-rule",
    "Scoring": "a-scoring-script",
    "EnvironmentFile": "a-scoring-script",
    "Gates": "gates",
    "MetricGate": "a-metric",
    "BetterThanLive": "a-metric",
    "Freeze": "a-freeze-window",
    "RealtimeStage": "a-real-time-stage",
    "Verification": "a-verification",
    "RecordedRequest": "a-verification",
    "Golden": "a-verification",
    "Rollout": "a-rollout",
    "Analysis": "a-rollout",
    "BatchStage": "a-batch-stage",
    "JobSchedule": "a-schedule",
    "StageOfSeveralTargets": "several-targets-at-once",
}
_INTRODUCTION = """\
<!-- Generated from core/policy.py by docs/contracts/generate.py: change the fields there. -->
# Policy reference

Every field of `promotion.yaml`, with its type, its default, its bounds, and what it means. How they work together, with
examples, is in [contracts/policy.md](contracts/policy.md); for editors there is
[contracts/schemas/policy.json](contracts/schemas/policy.json). A field that is not here is refused, and so is what contradicts another
field; each mistake is told with its line when the app starts, or by `python -m promotions policy check FILE`.

A *duration* is a number and `s`, `m`, `h` or `d`, such as `60m`.
"""


def reference() -> str:
    """The text of `policy-reference.md`: one section for each model, in the order in which one leads to the next."""
    schema = Policy.model_json_schema()
    models = {"Policy": schema, **{name: each for name, each in schema["$defs"].items() if "properties" in each}}
    enums = {name: each["enum"] for name, each in schema["$defs"].items() if "enum" in each}
    order: list[str] = []

    def visit(name: str) -> None:
        if name in models and name not in order:
            order.append(name)
            for below in re.findall(r'"#/\$defs/(\w+)"', json.dumps(models[name]["properties"])):
                visit(below)

    visit("Policy")
    return "\n".join([_INTRODUCTION, *(_section(name, models[name], enums) for name in order)])


def _section(name: str, model: dict[str, Any], enums: dict[str, list[str]]) -> str:
    required = model.get("required", ())
    rows = [
        f"| `{field}` | {_type(each, enums)} | {_default(each, field in required)} | {_bounds(each)} | {_plain(each['description'])} |"
        for field, each in model["properties"].items()
    ]
    told = f"\n\nMore: [policy.md](contracts/policy.md#{TOLD[name]})." if name in TOLD else ""
    head = "| field | type | default | bounds | meaning |\n| --- | --- | --- | --- | --- |"
    return "\n".join([f"## {name}\n\n{_plain(model['description'])}{told}\n", head, *rows, ""])


def _type(field: dict[str, Any], enums: dict[str, list[str]]) -> str:
    if ref := field.get("$ref"):
        name = ref.rpartition("/")[2]
        return _values(enums[name]) if name in enums else f"[{name}](#{name.lower()})"
    if several := field.get("anyOf") or field.get("oneOf"):
        return " or ".join(_type(each, enums) for each in several if each.get("type") != "null")
    if "enum" in field or "const" in field:
        return _values(field.get("enum") or [field["const"]])
    if field.get("type") == "array":
        return f"list of {_type(field['items'], enums)}"
    if field.get("type") == "object":
        below = field.get("additionalProperties")
        return f"by name, {_type(below, enums)}" if isinstance(below, dict) else "object"
    if field.get("pattern") == durations.PATTERN:
        return "duration"
    kind = str(field.get("type", "any JSON"))
    return {"string": "text", "boolean": "`true` or `false`"}.get(kind, kind)


def _plain(text: str) -> str:
    """As it is read, and no markup by accident; what stands in backticks is none anyway."""
    parts = text.split("`")
    parts[::2] = [re.sub(r"[*<]", r"\\\g<0>", part) for part in parts[::2]]
    return "`".join(parts)


def _values(values: list[Any]) -> str:
    return ", ".join(f"`{each}`" for each in values)


def _default(field: dict[str, Any], is_required: bool) -> str:
    if is_required:
        return "required"
    value = field.get("default")
    if isinstance(value, dict):
        return "its defaults"
    if isinstance(value, list) and value:
        return _values(value)
    return "none" if value in (None, "", []) else f"`{json.dumps(value).strip(chr(34))}`"


def _bounds(field: dict[str, Any]) -> str:
    inner = [
        field,
        *field.get("anyOf", ()),
        field.get("items", {}),
        *(each.get("items", {}) for each in field.get("anyOf", ())),
    ]
    found = []
    for each in inner:
        for least, most, what in _RANGES:
            low, high = each.get(least), each.get(most)
            if low == 1 and high is None and what:
                found.append("not empty")
            elif low is not None and high is not None:
                found.append(f"{low} to {high}{what}")
            elif low is not None or high is not None:
                found.append(f"at {'least' if high is None else 'most'} {low if high is None else high}{what}")
        if (pattern := each.get("pattern")) and pattern != durations.PATTERN:
            found.append(f"`{pattern}`".replace("|", "\\|"))
    return "; ".join(found)


_RANGES = (
    ("minimum", "maximum", ""),
    ("minLength", "maxLength", " characters"),
    ("minItems", "maxItems", " entries"),
    ("minProperties", "maxProperties", " entries"),
)


if __name__ == "__main__":
    (HERE / "openapi.json").write_text(api(), encoding="utf-8")
    REFERENCE.write_text(reference(), encoding="utf-8")
    for name, text in schemas().items():
        (HERE / "schemas" / name).write_text(text, encoding="utf-8")
