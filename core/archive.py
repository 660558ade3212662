"""The archive: what was deployed, as a folder that a team can commit to git. Pure.

One bundle for each promotion that has succeeded: scripts, environment, sample, the policy's stage, where everything came
from. The model itself is there by reference: its files with sizes and checksums, and where the copies are.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from core.packaging import Serving
from core.steps import Wanted

MANIFEST, PROVENANCE, POLICY, SAMPLE, README = (
    "manifest.json",
    "provenance.json",
    "stage.yaml",
    "sample_request.json",
    "README.md",
)


def bundle_name(promotion_id: str, attempt: int) -> str:
    """The name of a bundle in the archive: each attempt has its own."""
    return f"{promotion_id}/{attempt}"


def bundle(wanted: Wanted, result: Mapping[str, Any]) -> dict[str, str]:
    """The texts of a bundle by their path in it: equal for equal promotions, so that a repeat writes the same."""
    command = wanted.command
    provenance = {
        "promotion": command.promotion_id,
        "attempt": command.attempt,
        "model": command.model,
        "version": command.version,
        "origin": command.origin,
        "source": command.source.arm_id,
        "target": command.target.arm_id,
        "endpoint": command.endpoint,
        "deployment": command.deployment,
        "rule": command.rule,
        "policy_digest": command.policy_digest,
        "manifest_digest": command.manifest_digest,
        "recipe_digest": command.recipe_digest,
        "requested_by": command.requested_by,
        "requested_at": command.requested_at.isoformat(),
        "result": dict(result),
    }
    files = {
        MANIFEST: _json(wanted.manifest.model_dump(mode="json")),
        PROVENANCE: _json(provenance),
        POLICY: yaml.safe_dump(command.stage.model_dump(mode="json"), sort_keys=False),
        README: _readme(wanted),
        **dict(_serving(wanted.serving)),
    }
    if wanted.recipe.sample_request is not None:
        files[SAMPLE] = _json(wanted.recipe.sample_request)
    return files


def _serving(serving: Serving) -> Iterator[tuple[str, str]]:
    for path, text in (serving.code.files if serving.code else {}).items():
        yield f"code/{path}", text
    if serving.environment:
        yield "environment/conda.yaml", serving.environment.conda_file
        description = {"image": serving.environment.image, "repairs": list(serving.environment.repairs)}
        yield "environment/environment.json", _json(description)


def _readme(wanted: Wanted) -> str:
    command, stage = wanted.command, wanted.command.stage
    size = wanted.manifest.size
    return (
        f"# {command.model}:{command.version} as `{stage.serve}` on endpoint `{command.endpoint}` in `{stage.target}`\n\n"
        f"Promoted from `{command.source_name}` by rule `{command.rule}`. `{PROVENANCE}` says who asked and what came of "
        f"it, `{MANIFEST}` names the {len(wanted.manifest.files)} files of the model ({size} bytes), `{POLICY}` is the "
        "stage of the policy as it was then, `code/` and `environment/` are what the model was served with; without them "
        "Azure ML served it as an MLflow model by itself.\n"
    )


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
