"""What every deployment needs in the target first: the model's files, the model, its scoring code, its environment.

All of them are shared by whoever promotes the same content, so they are made if absent and compared if present; nothing
here is ever changed or deleted.
"""

from core import tags
from core.commands import Phase
from core.errors import Reason
from core.outcomes import Refused, Waiting
from core.ports import CopyStatus
from core.steps import UNSEEN, Do, Effect, Look, Seen, Step, Wanted, wait


def prepare(wanted: Wanted, seen: Seen) -> Step | None:
    """The next step towards the assets; None when all of them are in the target."""
    return _model(wanted, seen) or _code(wanted, seen) or _environment(wanted, seen)


def _model(wanted: Wanted, seen: Seen) -> Step | None:
    if seen.model is UNSEEN:
        return Look.MODEL
    if seen.model is None:
        return _copy(wanted, seen) or Do(Effect.REGISTER_MODEL)
    if not tags.is_copy_of(seen.model.tags, wanted.command):
        name = f"{wanted.command.target_model_name}:{wanted.command.version}"
        return Refused(
            Reason.MODEL_NAME_TAKEN,
            f"the target already has a model {name} that is not a copy of this one",
            remedy="Set `target_model_name` in the stage, or archive and rename the other model.",
        )
    return None


def _copy(wanted: Wanted, seen: Seen) -> Step | None:
    """None when every file is there and is what the manifest says."""
    if seen.copies is UNSEEN:
        return Look.COPIES
    by_status = {status: [copy for copy in seen.copies if copy.status is status] for status in CopyStatus}
    if failed := by_status[CopyStatus.FAILED]:
        why = f"the copy of {failed[0].path} failed: {failed[0].why or 'Azure gives no reason'}"
        return Waiting(Phase.ARTIFACTS, f"{why}; it is tried again") if seen.has_copied else Do(Effect.COPY)
    if by_status[CopyStatus.MISSING] and not seen.has_copied:
        return Do(Effect.COPY)
    if pending := [*by_status[CopyStatus.PENDING], *by_status[CopyStatus.MISSING]]:
        done = len(by_status[CopyStatus.COPIED])
        copied = sum(copy.bytes_copied or 0 for copy in seen.copies)
        total = wanted.manifest.size
        why = f"copying artifacts: {done} of {done + len(pending)} files, {copied} of {total} bytes"
        # What could not be started in the time of this delivery is started by the next one, at once.
        at_once = bool(by_status[CopyStatus.MISSING])
        return Waiting(Phase.ARTIFACTS, why, retry_after=0.0) if at_once else wait(Phase.ARTIFACTS, why, seen)
    copies = {copy.path: copy for copy in seen.copies}
    for file in wanted.manifest.files:
        copy = copies[file.path]
        if copy.size != file.size or (file.md5 and copy.md5 and file.md5 != copy.md5):
            return Refused(
                Reason.COPY_MISMATCH,
                f"the copy of {file.path} differs from the source: {copy.size} of {file.size} bytes, "
                f"MD5 {copy.md5} instead of {file.md5}",
                remedy="Somebody wrote to the target's storage: delete the copy there, then ask again.",
            )
    return None


def _code(wanted: Wanted, seen: Seen) -> Step | None:
    """A code asset is named by the digest of its files, so the one that is there is the right one."""
    if wanted.serving.code is None or seen.code not in (UNSEEN, None):
        return None
    return Look.CODE if seen.code is UNSEEN else Do(Effect.CREATE_CODE)


def _environment(wanted: Wanted, seen: Seen) -> Step | None:
    """An environment's version is the digest of its content; Azure ML never changes a version's content."""
    if wanted.serving.environment is None or seen.environment not in (UNSEEN, None):
        return None
    return Look.ENVIRONMENT if seen.environment is UNSEEN else Do(Effect.CREATE_ENVIRONMENT)
