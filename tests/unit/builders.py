"""Values for the tables of the tests: valid as they come, each field can be set."""

from datetime import UTC, datetime
from typing import Any

from core import tags
from core.commands import PromoteModel, path_id, promotion_id
from core.environments import Environment
from core.events import WorkspaceId
from core.ledger import Approval, Decision
from core.origin import Origin
from core.packaging import Code, File, Manifest, Recipe, Serving
from core.policy import Trigger
from core.ports import (
    Compute,
    CopyState,
    CopyStatus,
    Deployment,
    Endpoint,
    Grant,
    InstanceType,
    Provisioning,
    Quota,
    Schedule,
    ScoringAnswer,
)
from core.stages import BatchStage, RealtimeStage
from core.steps import Seen, Wanted

DEV = WorkspaceId(
    subscription_id="11111111-1111-4111-8111-111111111111", resource_group="rg-ml-dev", workspace="ml-dev"
)
PROD = WorkspaceId(
    subscription_id="22222222-2222-4222-8222-222222222222", resource_group="rg-ml-prod", workspace="ml-prod"
)
TEST = WorkspaceId(
    subscription_id="33333333-3333-4333-8333-333333333333", resource_group="rg-ml-test", workspace="ml-test"
)
NOON = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)

POLICY = b"""\
version: 1
sources:
  dev:
    subscription_id: 11111111-1111-4111-8111-111111111111
    resource_group: rg-ml-dev
    workspace: ml-dev
targets:
  prod:
    subscription_id: 22222222-2222-4222-8222-222222222222
    resource_group: rg-ml-prod
    workspace: ml-prod
rules:
  - name: everything
    match:
      source: dev
      tags:
        promote-to: prod
    stages:
      - target: prod
        serve: realtime
        endpoint: "{model}"
        instance_count: 1
"""


def a_policy_with(old: str, new: str) -> bytes:
    """POLICY with one piece of its text replaced; the piece must be there once."""
    text = POLICY.decode()
    assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in the policy"
    return text.replace(old, new).encode()


def a_stage(**changes: Any) -> RealtimeStage:
    return RealtimeStage.model_validate({"target": "prod", "serve": "realtime"} | changes)


def a_batch_stage(**changes: Any) -> BatchStage:
    values = {
        "target": "prod",
        "serve": "batch",
        "compute": "cpu-cluster",
        "input": "azureml://datastores/workspaceblobstore/paths/in/",
        "output": "azureml://datastores/workspaceblobstore/paths/out/{model}/",
        "schedule": {"trigger": {"type": "cron", "expression": "0 3 * * *"}},
    }
    return BatchStage.model_validate(values | changes)


def a_manifest(**changes: Any) -> Manifest:
    return Manifest.model_validate(
        {
            "account_url": "https://stmldev.blob.core.windows.net",
            "container": "azureml",
            "root": "LocalUpload/0a1b/model",
            "folder": "model",
            "files": (
                File(path="MLmodel", size=645, etag='"0x1"', md5="XUFAKrxLKna5cZ2REBfFkg=="),
                File(path="model.pkl", size=4179, etag='"0x2"'),
            ),
        }
        | changes
    )


def a_recipe(**changes: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "kind": "mlflow",
            "flavors": {"python_function": {"loader_module": "mlflow.sklearn"}},
            "sample_request": {"input_data": {"columns": ["a"], "index": [0], "data": [[1.5]]}},
            "sample_source": "input_example.json",
        }
        | changes
    )


def a_command(**changes: Any) -> PromoteModel:
    """The promotion of churn:3 from dev to prod; its id follows from what it promotes, as intake makes it."""
    values: dict[str, Any] = {
        "source_name": "dev",
        "source": DEV,
        "model": "churn",
        "version": "3",
        "model_created_at": NOON,
        "origin": Origin.NOTEBOOK,
        "trigger": Trigger.MODEL_REGISTERED,
        "requested_by": "Data Scientist",
        "requested_at": NOON,
        "rule": "everything",
        "policy_digest": "p" * 64,
        "manifest_digest": a_manifest().digest,
        "recipe_digest": a_recipe().digest,
        "targets": {"prod": PROD, "test": TEST},
        "stages": (a_stage(),),
    } | changes
    path = path_id(values["source"], values["model"], values["version"], values["rule"])
    return PromoteModel.model_validate({"promotion_id": promotion_id(path, values.get("stage_number", 0))} | values)


def an_approval(command: PromoteModel, decision: Decision, question: str = "", **changes: Any) -> Approval:
    """What Ada has decided about the command's content."""
    values = {
        "promotion_id": command.promotion_id,
        "attempt": command.attempt,
        "decision": decision,
        "by": "Ada",
        "at": NOON,
        "comment": "odd",
        "question": question,
        "manifest_digest": command.manifest_digest,
        "recipe_digest": command.recipe_digest,
    }
    return Approval.model_validate(values | changes)


def a_batch_command(**changes: Any) -> PromoteModel:
    """The same model as a batch endpoint with a nightly schedule."""
    return a_command(**{"stages": (a_batch_stage(),), "recipe_digest": a_batch_recipe().digest} | changes)


def a_batch_recipe(**changes: Any) -> Recipe:
    serving = Serving(
        code=Code(files={"promotion_score.py": "pass"}, scoring_script="promotion_score.py"),
        environment=Environment(image="base", conda_file="dependencies: [python=3.11]\n", repairs=()),
    )
    return a_recipe(**{"batch": serving, "sample_rows": ({"a": 1.5},)} | changes)


def a_wanted(command: PromoteModel | None = None, recipe: Recipe | None = None) -> Wanted:
    return Wanted(command or a_command(), a_manifest(), recipe or a_recipe())


def an_endpoint(command: PromoteModel | None = None, **changes: Any) -> Endpoint:
    """The command's endpoint, claimed by it, without traffic."""
    command = command or a_command()
    return Endpoint.model_validate(
        {
            "name": command.endpoint,
            "tags": tags.claim(command),
            "traffic": {},
            "provisioning": Provisioning.SUCCEEDED,
            "scoring_uri": f"https://{command.endpoint}.northeurope.inference.ml.azure.com/score",
            "auth_mode": "key",
            "body": {},
        }
        | changes
    )


def a_live_endpoint(command: PromoteModel | None = None, **changes: Any) -> Endpoint:
    """The command's endpoint once its deployment has all the traffic."""
    command = command or a_command()
    stable = {tags.STABLE: command.deployment, tags.VERIFIED: "input_example.json"}
    return an_endpoint(
        command, **{"tags": tags.claim(command) | stable, "traffic": {command.deployment: 100}} | changes
    )


def a_deployment(command: PromoteModel | None = None, **changes: Any) -> Deployment:
    """The deployment that the command makes, well and running."""
    command = command or a_command()
    return Deployment.model_validate(
        {"name": command.deployment, "tags": tags.deployment(command), "provisioning": Provisioning.SUCCEEDED} | changes
    )


def a_schedule(command: PromoteModel | None = None, **changes: Any) -> Schedule:
    """The schedule that a batch command writes, well and enabled."""
    command = command or a_batch_command()
    stage = command.stage
    assert isinstance(stage, BatchStage)
    values = {
        "name": command.endpoint,
        "tags": tags.schedule(command, stage),
        "enabled": True,
        "provisioning": Provisioning.SUCCEEDED,
        "body": {},
    }
    return Schedule.model_validate(values | changes)


def a_copy(path: str = "MLmodel", **changes: Any) -> CopyState:
    """The finished copy of a file of the manifest."""
    size = next(file.size for file in a_manifest().files if file.path == path)
    values = {"path": path, "status": CopyStatus.COPIED, "size": size, "bytes_copied": size}
    return CopyState.model_validate(values | changes)


def an_answer(status: int | None, text: str = "[1]") -> ScoringAnswer:
    return ScoringAnswer(status=status, text=text, seconds=0.1)


def cleared(**changes: Any) -> Seen:
    """What a delivery has seen whose pre-flight found nothing in the way."""
    clear: dict[str, Any] = {
        "instance_type": InstanceType(name="STANDARD_DS3_V2", family="standardDSv2Family", vcpus=4),
        "quotas": (Quota(name="standardDSv2Family", label="Standard DSv2 Family", used=0, limit=100),),
        "grants": (Grant(actions=("*",)),),
        "compute": Compute(name="cpu-cluster", kind="AmlCompute", state="Succeeded", max_nodes=4),
    }
    return Seen(**(clear | changes))
