"""Records as messages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from fednot.audit_chain import Entry
from fednot.identity.subject import Role
from fednot.v1 import (
    approval_pb2,
    audit_pb2,
    deletion_pb2,
    federation_pb2,
    identity_pb2,
    model_pb2,
    operator_pb2,
    receipt_pb2,
)
from server.phases import ENDED
from server.records import (
    Approval,
    Attempt,
    Bar,
    Caller,
    ClientDestruction,
    Deletion,
    Job,
    JobPhase,
    ReceiptKey,
    Round,
    RoundPhase,
    RoundProgress,
    Run,
    Version,
)


def timestamp(seconds: float | None) -> Timestamp | None:
    """Seconds since the epoch as a message, to the microsecond."""
    if seconds is None:
        return None
    message = Timestamp()
    message.FromMicroseconds(round(seconds * 1e6))
    return message


def version_message(version: Version | None, released: int) -> model_pb2.Version | None:
    """A version; `released` is the number of the released one."""
    if version is None:
        return None
    return model_pb2.Version(
        number=version.number,
        sha256=version.sha256,
        parent=version.parent,
        generation=version.generation,
        lineage=version.lineage,
        origin=model_pb2.VersionOrigin.Value(f"VERSION_ORIGIN_{version.origin.name}"),
        round=version.round,
        created_at=timestamp(version.created_at),
        metrics=version.metrics,
        negated_tensors=version.negated_tensors,
        released=version.number == released,
        destroyed_at=timestamp(version.destroyed_at),
        num_bytes=version.num_bytes,
        held_by=version.held_by,
    )


def run_message(run: Run | None) -> operator_pb2.TrainingRun | None:
    """A training run."""
    if run is None:
        return None
    return operator_pb2.TrainingRun(
        id=run.id,
        rounds=run.rounds,
        rounds_done=run.rounds_done,
        state=operator_pb2.RunState.Value(f"RUN_STATE_{run.state.name}"),
        failure=run.failure,
        started_at=timestamp(run.started_at),
    )


def round_phase(phase: RoundPhase) -> federation_pb2.RoundPhase.ValueType:
    """Why a round is run."""
    return federation_pb2.RoundPhase.Value(f"ROUND_PHASE_{phase.name}")


def round_message(found: Round) -> operator_pb2.Round:
    """A round."""
    missing: Iterable[operator_pb2.MissingClient] = [
        operator_pb2.MissingClient(client=client, reason=reason)
        for client, reason in found.missing.items()
    ]
    return operator_pb2.Round(
        number=found.number,
        phase=round_phase(found.phase),
        outcome=operator_pb2.RoundOutcome.Value(f"ROUND_OUTCOME_{found.outcome.name}"),
        base_version=found.base_version,
        result_version=found.result_version,
        cohort=found.cohort,
        missing=missing,
        metrics=found.metrics,
        started_at=timestamp(found.started_at),
        ended_at=timestamp(found.ended_at),
        job_id=found.job_id,
        attempt=found.attempt,
    )


def progress_message(progress: RoundProgress | None) -> deletion_pb2.RoundProgress | None:
    """The round in flight."""
    if progress is None:
        return None
    return deletion_pb2.RoundProgress(
        round=progress.round,
        phase=round_phase(progress.phase),
        cohort=len(progress.cohort),
        updates=len(progress.accepted),
        missing=progress.missing,
    )


def barred_message(bar: Bar | None) -> federation_pb2.Barred | None:
    """Why a client is barred."""
    if bar is None:
        return None
    return federation_pb2.Barred(
        message=bar.message, request_id=bar.request_id, since=timestamp(bar.since)
    )


def caller_message(key: str) -> identity_pb2.Caller | None:
    """The caller of a key such as `officer/dora`; None for one without a certificate."""
    if not key:
        return None
    caller = Caller.of_key(key)
    return identity_pb2.Caller(role=_role(caller.role or ""), name=caller.name)


def approval_message(approval: Approval) -> approval_pb2.Approval:
    """A second approval."""
    return approval_pb2.Approval(
        id=approval.id,
        kind=approval_pb2.ApprovalKind.Value(f"APPROVAL_KIND_{approval.kind.name}"),
        state=approval_pb2.ApprovalState.Value(f"APPROVAL_STATE_{approval.state.name}"),
        client=approval.client,
        job_id=approval.job_id,
        requested_by=caller_message(approval.requested_by),
        requested_at=timestamp(approval.requested_at),
        expires_at=timestamp(approval.expires_at),
        decided_by=caller_message(approval.decided_by),
        decided_at=timestamp(approval.decided_at),
    )


def audit_message(entry: Entry, names: Mapping[str, str]) -> audit_pb2.AuditEntry:
    """An entry of the audit; `names` has those of the pseudonyms that still stand for somebody."""
    at = Timestamp()
    at.FromMicroseconds(entry.at_microseconds)
    return audit_pb2.AuditEntry(
        sequence=entry.sequence,
        at=at,
        actor=entry.actor,
        role=_role(entry.role),
        action=entry.action,
        subject=entry.subject,
        outcome=audit_pb2.AuditOutcome.Value(f"AUDIT_OUTCOME_{entry.outcome.upper()}"),
        reason=entry.reason,
        job_id=entry.job_id,
        version=entry.version,
        count=entry.count,
        previous_hash=entry.previous_hash,
        hash=entry.hash,
        actor_name=names.get(entry.actor, ""),
        subject_name=names.get(entry.subject, ""),
    )


def receipt_key_message(key: ReceiptKey) -> receipt_pb2.ReceiptKey:
    """The public half of a key."""
    return receipt_pb2.ReceiptKey(
        id=key.id,
        pem=key.pem,
        created_at=timestamp(key.created_at),
        retired_at=timestamp(key.retired_at),
    )


def waiting_sentence(deletion: Deletion, first_ready: str, waiting_for: str) -> str:
    """What the job of a deletion waits for, "" if it does not.

    `first_ready` is the id of the job that goes first, `waiting_for` what the server waits for.
    """
    job, approval = deletion.job, deletion.approval
    if job.phase in ENDED:
        return ""
    if job.phase is JobPhase.AWAITING and approval is not None:
        until = datetime.fromtimestamp(approval.expires_at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
        how = f"an officer approves it by `fednot approve {approval.id}`"
        return f"waiting for a second approval until {until}; {how}"
    if first_ready and first_ready != job.id:
        return f"waiting for {first_ready}, which goes first"
    return waiting_for


def deletion_message(deletion: Deletion, waiting_for: str) -> deletion_pb2.Deletion:
    """A deletion with its job; `waiting_for` is what that job waits for now."""
    return deletion_pb2.Deletion(
        request_id=deletion.request_id,
        scope=deletion_pb2.Scope(client=deletion.client),
        accepted_at=timestamp(deletion.accepted_at),
        method=deletion.job.method,
        layers=deletion.job.layers,
        job=_job_message(deletion.job, waiting_for),
        aborted_rounds=deletion.aborted_rounds,
        requested_by=caller_message(deletion.requested_by),
        approval_id=deletion.approval.id if deletion.approval else "",
        priority=deletion.job.priority,
        not_after=timestamp(deletion.not_after),
        overdue=deletion.overdue,
    )


def hide_others(message: deletion_pb2.Deletion) -> deletion_pb2.Deletion:
    """Takes out of a deletion what may name other clients, for a client that reads its own."""
    job = message.job
    job.request_ids[:] = [message.request_id]
    own = [each for each in job.client_destructions if each.client == message.scope.client]
    del job.client_destructions[:]
    job.client_destructions.extend(own)
    if job.waiting_for and job.phase != deletion_pb2.JOB_PHASE_AWAITING:
        job.waiting_for = "waiting for other clients or deletions"
    if job.phase == deletion_pb2.JOB_PHASE_CANCELLED:
        job.failure = _without_name(job.failure, f"{Role.CLIENT}/{message.scope.client}")
    elif job.failure:
        job.failure = "it failed; whoever runs the federation sees why"
    return message


def _without_name(why: str, own: str) -> str:
    """Leaves of who cancelled the role alone, unless it is the reader itself."""
    what, _, who = why.rpartition(" by ")
    role, is_name, _ = who.partition("/")
    if not is_name or who == own:
        return why
    return f"{what} by {'another' if role == Role.CLIENT else 'an'} {role}"


def _role(role: str) -> identity_pb2.Role.ValueType:
    return identity_pb2.Role.Value(f"ROLE_{Role(role).name}" if role else "ROLE_UNSPECIFIED")


def _job_message(job: Job, waiting_for: str) -> deletion_pb2.Job:
    return deletion_pb2.Job(
        id=job.id,
        phase=deletion_pb2.JobPhase.Value(f"JOB_PHASE_{job.phase.name}"),
        waiting_for=waiting_for,
        base_version=job.base_version,
        target_accuracy=job.target_accuracy,
        attempts=[_attempt_message(attempt) for attempt in job.attempts],
        released_version=job.released_version,
        failure=job.failure,
        history=[
            deletion_pb2.PhaseEntry(
                phase=deletion_pb2.JobPhase.Value(f"JOB_PHASE_{phase.name}"), at=timestamp(at)
            )
            for phase, at in job.history
        ],
        destroyed=[
            deletion_pb2.DestroyedVersion(number=version.number, sha256=version.sha256)
            for version in job.destroyed
        ],
        request_ids=job.requests,
        retain=job.retain,
        hold_lifted_at=timestamp(job.hold_lifted_at),
        client_destructions=[_destruction_message(each) for each in job.caches],
        has_receipt=job.has_receipt,
    )


def _destruction_message(found: ClientDestruction) -> deletion_pb2.ClientDestruction:
    return deletion_pb2.ClientDestruction(
        client=found.client,
        ordered_at=timestamp(found.ordered_at),
        acknowledged_at=timestamp(found.acknowledged_at),
        destroyed=[
            federation_pb2.DestroyedCache(
                kind=cache.kind, sha256=cache.sha256, num_bytes=cache.num_bytes
            )
            for cache in found.destroyed
        ],
    )


def _attempt_message(attempt: Attempt) -> deletion_pb2.Attempt:
    reason = attempt.stop_reason.name if attempt.stop_reason else "UNSPECIFIED"
    return deletion_pb2.Attempt(
        number=attempt.number,
        method=attempt.method,
        tensors=attempt.tensors,
        start_version=attempt.start_version,
        rounds=[
            deletion_pb2.RecoveryRound(round=r.round, version=r.version, metrics=r.metrics)
            for r in attempt.rounds
        ],
        outcome=deletion_pb2.AttemptOutcome.Value(f"ATTEMPT_OUTCOME_{attempt.outcome.name}"),
        stop_reason=deletion_pb2.StopReason.Value(f"STOP_REASON_{reason}"),
        stopped_at=attempt.stopped_at,
        warnings=attempt.warnings,
        explanation=attempt.explanation,
    )
