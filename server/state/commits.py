"""Every transaction that the server commits, by name: the places at which tests stop it."""

from __future__ import annotations

from enum import StrEnum, auto


class Commit(StrEnum):
    """What a transaction writes, together or not at all."""

    @staticmethod
    def _generate_next_value_(name: str, *_: object) -> str:
        return name.lower().replace("_", "-")

    SCHEMA = auto()
    INITIAL_VERSION = auto()
    CLIENT_JOINED = auto()
    CLIENT_LEFT = auto()
    CLIENTS_SEEN = auto()
    TRAINING_STARTED = auto()
    TRAINING_STOPPED = auto()
    RUN_FAILED = auto()
    ROUND_BEGUN = auto()
    ROUND_COMPLETED = auto()
    ROUND_FAILED = auto()
    ROUND_CLOSED = auto()
    ROUNDS_TAKEN_OVER = auto()
    ROUND_RESUMED = auto()
    DELETION_ACCEPTED = auto()
    DELETION_CANCELLED = auto()
    APPROVED = auto()
    REFUSED = auto()
    APPROVALS_EXPIRED = auto()
    CLIENT_READMITTED = auto()
    FORGETTING_CONFIRMED = auto()
    CONFIRMATIONS_OVERDUE = auto()
    BASE_PINNED = auto()
    ATTEMPT_BEGUN = auto()
    STEP_TAKEN = auto()
    ATTEMPT_ENDED = auto()
    ATTEMPT_VERIFIED = auto()
    ATTEMPT_CHOSEN = auto()
    UPDATES_MISSED = auto()
    VERSIONS_DESTROYED = auto()
    HOLD_LIFTED = auto()
    DEADLINES_NOTED = auto()
    CACHES_DESTROYED = auto()
    JOB_COMPLETED = auto()
    JOB_FAILED = auto()
    VERSION_FETCHED = auto()
    RECEIPT_KEY_MADE = auto()
    RECEIPT_KEY_ROTATED = auto()
    TOKEN_MADE = auto()
    TOKEN_USED = auto()
    CERTIFICATE_RENEWED = auto()
    REFUSAL_NOTED = auto()
    PSEUDONYM_DESTROYED = auto()
    STATE_NAMED = auto()
    LEDGER_RECONCILED = auto()
    LEDGER_NOTED = auto()
    LEDGER_RENEWED = auto()
    STATE_RESTORED = auto()
