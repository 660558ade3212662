"""A run's output and the model that is registered from it are the same files: the one that comes first is promoted."""

from core.commands import PromoteModel
from core.ledger import Memo
from core.ports import Ledger

OUTPUT_OF_RUN = "output-of-run"


def promoted_already(ledger: Ledger, command: PromoteModel, run_id: str) -> str | None:
    """The promotion that has these files of this run on the way to these endpoints; None if it is the command's own.

    Written down before the command's row is, so that of two at once one finds the other. Other files and other endpoints
    are no repetition, nor is another event of the same kind. Raises Transient if somebody else was first at this moment.
    """
    key = "\n".join((command.source.key, run_id, command.manifest_digest))
    stages = [command.at_stage(number) for number in range(len(command.stages))]
    endpoints = [stage.session_id for stage in stages]
    value = {"promotion": command.promotion_id, "trigger": str(command.trigger), "endpoints": endpoints}
    memo = ledger.memo(OUTPUT_OF_RUN, key)
    if memo is None:
        ledger.save_memo(Memo(kind=OUTPUT_OF_RUN, key=key, value=value))
        return None
    if memo.value["trigger"] == command.trigger or not set(endpoints) <= set(memo.value["endpoints"]):
        return None
    other = str(memo.value["promotion"])
    if ledger.promotion(other) is None:  # its event died before it was asked for
        ledger.save_memo(memo.model_copy(update={"value": value}))
        return None
    return other
