"""What is particular to a managed online endpoint: how a deployment is verified, and how it is called. Pure."""

import json
from collections.abc import Mapping

from core import tags
from core.commands import Phase
from core.errors import Reason
from core.ledger import Decision
from core.outcomes import Parked, Refused, Waiting
from core.ports import Deployment, Endpoint
from core.stages import RealtimeStage
from core.steps import UNSEEN, Do, Effect, Seen, Step, Unseen, Wanted

DOUBT_SECONDS = 60.0
QUESTION = "verification"
UNVERIFIED = "nothing: the model has no input example, only that it starts is known"
# A fresh deployment may answer with these for a moment; they say nothing about the model.
# (404: its route is not known yet; 408, 429: too slow or too much at the start; 502, 503, 504: not reached yet.)
PASSING_STATUSES = frozenset({404, 408, 429, 502, 503, 504})


def verify(wanted: Wanted, seen: Seen, ours: Deployment) -> Step | None:
    """None when the deployment has shown what it must before it gets traffic."""
    return _smoke(wanted, seen, ours) or _verdict(wanted, seen, ours)


def _verdict(wanted: Wanted, seen: Seen, ours: Deployment) -> Step | None:
    """None when it has answered the requests of the policy as it should."""
    stage = wanted.command.stage
    if not isinstance(stage, RealtimeStage) or stage.verification is None:
        return None
    if isinstance(seen.verdict, Unseen):
        return Do(Effect.VERIFY, ours.name)
    if seen.verdict.failed is not None:
        return Refused(
            Reason.VERIFICATION_FAILED,
            f"deployment {ours.name} was not verified: {seen.verdict.failed}",
            remedy="It has no traffic. Correct the model and register it again; or correct `verification` in the policy.",
        )
    return None if seen.verdict.doubt is None else _doubt(wanted, ours, seen.verdict.doubt)


def _doubt(wanted: Wanted, ours: Deployment, doubt: str) -> Step | None:
    """Doubt is no pass: somebody is asked, unless what was missing comes first."""
    said = wanted.decision(QUESTION)
    if said is not None and said.decision is Decision.APPROVED:
        return None
    if said is not None:
        return Refused(
            Reason.REJECTED,
            f"{said.by} rejected deployment {ours.name}" + (f": {said.comment}" if said.comment else ""),
            remedy="It has no traffic. Talk to them; then correct the model, or retry the promotion.",
        )
    return Parked(
        Reason.VERIFICATION_INCONCLUSIVE,
        f"it cannot be told whether deployment {ours.name} answers as it should: {doubt}",
        remedy="Provide what is missing, and it goes on by itself; or look at its answers yourself and approve or reject "
        f"it: POST /api/promotions/{wanted.command.promotion_id}/approve (or .../reject).",
        retry_after=DOUBT_SECONDS,
        question=QUESTION,
    )


def _smoke(wanted: Wanted, seen: Seen, ours: Deployment) -> Step | None:
    """None when the deployment has answered, or when there is nothing to ask it with."""
    if wanted.recipe.sample_request is None:
        return None
    if seen.smoke is UNSEEN:
        return Do(Effect.SMOKE, ours.name)
    answer = seen.smoke
    if answer.status == 200 and not _tells_an_error(answer.text):
        return None
    if answer.status is None or answer.status in PASSING_STATUSES:
        status = f" ({answer.status})" if answer.status else ""
        return Waiting(Phase.SMOKE, f"deployment {ours.name} does not answer yet{status}: {answer.text[:300]}")
    if answer.status in (401, 403):
        return Parked(
            Reason.PERMISSION_MISSING,
            f"deployment {ours.name} answered {answer.status}: this service may not ask it",
            remedy="Give the service's managed identity the right to score with this endpoint; see docs/operations.md.",
        )
    if wanted.recipe.is_sample_made_up:
        return None  # a model may well refuse values that nobody would send it; that says nothing against it
    return Refused(
        Reason.SMOKE_FAILED,
        f"deployment {ours.name} answered {answer.status} to a request made from {wanted.recipe.sample_source}: "
        f"{answer.text[:500]}",
        remedy="It has no traffic. Read its log below, correct the model or its input example, and register it again.",
    )


def _tells_an_error(text: str) -> bool:
    """Whether an answer is an error after all: older scoring files of Automated ML answer 200 with one in it."""
    answer: object = text
    while isinstance(answer, str):
        try:
            answer = json.loads(answer)
        except (ValueError, RecursionError):
            return False
    return isinstance(answer, Mapping) and set(answer) == {"error"}


def result(wanted: Wanted, endpoint: Endpoint, ours: Deployment) -> dict[str, object]:
    """How to call the endpoint. Keys and tokens are fetched by the caller; they never stand here."""
    target = wanted.command.target
    return {
        "endpoint": endpoint.name,
        "deployment": ours.name,
        "scoring_uri": endpoint.scoring_uri,
        "auth_mode": endpoint.auth_mode,
        "get_credentials": (
            f"az ml online-endpoint get-credentials --name {endpoint.name} --resource-group {target.resource_group} "
            f"--workspace-name {target.workspace} --subscription {target.subscription_id}"
        ),
        "example_request": {
            "method": "POST",
            "url": endpoint.scoring_uri,
            "headers": {"Authorization": "Bearer <key or token>", "Content-Type": "application/json"},
            "body": wanted.recipe.sample_request,
        },
        "verified_with": endpoint.tags.get(tags.VERIFIED, UNVERIFIED),
    }
