"""The policies that the engine is driven with."""

from functools import cache

from core.policy_file import LoadedPolicy, parse
from tests.unit.builders import DEV, PROD, TEST

ANY = "[model_registered, requested, tagged]"
CANARY = "rollout: {steps: [10, 50], bake: 10m, soak: 20m, analysis: {minimum_requests: 20%s}}"
VERIFIED = 'verification: {file: "recorded/{model}.jsonl", golden: {}}'
BATCH = (
    "serve: batch, compute: cpu, input: azureml://datastores/workspaceblobstore/paths/in/, "
    "output: azureml://datastores/workspaceblobstore/paths/out/"
)
WEEKEND = "freeze: {start: wednesday 12:30, end: wednesday 16:00, reason: a review}"

# Stages by the name of a policy.
STAGES = {
    "automatic": ["{target: prod, serve: realtime}"],
    "one endpoint for all": ["{target: prod, serve: realtime, endpoint: shared}"],
    "approved": ["{target: prod, serve: realtime, approval: {}}"],
    "canary": [f"{{target: prod, serve: realtime, {CANARY % ''}}}"],
    "canary that goes back in doubt": [f"{{target: prod, serve: realtime, {CANARY % ', inconclusive: roll_back'}}}"],
    "canary on one endpoint": [f"{{target: prod, serve: realtime, endpoint: shared, {CANARY % ''}}}"],
    "verified": [f"{{target: prod, serve: realtime, {VERIFIED}}}"],
    "two stages": [
        "{target: test, serve: realtime}",
        f"{{target: prod, serve: realtime, approval: {{}}, {CANARY % ', inconclusive: proceed'}}}",
    ],
    "several targets": ["{target: [prod, us], serve: realtime}"],
    "a fork": ["{target: test, serve: realtime}", f"{{target: [prod, us], serve: realtime, {WEEKEND}}}"],
    "batch": [
        f'{{target: prod, {BATCH}, schedule: {{trigger: {{type: cron, expression: "0 3 * * *"}}}}, '
        "test_data: azureml://datastores/workspaceblobstore/paths/test/, comparison: {}}"
    ],
    "both": ["{target: test, serve: realtime}", f"{{target: prod, {BATCH}, approval: {{}}}}"],
}


@cache
def policy(name: str, drift: str = "report") -> LoadedPolicy:
    def place(workspace: str, subscription: str) -> str:
        return (
            f"subscription_id: {subscription}, resource_group: rg-{workspace}, workspace: {workspace}, drift: {drift}"
        )

    stages = "".join(f"      - {stage}\n" for stage in STAGES[name])
    text = f"""\
version: 1
sources:
  dev: {{subscription_id: {DEV.subscription_id}, resource_group: {DEV.resource_group}, workspace: {DEV.workspace}, status_tags: true}}
targets:
  prod: {{{place("ml-prod", PROD.subscription_id)}}}
  test: {{{place("ml-test", TEST.subscription_id)}}}
  us: {{{place("ml-us", TEST.subscription_id)}}}
rules:
  - name: all
    match: {{trigger: {ANY}}}
    origin_if_unknown: notebook
    stages:
{stages}"""
    return parse(text.encode())
