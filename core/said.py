"""What the ledger and the clock say about a promotion at the gate of its endpoint: quality, what is live, freezes."""

from dataclasses import dataclass, field
from datetime import datetime

from core.commands import PromoteModel
from core.freeze import frozen_until, reasons
from core.ledger import LIVE, AuditRecord
from core.ports import Ledger
from core.quality import Live, Quality

# The kind of document under which what was known of a version is kept.
QUALITY = "quality"
QUALITY_DIGEST = "quality_digest"


@dataclass(frozen=True)
class Said:
    """`was_live` says that this promotion was live on its endpoint at some time."""

    quality: Quality = field(default_factory=Quality)
    live: Live | None = None
    was_live: bool = False
    frozen_until: datetime | None = None
    frozen_because: tuple[str, ...] = ()


def said_about(ledger: Ledger, command: PromoteModel, now: datetime, quality: Quality | None = None) -> Said:
    """`quality` is given where nobody has kept it yet. The ledger is only asked for what the gates need."""
    windows = command.stage.freeze
    until = frozen_until(windows, now)
    gates = [each for each in (command.gates, command.stage.gates) if each is not None]
    if not gates:
        return Said(frozen_until=until, frozen_because=reasons(windows, now))
    trail = [found for found in ledger.trail(command.session_id) if found.action == LIVE]
    compares = any(each.compares for each in gates)
    return Said(
        quality=quality or _kept(ledger, command.quality_digest) or Quality(),
        live=_live(ledger, trail[0]) if trail and compares else None,
        was_live=any(found.promotion_id == command.promotion_id and found.after is not None for found in trail),
        frozen_until=until,
        frozen_because=reasons(windows, now),
    )


def _live(ledger: Ledger, last: AuditRecord) -> Live | None:
    """What the last word about the endpoint says is live; None after it was retired."""
    if last.after is None:
        return None
    after = last.after
    return Live(
        promotion_id=str(last.promotion_id),
        name=f"{after.get('model')}:{after.get('version')}",
        quality=_kept(ledger, after.get(QUALITY_DIGEST)),
    )


def _kept(ledger: Ledger, digest: str | None) -> Quality | None:
    return Quality.model_validate_json(ledger.kept(QUALITY, digest)) if digest else None
