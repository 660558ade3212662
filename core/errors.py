"""What can go wrong, as few kinds as there are ways to react, and the codes that an operator sees."""

from enum import StrEnum


class Reason(StrEnum):
    """Why an event, a command or a promotion was refused, parked or ended. Part of the contract (docs/contracts)."""

    # Events at intake
    EVENT_MALFORMED = "event_malformed"
    EVENT_TYPE_UNKNOWN = "event_type_unknown"
    SOURCE_UNKNOWN = "source_unknown"
    NOT_A_TRIGGER = "not_a_trigger"
    NO_RULE_MATCHES = "no_rule_matches"
    OWN_COPY = "own_copy"
    RUN_FAILED = "run_failed"
    RUN_OUTPUT_UNCLEAR = "run_output_unclear"
    PROMOTED_FROM_RUN = "promoted_from_run"
    TAG_NOT_UNDERSTOOD = "tag_not_understood"
    NOT_ALLOWED = "not_allowed"
    GATE_FAILED = "gate_failed"
    # The model
    MODEL_NOT_FOUND = "model_not_found"
    MODEL_ARCHIVED = "model_archived"
    MODEL_EMPTY = "model_empty"
    MODEL_PATH_UNSUPPORTED = "model_path_unsupported"
    ORIGIN_UNKNOWN = "origin_unknown"
    NOT_SERVABLE = "not_servable"
    POLICY_INVALID = "policy_invalid"
    # Promotion
    SOURCE_CHANGED = "source_changed"
    COPY_MISMATCH = "copy_mismatch"
    MODEL_NAME_TAKEN = "model_name_taken"
    COMPONENT_NAME_TAKEN = "component_name_taken"
    NAME_NOT_ALLOWED = "name_not_allowed"
    ENDPOINT_NAME_TAKEN = "endpoint_name_taken"
    ENDPOINT_NOT_OURS = "endpoint_not_ours"
    ENDPOINT_FAILED = "endpoint_failed"
    DEPLOYMENT_NAME_TAKEN = "deployment_name_taken"
    DEPLOYMENT_FAILED = "deployment_failed"
    SMOKE_FAILED = "smoke_failed"
    VERIFICATION_FAILED = "verification_failed"
    VERIFICATION_INCONCLUSIVE = "verification_inconclusive"
    ANALYSIS_FAILED = "analysis_failed"
    ANALYSIS_INCONCLUSIVE = "analysis_inconclusive"
    TRAFFIC_CHANGED = "traffic_changed"
    TEST_JOB_FAILED = "test_job_failed"
    COMPARISON_FAILED = "comparison_failed"
    SCHEDULE_NOT_OURS = "schedule_not_ours"
    SCHEDULE_FAILED = "schedule_failed"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    INSTANCE_TYPE_UNKNOWN = "instance_type_unknown"
    QUOTA_EXCEEDED = "quota_exceeded"
    COMPUTE_NOT_USABLE = "compute_not_usable"
    PERMISSION_MISSING = "permission_missing"
    TARGET_NOT_FOUND = "target_not_found"
    REQUEST_REJECTED = "request_rejected"
    DEAD_LETTERED = "dead_lettered"
    SUPERSEDED = "superseded"
    # People
    APPROVAL_WANTED = "approval_wanted"
    REJECTED = "rejected"
    ON_HOLD = "on_hold"
    FROZEN = "frozen"
    CANCELLED = "cancelled"


class PromotionError(Exception):
    """Base of the errors that are understood. Everything else is unknown: it is counted, and raised in the end."""


class Transient(PromotionError):
    """May go away by itself: look again, at the earliest after `retry_after` seconds if the service said so."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Conflict(Transient):
    """Somebody else has written it since it was read: read it again, and do again what is still to be done."""


class Blocked(PromotionError):
    """Goes away when somebody does something (`remedy`): the promotion is parked and looks again by itself."""

    def __init__(self, reason: Reason, message: str, *, remedy: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.remedy = remedy


class Refusal(PromotionError):
    """Can never succeed as it was asked for. `remedy` says what to do instead."""

    def __init__(self, reason: Reason, message: str, *, remedy: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.remedy = remedy


def not_servable(message: str, remedy: str = "Correct it where it stands, and register the model again.") -> Refusal:
    """The refusal of a model, or of a part of it, that cannot be served as it is."""
    return Refusal(Reason.NOT_SERVABLE, message, remedy=remedy)


class UndecodableMessage(Exception):
    """A message on the queue that is no command of ours: raised, so that the dead-letter queue keeps it whole."""
