"""From a scoring script and its contract to a recipe: the script itself online, our batch driver around it in jobs."""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core import environments
from core.environments import Environment
from core.errors import not_servable
from core.packaging import FROM_SCORING_SCRIPT, Code, Recipe, Serving
from core.recipes.material import BATCH, REALTIME, Material
from core.scoring_contract import Contract

SCORING = Path(__file__).parents[1] / "scoring"
BATCH_DRIVER, BATCH_SETTINGS, ENTRY = "promotion_score.py", "scoring.json", "entry"
SIGNATURE = "promotion_signature.py"
BATCH_SCRIPTS = ("promotion_plan.py", BATCH_DRIVER, "promotion_collect.py", "promotion_entry.py", SIGNATURE)


def scripted(
    kind: Any,
    material: Material,
    code: Code,
    environment: Environment,
    contract: Contract,
    source: str,
    *,
    folder_name: str | None = None,
) -> Recipe:
    """The recipe of a model with a scoring script: the script itself, and our batch driver around it."""
    request = contract.sample_request
    settings = {
        "kind": "script",
        "script": f"{ENTRY}/{code.scoring_script}",
        "model": {"name": material.name, "version": material.version, "folder": folder_name},
        "request": {"template": _rows_template(contract), "rows_as": contract.rows_as},
        "columns": list(contract.columns) if contract.columns else None,
    }
    if BATCH in material.modes and contract.style == "raw":
        raise not_servable(
            f"{code.scoring_script} takes raw HTTP requests, which a batch job does not make",
            "Serve it with `serve: realtime`, or give the rule a scoring script that takes rows.",
        )
    entry = {f"{ENTRY}/{path}": text for path, text in code.files.items()}
    return Recipe(
        kind=kind,
        model_type="custom_model",
        realtime=Serving(code=code, environment=environment) if REALTIME in material.modes else None,
        batch=batch(settings, entry, environment) if BATCH in material.modes else None,
        sample_request=request,
        sample_source=source if request is not None else None,
        sample_rows=_rows_in(request, contract) if source != FROM_SCORING_SCRIPT else None,
    )


def _rows_template(contract: Contract) -> Any:
    """What an undecorated script is sent, if nothing says otherwise: the form of Azure ML's own examples."""
    return contract.request_template if contract.request_template is not None else {"data": "$rows"}


def _rows_in(request: Any, contract: Contract) -> tuple[Mapping[str, Any], ...] | None:
    """The rows of a request by column; None if they are bare values."""
    rows = _find_rows(request, contract.request_template)
    if not rows or not all(isinstance(row, Mapping) for row in rows):
        return None
    return tuple({key: _plain_number(value) for key, value in row.items()} for row in rows)


def _find_rows(request: Any, template: Any) -> list[Any] | None:
    if template == "$rows":
        return request if isinstance(request, list) else None
    if isinstance(template, Mapping) and isinstance(request, Mapping):
        found = (_find_rows(request.get(key), inner) for key, inner in template.items())
        return next((rows for rows in found if rows is not None), None)
    return None


def _plain_number(value: Any) -> Any:
    """Designer writes a missing number as an object."""
    return None if value == {"isNan": True} else value


def batch(settings: Mapping[str, Any], entry: Mapping[str, str], environment: Environment) -> Serving:
    texts = shipped(*BATCH_SCRIPTS)
    texts |= {BATCH_SETTINGS: json.dumps(settings, indent=2, sort_keys=True) + "\n", **entry}
    return Serving(code=Code(files=texts, scoring_script=BATCH_DRIVER), environment=environments.for_batch(environment))


@functools.cache
def _text_of(name: str) -> str:
    return (SCORING / name).read_text(encoding="utf-8")


def shipped(*names: str) -> dict[str, str]:
    """Scripts of ours that run in the target, by name."""
    return {name: _text_of(name) for name in names}
