"""Write the JSON Schemas in `schemas/` that follow from the product's models. `python docs/contracts/generate.py`."""

import json
import sys
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from core.commands import EndpointCommand, PromoteModel  # noqa: E402 - found only now that the path is set
from core.ledger import Approval, AuditRecord, EventRecord, Hold, Promotion, StepRecord  # noqa: E402
from core.policy import Policy  # noqa: E402

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
}


def schemas() -> dict[str, str]:
    """The text of each generated file, by its name."""
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return {
        name: json.dumps(dialect | model.model_json_schema(mode=mode), indent=2) + "\n"
        for name, (model, mode) in MODELS.items()
    }


if __name__ == "__main__":
    for name, text in schemas().items():
        (HERE / "schemas" / name).write_text(text, encoding="utf-8")
