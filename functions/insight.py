"""HTTP: why something was or was not promoted, what a promotion would do now, and whether a policy is one."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import azure.functions as func
from pydantic import Field

from core import policy as rules
from core.explain import Explainer, Explanation
from core.intake import Intake
from core.orders import command_of, row_of
from core.plan import Plan, Planner
from core.policy import ModelFacts, Policy, Trigger
from core.policy_file import PolicyInvalid, parse
from functions import http
from functions.http import Body, Problem
from functions.routes import Nothing, Operation, Request, Routes

if TYPE_CHECKING:
    from core.adapters.ledger_storage import StorageLedger

POLICY_LIMIT = 256 * 1024
KNOWN_MODELS = 1000
YAML, TEXT = "application/yaml", "text/plain"


class Version(Body):
    """A model version; `source` may be left out where only one can be meant: the policy's, or that of its promotions."""

    source: str | None = None
    model: str = Field(max_length=255)
    version: str = Field(max_length=255)


class Planned(Version):
    """`rule` is the one that is expected to decide."""

    rule: str | None = None


class Mistake(Body):
    line: int | None
    field: str
    message: str


class Known(Body):
    source: str
    model: str
    version: str


class Matches(Body):
    """The models known from promotions whose newest version a rule decides on."""

    rule: str
    matches: tuple[Known, ...]


class Checked(Body):
    valid: bool
    mistakes: tuple[Mistake, ...] = ()
    rules: tuple[Matches, ...] = ()


def routes(
    ledger: Callable[[], "StorageLedger"],
    intake: Callable[[], Intake],
    explainer: Callable[[], Explainer],
    planner: Callable[[], Planner],
    *,
    policy: Policy,
    platform_authentication: bool,
) -> Routes:
    api = Routes(platform_authentication=platform_authentication)

    def source_of(given: Version) -> str:
        if given.source is None:
            promoted = {row.source for row in ledger().promotions(model=given.model, version=given.version)}
            known = (promoted & policy.sources.keys()) or set(policy.sources)
            if len(known) == 1:
                return known.pop()
        if given.source is None or given.source not in policy.sources:
            raise Problem(400, f"source must be one of {', '.join(policy.sources)}")
        return given.source

    @api.get("explain", "Why a model version was or was not promoted.", takes=Version, answers=Explanation)
    def explain(req: Request[Version]) -> Explanation | func.HttpResponse:
        found = explainer().explain(source_of(req.given), req.given.model, req.given.version)
        return _readable(req.raw, found.text()) or found

    @api.post("plan", "What a promotion would do now. Writes nothing.", takes=Planned, answers=Plan, status=200)
    def plan(req: Request[Planned]) -> Plan | func.HttpResponse:
        given = req.given
        decided = intake().planned(source_of(given), given.model, given.version, given.rule, req.caller.name)
        found = planner().of(decided.command, decided.packaged.manifest, decided.packaged.recipe)
        return _readable(req.raw, found.text()) or found

    @api.get("promotions/{id}/plan", "What its next delivery would do. Writes nothing.", takes=Nothing, answers=Plan)
    def plan_promotion(req: Request[Nothing]) -> Plan | func.HttpResponse:
        found = planner().of(command_of(row_of(ledger(), req.path["id"])))
        return _readable(req.raw, found.text()) or found

    @api.blueprint.function_name("validate_policy")
    @api.blueprint.route("policy/validate", methods=["POST"])
    @http.answered
    def validate_policy(req: func.HttpRequest) -> func.HttpResponse:
        raw = req.get_body() or b""
        if len(raw) > POLICY_LIMIT:
            raise Problem(413, f"the policy has {len(raw)} bytes; {POLICY_LIMIT} are the most")
        return http.answer(_checked(raw, ledger()).model_dump(mode="json"))

    api.document(Operation("validate_policy", "POST", "policy/validate", "Check a policy.", YAML, Checked))
    return api


def _readable(req: func.HttpRequest, text: str) -> func.HttpResponse | None:
    """The form for people, if that is what was asked for."""
    wants_text = TEXT in req.headers.get("accept", "")
    return func.HttpResponse(text + "\n", mimetype=TEXT) if wants_text else None


def _checked(content: bytes, ledger: "StorageLedger") -> Checked:
    try:
        policy = parse(content).policy
    except PolicyInvalid as invalid:
        found = (Mistake(line=each.line, field=each.field, message=each.message) for each in invalid.problems)
        return Checked(valid=False, mistakes=tuple(found))
    newest: dict[tuple[str, str], ModelFacts] = {}
    versions: dict[tuple[str, str], str] = {}
    for row in ledger.promotions(limit=KNOWN_MODELS):
        facts = ModelFacts(source=row.source, name=row.model, origin=None, tags={}, trigger=Trigger.MODEL_REGISTERED)
        newest.setdefault((row.source, row.model), facts)
        versions.setdefault((row.source, row.model), row.version)
    matches: dict[str, list[Known]] = {rule.name: [] for rule in policy.rules}
    for (source, model), facts in newest.items():
        for rule in policy.rules:
            if rules.could_concern(policy.model_copy(update={"rules": (rule,)}), source, facts.name, facts.trigger):
                matches[rule.name].append(Known(source=source, model=model, version=versions[source, model]))
    return Checked(valid=True, rules=tuple(Matches(rule=rule, matches=tuple(each)) for rule, each in matches.items()))
