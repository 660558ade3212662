"""How a command ends: the exit codes that scripts go by (docs/console.md)."""

from collections.abc import Mapping
from enum import IntEnum
from typing import Any

FINAL = frozenset({"succeeded", "refused", "superseded", "cancelled", "rolled_back", "retired"})
_ACHIEVED = frozenset({"succeeded", "retired"})


class Exit(IntEnum):
    """0 to 3 are the same for all commands; 10 is `plan`'s."""

    OK = 0
    REFUSED = 1
    NOT_ASKED = 2
    PARKED = 3
    CHANGES = 10
    INTERRUPTED = 130


class Failure(Exception):
    """A command ends here, with a sentence for the user and what to do about it."""

    def __init__(self, sentence: str, remedy: str = "", *, code: Exit = Exit.NOT_ASKED) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.remedy = remedy
        self.code = code


def is_open(row: Mapping[str, Any]) -> bool:
    return row["state"] not in FINAL


def outcome(row: Mapping[str, Any]) -> Exit | None:
    """What a promotion came to, from its row; None while the service is at it."""
    if not is_open(row):
        return Exit.OK if row["state"] in _ACHIEVED else Exit.REFUSED
    return Exit.PARKED if row["state"] == "parked" and not _is_decided(row) else None


def _is_decided(row: Mapping[str, Any]) -> bool:
    """It still says that it waits for an approval, but somebody has just decided about this attempt."""
    return row.get("reason") == "approval_wanted" and any(
        given["attempt"] == row["attempt"] and given["manifest_digest"] == row["manifest_digest"]
        for given in row.get("approvals") or ()
    )
