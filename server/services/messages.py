"""Records as messages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

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
from server.awaiting import unconfirmed
from server.phases import ENDED
from server.records import (
    Approval,
    ApprovalState,
    Attempt,
    Bar,
    Caller,
    ClientDestruction,
    Deletion,
    ForgetOrder,
    Job,
    JobPhase,
    ReceiptKey,
    Round,
    RoundPhase,
    RoundProgress,
    Run,
    Scope,
    ScopeKind,
    Version,
)
from server.services.moments import moment, timestamp
from server.services.scopes import scope_message
from server.services.verification_messages import verification_message


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
        call_id=run.call_id,
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


def waiting_sentence(
    deletion: Deletion,
    first_ready: str,
    waiting_for: str,
    *,
    confirmation_wait: float = 0.0,
    reader: str | None = None,
) -> str:
    """What the job of a deletion waits for, "" if it does not.

    `first_ready` is the id of the job that goes first, `waiting_for` what the server waits for;
    `confirmation_wait` is how long it waits for a client to bar samples, in seconds. A client that
    is the `reader` is told of no other client's name.
    """
    job = deletion.job
    if job.phase in ENDED:
        return ""
    if job.phase is JobPhase.AWAITING:
        sentences = (
            _approval_sentence(deletion.approval),
            _confirmation_sentence(deletion.orders, confirmation_wait, reader),
        )
        return "; ".join(filter(None, sentences))
    if first_ready and first_ready != job.id:
        return f"waiting for {first_ready}, which goes first"
    return waiting_for


def _approval_sentence(approval: Approval | None) -> str:
    if approval is None or approval.state is not ApprovalState.WAITING:
        return ""
    how = f"an officer approves it by `fednot approve {approval.id}`"
    return f"waiting for a second approval until {moment(approval.expires_at)}; {how}"


def _confirmation_sentence(
    orders: Iterable[ForgetOrder], confirmation_wait: float, reader: str | None
) -> str:
    waited_for = unconfirmed(tuple(orders))
    if not waited_for:
        return ""
    names = {
        f"client {each.client}" if reader in (None, each.client) else "another client"
        for each in waited_for
    }
    until = moment(min(each.ordered_at for each in waited_for) + confirmation_wait)
    return f"waiting for {', '.join(sorted(names))} to bar the samples, until {until}"


def deletion_message(deletion: Deletion, waiting_for: str) -> deletion_pb2.Deletion:
    """A deletion with its job; `waiting_for` is what that job waits for now."""
    scopes = deletion.scopes or (Scope(ScopeKind.CLIENT, client=deletion.client),)
    first, *more = map(scope_message, scopes)
    return deletion_pb2.Deletion(
        request_id=deletion.request_id,
        scope=first,
        more_scopes=more,
        confirmations=[_confirmation_message(order) for order in deletion.orders],
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


def hide_others(message: deletion_pb2.Deletion, reader: str) -> deletion_pb2.Deletion:
    """Takes out of a deletion what may name other clients, for the client that reads it.

    Left are the scopes that are about it, as a class is about everybody, and what it has answered.
    """
    job = message.job
    job.call_id = ""
    job.request_ids[:] = [message.request_id]
    _keep_own(message.confirmations, reader)
    _keep_own(job.client_destructions, reader)
    scopes = [message.scope, *message.more_scopes]
    first, *more = [scope for scope in scopes if _is_about(scope, reader)]
    message.scope.CopyFrom(first)
    del message.more_scopes[:]
    message.more_scopes.extend(more)
    for attempt in job.attempts:  # the losses of several clients' samples, added up
        if attempt.HasField("verification"):  # else clearing makes an empty one
            attempt.verification.ClearField("forgotten")
            attempt.verification.ClearField("unseen")
    if job.waiting_for and job.phase != deletion_pb2.JOB_PHASE_AWAITING:
        job.waiting_for = "waiting for other clients or deletions"
    if job.phase == deletion_pb2.JOB_PHASE_CANCELLED:
        job.failure = _without_name(job.failure, f"{Role.CLIENT}/{reader}")
    elif job.failure:
        job.failure = "it failed; whoever runs the federation sees why"
    return message


def _is_about(scope: deletion_pb2.Scope, client: str) -> bool:
    is_class = scope.WhichOneof("target") == "class_label"
    return is_class or client in (scope.client, scope.samples.client)


def _keep_own(messages: Any, reader: str) -> None:
    """Leaves of a repeated field what names the reader as its client."""
    own = [message for message in messages if message.client == reader]
    del messages[:]
    messages.extend(own)


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
        assurance=deletion_pb2.Assurance.Value(f"ASSURANCE_{job.assurance.name}"),
        chosen_attempt=job.chosen_attempt,
        has_receipt=job.has_receipt,
        call_id=job.origin.call_id,
    )


def _confirmation_message(order: ForgetOrder) -> deletion_pb2.ForgetConfirmation:
    confirmed = order.confirmed_at is not None
    barred = deletion_pb2.SampleDigest(count=order.count, sha256=order.sha256)
    return deletion_pb2.ForgetConfirmation(
        client=order.client,
        ordered_at=timestamp(order.ordered_at),
        confirmed_at=timestamp(order.confirmed_at),
        barred=barred if confirmed else None,
        refusal=order.refusal,
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
        verification=verification_message(attempt.verification),
        steps=attempt.steps,
    )
