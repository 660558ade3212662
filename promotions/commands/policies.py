"""The promotion policy: checked before it is rolled out, and applied to what is older than its rules."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from promotions.command import Session, command, group
from promotions.commands.arguments import Limit
from promotions.exits import Exit, Failure
from promotions.render import Column, field
from promotions.text import clean

POLICY_LIMIT = 256 * 1024

app = group()
policy = group("policy", help="The promotion policy.", parent=app)

_BACKFILL = [
    field("source"),
    Column("model", lambda version: f"{version['model']}:{version['version']}"),
    field("outcome"),
    field("why", wraps=True),
]


@command(policy, "check", example="policy check promotion.yaml")
def check(
    session: Session,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A policy, such as promotion.yaml.")],
) -> Exit | None:
    """Check a policy before it is rolled out.

    Mistakes by line and field, and which of the known models each rule matches.

    Mistakes are printed as FILE:LINE: field: message, and the exit code is 1.
    """
    found = session.ask.post_text("policy", "validate", text=_read(file), content_type="application/yaml").content
    if not session.output.printed(found):
        for line in mistakes(file, found["mistakes"]):
            session.output.say(line)
        if found["valid"]:
            session.output.say(f"{clean(file)} is a valid policy.")
        for each in found["rules"]:
            models = [f"{m['source']}/{m['model']}:{m['version']}" for m in each["matches"]]
            session.output.outline({f"rule {each['rule']} matches": models or "none of the known models"})
    return None if found["valid"] else Exit.REFUSED


@command(app, "backfill", example="backfill churn-to-prod --send", orders=True)
def backfill(
    session: Session,
    rule: Annotated[str, typer.Argument(metavar="RULE", help="A rule of the policy.")],
    *,
    send: Annotated[bool, typer.Option("--send", help="Promote them; without it they are only listed.")] = False,
    limit: Limit = None,
) -> Exit | None:
    """Promote what is older than a rule.

    Shows which versions those are, the newest of each model; promotes them with --send. Exit code 1 if one was refused.
    """
    body: dict[str, Any] = {"rule": rule, "dry_run": not send} | ({"limit": limit} if limit else {})
    found = session.order("backfill", **body)
    versions = found["sent"] if send else found["plan"]
    if not session.output.printed(found):
        session.output.table(versions, _BACKFILL, none="No version is left to promote.")
        if versions and not send:
            session.output.note("Nothing was sent: --send does it.")
    return Exit.REFUSED if any(version["outcome"] == "refused" for version in versions) else None


def mistakes(file: Path, found: Iterable[Mapping[str, Any]]) -> list[str]:
    """As compilers and editors know it: FILE:LINE: field: message. Pure."""
    lines = []
    for each in found:
        where = f"{file}:{each['line']}" if each.get("line") else f"{file}"
        what = f"{each['field']}: {each['message']}" if each.get("field") else each["message"]
        lines.append(clean(f"{where}: {what}"))
    return lines


def _read(file: Path) -> bytes:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise Failure(f"{clean(file)} cannot be read: {error.strerror}.") from None
    if len(content) > POLICY_LIMIT:
        raise Failure(f"{clean(file)} has {len(content)} bytes; {POLICY_LIMIT} are the most.")
    return content
