"""The words of the federation as immutable records (DESIGN.md, section 1)."""

from server.records.anomalies import Anomaly
from server.records.approvals import Approval, ApprovalKind, ApprovalState
from server.records.audit import AuditEvent, AuditOutcome
from server.records.callers import NOBODY, Caller
from server.records.clients import Bar, ClientRecord
from server.records.deletions import Deletion, DeletionAsk
from server.records.jobs import (
    Attempt,
    AttemptOutcome,
    ClientDestruction,
    DestroyedCache,
    Job,
    JobPhase,
    RecoveryPolicy,
    RecoveryRound,
    StopReason,
)
from server.records.receipts import IssuedReceipt, ReceiptKey
from server.records.rounds import (
    Round,
    RoundOutcome,
    RoundPhase,
    RoundPolicy,
    RoundProgress,
    Run,
    RunState,
)
from server.records.scopes import Assurance, ForgetOrder, Scope, ScopeKind
from server.records.scores import Scores
from server.records.updates import KeptUpdate, StoredUpdates
from server.records.verification import (
    Finding,
    Judged,
    Thresholds,
    Verdict,
    Verification,
    VerificationPolicy,
)
from server.records.versions import DestroyedVersion, Version, VersionOrigin
from server.records.waits import WaitKind

__all__ = [
    "NOBODY",
    "Anomaly",
    "Approval",
    "ApprovalKind",
    "ApprovalState",
    "Assurance",
    "Attempt",
    "AttemptOutcome",
    "AuditEvent",
    "AuditOutcome",
    "Bar",
    "Caller",
    "ClientDestruction",
    "ClientRecord",
    "Deletion",
    "DeletionAsk",
    "DestroyedCache",
    "DestroyedVersion",
    "Finding",
    "ForgetOrder",
    "IssuedReceipt",
    "Job",
    "JobPhase",
    "Judged",
    "KeptUpdate",
    "ReceiptKey",
    "RecoveryPolicy",
    "RecoveryRound",
    "Round",
    "RoundOutcome",
    "RoundPhase",
    "RoundPolicy",
    "RoundProgress",
    "Run",
    "RunState",
    "Scope",
    "ScopeKind",
    "Scores",
    "StopReason",
    "StoredUpdates",
    "Thresholds",
    "Verdict",
    "Verification",
    "VerificationPolicy",
    "Version",
    "VersionOrigin",
    "WaitKind",
]
