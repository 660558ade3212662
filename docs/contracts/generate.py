"""Write the JSON Schemas in `schemas/` that follow from the product's models, and `openapi.json` from its routes.

`python docs/contracts/generate.py`
"""

import json
import os
import runpy
import sys
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
sys.path.insert(0, str(REPOSITORY))

from core.commands import EndpointCommand, PromoteModel  # noqa: E402 - found only now that the path is set
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


if __name__ == "__main__":
    (HERE / "openapi.json").write_text(api(), encoding="utf-8")
    for name, text in schemas().items():
        (HERE / "schemas" / name).write_text(text, encoding="utf-8")
