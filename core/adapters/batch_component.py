"""The batch component, as Azure ML's component YAML: plan, score in parallel, collect. Pure.

    data ──► plan ──► score (parallel, one mini-batch of files at a time) ──► collect ──► predictions

The failure thresholds of parallel steps ignore every failure unless they are set, and count mini-batches; so `plan` makes
the mini-batches and `collect` counts the files, and a mini-batch that fails altogether fails the run.
"""

import hashlib
import json
from typing import Any

from core.events import WorkspaceId
from core.ports import ComponentSpec
from core.stages import seconds

# Azure ML gives a parallel job ten minutes for what is not scoring only if it is told to.
TASK_OVERHEAD_SECONDS = 1200


def component_files(spec: ComponentSpec, workspace: WorkspaceId) -> list[dict[str, Any]]:
    """The steps, and after them the pipeline component that refers to them by ARM id."""
    steps = [_plan(spec), _score(spec), _collect(spec)]
    steps = [step | {"version": _version(step)} for step in steps]
    ids = [f"azureml:{workspace.arm_id}/components/{step['name']}/versions/{step['version']}" for step in steps]
    return [*steps, _pipeline(spec, *ids)]


def _version(step: dict[str, Any]) -> str:
    """Equal steps are one asset, whatever model they score."""
    return hashlib.sha256(json.dumps(step, sort_keys=True).encode()).hexdigest()[:16]


def _folder(**more: Any) -> dict[str, Any]:
    return {"type": "uri_folder", **more}


def _plan(spec: ComponentSpec) -> dict[str, Any]:
    stage = spec.stage
    return _command(
        spec,
        "promotion_plan",
        inputs={"data": _folder()},
        outputs={"batches": _folder(), "state": _folder(mode="rw_mount")},
        command="python promotion_plan.py --data ${{inputs.data}} --batches ${{outputs.batches}} "
        f"--state ${{{{outputs.state}}}} --files-per-batch {stage.mini_batch_size} --overlap {stage.overlap} "
        f"--stale-after {seconds(stage.overlap_timeout):.0f}",
    )


def _collect(spec: ComponentSpec) -> dict[str, Any]:
    stage = spec.stage
    return _command(
        spec,
        "promotion_collect",
        inputs={"batches": _folder(), "parts": _folder()},
        outputs={"predictions": _folder(mode="rw_mount"), "state": _folder(mode="rw_mount")},
        command="python promotion_collect.py --batches ${{inputs.batches}} --parts ${{inputs.parts}} "
        "--predictions ${{outputs.predictions}} --state ${{outputs.state}} "
        f"--error-threshold {stage.error_threshold} --output-file-name {stage.output_file_name}",
    )


def _command(
    spec: ComponentSpec, name: str, *, inputs: dict[str, Any], outputs: dict[str, Any], command: str
) -> dict[str, Any]:
    return {
        "type": "command",
        "name": name,
        "is_deterministic": False,
        "inputs": inputs,
        "outputs": outputs,
        "code": f"azureml:{spec.code_id}",
        "environment": f"azureml:{spec.environment_id}",
        "command": command,
    }


def _score(spec: ComponentSpec) -> dict[str, Any]:
    stage = spec.stage
    return {
        "type": "parallel",
        "name": "promotion_score",
        "is_deterministic": False,
        "inputs": {"batches": _folder(), "data": _folder(), "model": {"type": spec.model_type}},
        "outputs": {"parts": _folder()},
        "input_data": "${{inputs.batches}}",
        "mini_batch_size": "1",
        "resources": {"instance_count": stage.instance_count},
        "max_concurrency_per_instance": stage.max_concurrency_per_instance,
        "error_threshold": 0,
        "mini_batch_error_threshold": 0,
        "retry_settings": stage.retry_settings.model_dump(),
        "logging_level": "INFO",
        "task": {
            "type": "run_function",
            "code": f"azureml:{spec.code_id}",
            "entry_script": "promotion_score.py",
            "environment": f"azureml:{spec.environment_id}",
            "program_arguments": "--model ${{inputs.model}} --data ${{inputs.data}} --parts ${{outputs.parts}} "
            f"--error_threshold 0 --allowed_failed_percent 0 --task_overhead_timeout {TASK_OVERHEAD_SECONDS}",
        },
    }


def _pipeline(spec: ComponentSpec, plan: str, score: str, collect: str) -> dict[str, Any]:
    """The model is a literal input of the step: a batch endpoint's caller cannot name a registered model."""
    model = {"type": spec.model_type, "path": f"azureml:{spec.model_id}", "mode": "download"}
    data, batches, parts = (
        "${{parent.inputs.data}}",
        "${{parent.jobs.plan.outputs.batches}}",
        "${{parent.jobs.score.outputs.parts}}",
    )
    return {
        "type": "pipeline",
        "name": spec.name,
        "version": spec.version,
        "tags": dict(spec.tags),
        "inputs": {"data": _folder()},
        "outputs": {"predictions": _folder(), "state": _folder(), "state_after": _folder()},
        "jobs": {
            "plan": {
                "type": "command",
                "component": plan,
                "inputs": {"data": data},
                "outputs": {"state": "${{parent.outputs.state}}"},
            },
            "score": {
                "type": "parallel",
                "component": score,
                "inputs": {"batches": batches, "data": data, "model": model},
            },
            "collect": {
                "type": "command",
                "component": collect,
                "inputs": {"batches": batches, "parts": parts},
                "outputs": {
                    "predictions": "${{parent.outputs.predictions}}",
                    "state": "${{parent.outputs.state_after}}",
                },
            },
        },
    }
