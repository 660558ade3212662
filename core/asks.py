"""What tags of a model version ask for. Tags only ask: what may be asked for, the policy says. Pure.

`promote-to: <target>` asks for the promotion along the first rule that has a stage there, up to and with that stage, and to
that target alone where the stage has several;
`promote-as: realtime` or `batch` narrows that to stages that serve so; `promote-to: none` asks for the roll-back of what this
version is live as.
"""

import hashlib
from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict

from core.errors import Reason, Refusal
from core.events import WorkspaceId
from core.policy import Policy, Rule, Trigger

PROMOTE_TO, PROMOTE_AS, NONE = "promote-to", "promote-as", "none"
_SERVES = ("realtime", "batch")


class Ask(BaseModel):
    """A readable ask; `target` None is the roll-back."""

    model_config = ConfigDict(frozen=True)

    target: str | None
    serve: str | None = None


def text_of(tags: Mapping[str, str]) -> str:
    """What is asked, in a form that changes only with the ask; empty if nothing is."""
    given = {key.lower(): value.strip() for key, value in tags.items()}
    target = given.get(PROMOTE_TO, "")
    return f"{target}|{given.get(PROMOTE_AS, '').lower()}" if target else ""


def memo_kind(source: WorkspaceId, model: str) -> str:
    """Under which kind of memo the asks of a model's versions are kept: one query reads them all."""
    return f"ask-{hashlib.sha256(f'{source.key}|{model}'.encode()).hexdigest()[:32]}"


def read(text: str, policy: Policy) -> Ask:
    """The ask in a text of `text_of`. Raises Refusal for words that mean nothing here."""
    target, _, serve = text.partition("|")
    if serve not in ("", *_SERVES):
        raise _not_understood(f"tag {PROMOTE_AS} is {serve!r}, not realtime or batch")
    if target.lower() == NONE:
        return Ask(target=None, serve=serve or None)
    named = next((name for name in policy.targets if name.lower() == target.lower()), None)
    if named is None:
        known = ", ".join(policy.targets)
        raise _not_understood(f"tag {PROMOTE_TO} is {target!r}, none of the policy's targets ({known}) and not none")
    return Ask(target=named, serve=serve or None)


def _not_understood(message: str) -> Refusal:
    return Refusal(Reason.TAG_NOT_UNDERSTOOD, message, remedy="Correct the tag of the model version.")


def allowed(policy: Policy, ask: Ask) -> Policy:
    """The policy as far as it has what is asked for: rules with such a stage, each cut behind it."""
    cut = tuple(rule.up_to(end) for rule in policy.rules if (end := _end(rule, ask)))
    return policy.model_copy(update={"rules": cut})


def is_fulfilled(text: str, rule: Rule) -> bool:
    """Whether a promotion along this rule leads to what is asked for."""
    target, _, serve = text.partition("|")
    return any(stage.target.lower() == target.lower() and serve in ("", stage.serve) for stage in rule.stages)


def _end(rule: Rule, ask: Ask) -> int:
    """How many stages the path to what is asked for has; 0 if the rule has no such path."""
    if Trigger.TAGGED not in rule.match.trigger:
        return 0
    ends = [
        number
        for number, stage in enumerate(rule.stages, start=1)
        if stage.target == ask.target and ask.serve in (None, stage.serve)
    ]
    return ends[0] if ends else 0
