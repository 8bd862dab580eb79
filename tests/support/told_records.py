"""Records with every field set, and the messages that they become."""

from __future__ import annotations

from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from fednot.audit_chain import Entry
from fednot.v1 import (
    deletion_pb2,
)
from server.records import (
    Approval,
    ApprovalKind,
    ApprovalState,
    Attempt,
    Deletion,
    Job,
    JobPhase,
    RecoveryPolicy,
    RecoveryRound,
    Round,
    RoundOutcome,
    RoundPhase,
    Version,
    VersionOrigin,
)
from server.services import messages

AT = 1_700_000_000.25
STAMP = Timestamp(seconds=1_700_000_000, nanos=250_000_000)


def version(origin: VersionOrigin = VersionOrigin.RECOVERY, **values: Any) -> Version:
    fields = {
        "number": 7,
        "sha256": "ab",
        "parent": 6,
        "generation": 2,
        "lineage": 3,
        "origin": origin,
        "round": 9,
        "created_at": AT,
        "num_bytes": 64,
        "metrics": {"accuracy": 0.5},
        "negated_tensors": ("w",),
    }
    return Version(**(fields | values))


def attempt(**values: Any) -> Attempt:
    fields = {
        "job_id": "job-1",
        "number": 2,
        "method": "not",
        "tensors": ("w", "v"),
        "start_version": 8,
        "stopped_at": 1,
        "warnings": ("careful",),
        "explanation": "negates w",
        "rounds": (RecoveryRound(10, 9, {"loss": 1.5}),),
        "steps": (9,),
    }
    return Attempt(**(fields | values))


def job(phase: JobPhase = JobPhase.RECOVERING, **values: Any) -> Job:
    return Job("job-1", phase, "not", "first", False, RecoveryPolicy(), AT, **values)


def approval(**values: Any) -> Approval:
    fields = {
        "id": "approval-1",
        "kind": ApprovalKind.DELETION,
        "client": "c1",
        "requested_by": "officer/dora",
        "requested_at": AT,
        "expires_at": AT,
        "job_id": "job-1",
        "state": ApprovalState.APPROVED,
        "decided_by": "officer/emil",
        "decided_at": AT,
    }
    return Approval(**(fields | values))


def entry(**values: Any) -> Entry:
    fields = {
        "sequence": 3,
        "at_microseconds": 1_700_000_000_250_000,
        "actor": "p-aa",
        "role": "officer",
        "action": "DeletionService.Unlearn",
        "subject": "p-bb",
        "outcome": "refused",
        "reason": "UNKNOWN_CLIENT",
        "job_id": "job-1",
        "version": 7,
        "count": 2,
        "previous_hash": "00",
        "hash": "11",
    }
    return Entry(**(fields | values))


def deletion(found: Job, **values: Any) -> deletion_pb2.Deletion:
    record = Deletion("r1", "c1", AT, found, (3, 4), "officer/dora", approval(), **values)
    return messages.deletion_message(record, "for c2")


def round_(phase: RoundPhase, outcome: RoundOutcome, **values: Any) -> Round:
    return Round(9, phase, outcome, 6, ("c1", "c2"), AT, **values)
