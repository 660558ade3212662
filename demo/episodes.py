"""What operators do: ask by a tag, approve, repair, resubmit, roll back, deploy elsewhere. Each on a model trained here."""

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from demo.azure import Operations, Users, Workspaces
from demo.models import Trained
from demo.progress import Progress
from demo.watch import Watch
from emulator.control_client import ControlClient

APPROVER = "Ada Approver"
FAULT_BODY = {"a proxy": "answered instead of Azure"}
# Before the service gives up a message it meets the fault six times, after longer and longer waits.
LONGEST_WAIT = 60.0


class EpisodeFailed(Exception):
    """Something did not come as it should have; the text says what."""


@dataclass(frozen=True)
class Setting:
    """Where an episode plays. `wine` is a model with predictions of its own, trained for the first scenario."""

    workspaces: Workspaces
    operations: Operations
    control: ControlClient
    progress: Progress
    watch: Watch
    wine: Trained
    script: Trained

    def live(self, row: dict[str, Any], trained: Trained) -> str:
        """Ask the endpoint of a promotion that has succeeded, and hold its answer against the model here."""
        answer = self.workspaces.ask(row["target"], row["endpoint"], trained.request)
        if trained.answers(answer) != trained.predictions:
            raise EpisodeFailed(f"endpoint {row['endpoint']} answered other predictions than the model")
        self.progress.say("predictions", f"{row['endpoint']} in {row['target']} answers as the model here")
        return f"{row['model']}:{row['version']} live on {row['endpoint']} in {row['target']}"

    def ended(self, row: dict[str, Any], *states: str, attempt: int = 1) -> dict[str, Any]:
        """The promotion once it is in one of these states."""
        found = self.watch.reached(row["id"], *states, attempt=attempt)
        if found["state"] not in states:
            raise EpisodeFailed(f"{found['id']} is {found['state']}: {found['why']}")
        return found

    def promoted(self, model: str, tags: Mapping[str, str]) -> dict[str, Any]:
        """Register the wine model under this name; its promotion, as soon as there is one."""
        version = self.workspaces.register(model, self.wine, tags)
        self.progress.say("register", f"{model}:{version}")
        return self.watch.promotion(model, version)


def by_tag(at: Setting) -> str:
    """A model that was registered without a word is tagged later; the answer stands on the model version."""
    version = at.workspaces.register("wine-by-tag", at.wine, {})
    at.progress.say("register", f"wine-by-tag:{version}, without a tag: no rule asks for it")
    at.workspaces.tag("wine-by-tag", version, PROD)
    at.progress.say("tag", "promote-to: prod")
    row = at.ended(at.watch.promotion("wine-by-tag", version), "succeeded")

    def told() -> str | None:
        text = at.workspaces.tags_of("wine-by-tag", version).get("promotion.prod", "")
        return text if text.startswith("live") else None

    at.progress.say("status tag", f"promotion.prod: {at.watch.until(told, 'the status tag')}")
    return at.live(row, at.wine)


def approval(at: Setting) -> str:
    """Production waits until somebody with the role has approved what is shown."""
    tested = at.ended(at.promoted("approved-wine", {}), "succeeded")
    row = at.ended(at.watch.promotion("approved-wine", tested["version"], "prod"), "parked")
    at.progress.say("parked", row["why"])
    shown = {"manifest_digest": row["manifest_digest"], "recipe_digest": row["recipe_digest"]}
    at.operations.order(f"promotions/{row['id']}/approve", shown | {"comment": "seen in test"}, identity=identity())
    at.progress.say("approve", f"by {APPROVER}: seen in test")
    return at.live(at.ended(row, "succeeded"), at.wine)


def missing_part(at: Setting) -> str:
    """A part of the model is missing: refused by its name, explained, repaired where it stands, asked for again."""
    conda = at.script.folder / "conda.yaml"
    text = conda.read_text(encoding="utf-8")
    conda.unlink()
    try:
        version = at.workspaces.register("wine-repaired", at.script, PROD)
    finally:
        conda.write_text(text, encoding="utf-8")
    event = at.watch.event("wine-repaired", version)
    if event["outcome"] != "refused":
        raise EpisodeFailed(f"a model without its conda file was {event['outcome']}")
    at.progress.say("refused", event["why"])
    for line in at.operations.text(f"explain?source=dev&model=wine-repaired&version={version}").splitlines():
        at.progress.say("explain", line)
    at.workspaces.add_file("wine-repaired", version, "conda.yaml", text.encode())
    at.progress.say("repair", "conda.yaml put into the model's folder")
    asked = {"source": "dev", "model": "wine-repaired", "version": version, "reason": "its conda file is there now"}
    row = at.operations.order("promotions", asked)
    return at.live(at.ended(row, "succeeded"), at.script)


def roll_back(at: Setting) -> str:
    """The version before comes back and the endpoint is on hold, so that the next one waits until it is released."""
    first = at.ended(at.promoted("wine-rolled", PROD), "succeeded")
    second = at.ended(at.promoted("wine-rolled", PROD), "succeeded")
    at.operations.order("endpoints/prod/realtime/wine-rolled/rollback", {"reason": "it predicts nonsense"})
    first = at.ended(first, "succeeded", attempt=2)
    at.progress.say("rolled back", f"from version {second['version']} to {first['version']}, and on hold")
    third = at.ended(at.promoted("wine-rolled", PROD), "parked")
    at.progress.say("parked", third["why"])
    at.operations.order("endpoints/prod/realtime/wine-rolled/release", {"reason": "corrected in version 3"})
    return at.live(at.ended(third, "succeeded"), at.wine)


def second_target(at: Setting) -> str:
    """A past promotion goes to another target, from its frozen recipe."""
    past = at.watch.promotion("wine-rolled", "1")
    row = at.operations.order(f"promotions/{past['id']}/redeploy", {"target": "test", "reason": "for the testers"})
    at.progress.say("redeploy", f"{past['id']} to test")
    return at.live(at.ended(row, "succeeded"), at.wine)


def drift(at: Setting) -> str:
    """Somebody deletes a live deployment in the target: the timer finds it, and the policy has it brought back."""
    past = at.watch.promotion("wine-rolled", "1", "test")
    live = at.operations.promotion(past["id"])["result"]
    at.workspaces.delete_deployment("test", live["endpoint"], live["deployment"])
    at.progress.say("by hand", f"deployment {live['deployment']} of {live['endpoint']} in test deleted")
    at.operations.run_timer()
    row = at.ended(past, "succeeded", attempt=2)
    at.progress.say("repair", row["order"]["reason"])
    return at.live(row, at.wine)


def dead_letter(at: Setting) -> str:
    """A fault that nobody foresaw: the message ends among the dead letters, and goes again once the fault is gone."""
    path = "workspaces/ml-prod/models/wine-unlucky/versions/"
    number = at.control.plant(service="arm", method="GET", path=path, status=200, body=FAULT_BODY, times=1000)
    row = at.promoted("wine-unlucky", PROD)
    looked: set[str] = set()

    def given_up() -> dict[str, Any] | None:
        why = at.operations.promotion(row["id"])["why"]
        if "fault" in why and why not in looked:
            looked.add(why)
            at.progress.say("fault", why)
            at.control.advance(LONGEST_WAIT)  # nobody wants to watch the service wait
        letters = at.operations.get("failed")["failed"]
        return next((each for each in letters if each["kind"] == "dead_letter"), None)

    dead = at.watch.until(given_up, "a dead letter")
    at.progress.say("dead letter", f"{dead['reason']}: {dead['why']}")
    at.control.remove(number)
    at.operations.order(f"dead-letters/{dead['sequence_number']}/resubmit", {"reason": "the proxy is gone"})
    at.progress.say("resubmit", "the proxy is gone")
    return at.live(at.ended(row, "succeeded"), at.wine)


def canary(at: Setting) -> str:
    """A version that answers its own example, and not what users ask: its canary fails, and the traffic comes back."""
    first = at.ended(
        at.watch.promotion("script-canary", at.workspaces.register("script-canary", at.script, {})), "succeeded"
    )
    score = at.script.folder / "score.py"
    text = score.read_text(encoding="utf-8")
    score.write_text(text + BUG, encoding="utf-8")
    try:
        version = at.workspaces.register("script-canary", at.script, {})
    finally:
        score.write_text(text, encoding="utf-8")
    at.progress.say("register", f"script-canary:{version}, which cannot take more than ten rows; users send twenty")
    with Users(at.workspaces, "prod", first["endpoint"], at.script.request) as users:
        bad = at.ended(at.watch.promotion("script-canary", version), "refused")
    at.progress.say("users", f"{users.answered} requests answered, {users.failed} not, while 20 % went to the canary")
    if bad["reason"] != "analysis_failed" or not 0 < users.failed < users.answered:
        raise EpisodeFailed(f"the canary was not what failed: {bad['why']}")
    return at.live(first, at.script)


# Behind a scoring script: a mistake that no sample of two rows shows.
BUG = """

_run = run


def run(data):
    if len(json.loads(data)["data"]) > 10:
        raise MemoryError("the buffer has room for ten rows")
    return _run(data)
"""
PROD = {"promote-to": "prod"}


@dataclass(frozen=True)
class Episode:
    """One row of the second table."""

    name: str
    play: Callable[[Setting], str]


EPISODES: Sequence[Episode] = (
    Episode("Asked for by a tag", by_tag),
    Episode("Approved between test and prod", approval),
    Episode("Refused, explained, repaired, retried", missing_part),
    Episode("A canary goes bad and comes back", canary),
    Episode("Rolled back, held, released", roll_back),
    Episode("Redeployed to a second target", second_target),
    Episode("Deleted by hand and brought back", drift),
    Episode("Dead-lettered and resubmitted", dead_letter),
)


def identity() -> str:
    """What App Service's sign-in says of somebody with the role; the local host takes it from anybody."""
    claims = [{"typ": "name", "val": APPROVER}, {"typ": "roles", "val": "Promotion.Approver"}]
    return base64.b64encode(json.dumps({"auth_typ": "aad", "claims": claims}).encode()).decode()
