"""Jobs and their attempts in the database."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

from sqlalchemy import Connection, Row, case, func, insert, select, update

from fednot.calls import Origin
from server.phases import ENDED, NOT_READY, moved
from server.records import (
    NOBODY,
    Assurance,
    Attempt,
    AttemptOutcome,
    AuditEvent,
    DeletionAsk,
    Job,
    JobPhase,
    RecoveryPolicy,
    RecoveryRound,
    StopReason,
    Verdict,
    Verification,
)
from server.state import (
    audit_rows,
    destruction_rows,
    forget_rows,
    receipt_rows,
    round_rows,
    scope_rows,
    verification_json,
    version_rows,
)
from server.state.fencing import FencedError
from server.state.schema import attempts, jobs, phase_entries, requests

NOTED_BY_CLIENT: Final = (JobPhase.COMPLETED, JobPhase.FAILED)
"""Phases whose entries in the audit name each client: `server.audit.note_job_end` writes them."""


def insert_job(connection: Connection, ask: DeletionAsk, phase: JobPhase, now: float) -> str:
    """Adds the job that serves a new request, and returns its id."""
    job_id = f"job-{uuid.uuid4().hex[:12]}"
    connection.execute(
        insert(jobs).values(
            id=job_id,
            phase=phase,
            method=ask.method,
            layers=ask.layers,
            allow_unsafe_layers=ask.allow_unsafe_layers,
            policy=asdict(ask.policy),
            created_at=now,
            priority=ask.priority,
            retain=ask.retain,
            assurance=ask.assurance,
            call_id=ask.origin.call_id,
            traceparent=ask.origin.traceparent,
        )
    )
    _note_phase(connection, job_id, phase, now)
    return job_id


def get_job(connection: Connection, job_id: str) -> Job:
    """The job of an id. Raises LookupError if there is none."""
    row = connection.execute(select(jobs).where(jobs.c.id == job_id)).first()
    if row is None:
        raise LookupError(f"there is no job {job_id}")
    return _job(connection, row)


def origin_of(connection: Connection, job_id: str) -> Origin:
    """The call that a job goes back to; an empty one for no job of this state."""
    query = select(jobs.c.call_id, jobs.c.traceparent).where(jobs.c.id == job_id)
    row = connection.execute(query).first()
    return Origin(row.call_id, row.traceparent) if row else Origin()


def move(connection: Connection, job: Job, to: JobPhase, now: float, **values: object) -> None:
    """Moves a job to a phase. Raises IllegalMoveError if the table does not allow it.

    Raises FencedError if the job is no longer in the phase in which the caller read it.
    """
    phase = moved(job.phase, to)
    here = (jobs.c.id == job.id, jobs.c.phase == job.phase)
    changed = connection.execute(update(jobs).where(*here).values(phase=phase, **values))
    if not changed.rowcount:
        raise FencedError(f"{job.id} is no longer {job.phase}")
    _note_phase(connection, job.id, phase, now)
    if phase not in NOTED_BY_CLIENT:
        event = AuditEvent(NOBODY, f"job.{phase}", job_id=job.id)
        audit_rows.append(connection, event, now)


def set_released_by(connection: Connection, job_id: str, version: int) -> None:
    """Notes which version was released at a job's end."""
    connection.execute(update(jobs).where(jobs.c.id == job_id).values(released_version=version))


def insert_attempt(connection: Connection, attempt: Attempt) -> None:
    """Adds an attempt."""
    row = asdict(attempt)
    row.pop("rounds")
    row.pop("verification")
    row |= {key: list(row[key]) for key in ("tensors", "warnings", "steps")}
    connection.execute(insert(attempts).values(**row))


def end_attempt(connection: Connection, attempt: Attempt) -> None:
    """Writes how an attempt ended."""
    connection.execute(
        update(attempts)
        .where(attempts.c.job_id == attempt.job_id, attempts.c.number == attempt.number)
        .values(
            outcome=attempt.outcome,
            stop_reason=attempt.stop_reason,
            stopped_at=attempt.stopped_at,
            explanation=attempt.explanation,
        )
    )


def add_step(connection: Connection, attempt: Attempt, version: int) -> None:
    """Notes the version that a step made.

    Raises FencedError if the attempt no longer runs, or has taken another step since.
    """
    here = (attempts.c.job_id == attempt.job_id, attempts.c.number == attempt.number)
    row = connection.execute(select(attempts).where(*here)).one()
    if row.outcome != AttemptOutcome.RUNNING or tuple(row.steps) != attempt.steps:
        raise FencedError(f"attempt {attempt.number} of {attempt.job_id} has gone on")
    steps = [*attempt.steps, version]
    connection.execute(update(attempts).where(*here).values(steps=steps))


def set_verification(
    connection: Connection, job_id: str, number: int, verification: Verification
) -> None:
    """Writes what verification found of an attempt."""
    connection.execute(
        update(attempts)
        .where(attempts.c.job_id == job_id, attempts.c.number == number)
        .values(verification=verification_json.to_json(verification))
    )


def choose_attempt(connection: Connection, job: Job, number: int) -> None:
    """Notes which attempt's model a job keeps.

    Raises FencedError if the job is no longer in the phase in which the caller read it.
    """
    here = (jobs.c.id == job.id, jobs.c.phase == job.phase)
    changed = connection.execute(update(jobs).where(*here).values(chosen_attempt=number))
    if not changed.rowcount:
        raise FencedError(f"{job.id} is no longer {job.phase}")


def count_failed_verdicts(connection: Connection) -> dict[str, int]:
    """How many completed jobs kept a model that failed a verdict, by kind: behaviour or depth."""
    kept = (jobs.c.id == attempts.c.job_id) & (jobs.c.chosen_attempt == attempts.c.number)
    found = {}
    for kind in ("behaviour", "depth"):
        verdict = attempts.c.verification[(kind, "verdict")].as_string()
        query = select(func.count()).select_from(attempts.join(jobs, kept))
        query = query.where(jobs.c.phase == JobPhase.COMPLETED, verdict == Verdict.FAIL)
        found[kind] = connection.execute(query).scalar() or 0
    return found


def open_jobs(connection: Connection) -> Sequence[Job]:
    """Jobs that have not ended, in the order in which they were asked for."""
    query = select(jobs).where(jobs.c.phase.not_in(ENDED)).order_by(jobs.c.sequence)
    return [_job(connection, row) for row in connection.execute(query).all()]


def first_ready_id(connection: Connection) -> str:
    """The id of the open job that goes first, of those that wait for no approval; "" if none.

    One that has begun goes before all others, for the model is in its hands. Then come the higher
    priority, the earlier deadline, and the earlier request.
    """
    waits = case((jobs.c.phase == JobPhase.QUEUED, 1), else_=0)
    deadline = (
        select(func.min(requests.c.not_after))
        .where(requests.c.job_id == jobs.c.id)
        .scalar_subquery()
    )
    order = (
        waits,
        jobs.c.priority.desc(),
        deadline.is_(None),
        deadline,
        jobs.c.sequence,
    )
    query = select(jobs.c.id).where(jobs.c.phase.not_in(NOT_READY)).order_by(*order)
    return connection.execute(query.limit(1)).scalar() or ""


def first_ready(connection: Connection) -> Job | None:
    """The open job that goes first, of those that wait for no approval."""
    job_id = first_ready_id(connection)
    return get_job(connection, job_id) if job_id else None


def merge_equals(connection: Connection, job: Job, now: float) -> tuple[str, ...]:
    """Has a job serve the requests of every other job that waits with an equal plan.

    Returns the ids of those jobs, which are MERGED from then on.
    """
    plan = (
        jobs.c.method == job.method,
        jobs.c.layers == job.layers,
        jobs.c.allow_unsafe_layers == job.allow_unsafe_layers,
        jobs.c.retain == job.retain,
        jobs.c.assurance == job.assurance,
        jobs.c.phase == JobPhase.QUEUED,
        jobs.c.id != job.id,
    )
    waiting = connection.execute(select(jobs).where(*plan).order_by(jobs.c.sequence)).all()
    equal = [row.id for row in waiting if RecoveryPolicy(**row.policy) == job.policy]
    for merged in equal:
        move(connection, get_job(connection, merged), JobPhase.MERGED, now, merged_into=job.id)
    of_equals = requests.c.job_id.in_(equal)
    connection.execute(update(requests).where(of_equals).values(job_id=job.id))
    return tuple(equal)


def _note_phase(connection: Connection, job_id: str, phase: JobPhase, now: float) -> None:
    connection.execute(insert(phase_entries).values(job_id=job_id, phase=phase, at=now))


def _job(connection: Connection, row: Row[Any]) -> Job:
    entries = select(phase_entries).where(phase_entries.c.job_id == row.id)
    history = connection.execute(entries.order_by(phase_entries.c.id)).all()
    served = select(requests.c.request_id).where(requests.c.job_id == row.id)
    tries = select(attempts).where(attempts.c.job_id == row.id).order_by(attempts.c.number)
    return Job(
        id=row.id,
        phase=JobPhase(row.phase),
        method=row.method,
        layers=row.layers,
        allow_unsafe_layers=row.allow_unsafe_layers,
        policy=RecoveryPolicy(**row.policy),
        created_at=row.created_at,
        base_version=row.base_version,
        target_accuracy=row.target_accuracy,
        released_version=row.released_version,
        failure=row.failure,
        priority=row.priority,
        retain=row.retain,
        hold_lifted_at=row.hold_lifted_at,
        history=tuple((JobPhase(entry.phase), entry.at) for entry in history),
        attempts=tuple(_attempt(connection, found) for found in connection.execute(tries).all()),
        destroyed=version_rows.destroyed_by(connection, row.id),
        caches=tuple(destruction_rows.of_job(connection, row.id)),
        requests=tuple(connection.execute(served.order_by(requests.c.sequence)).scalars()),
        queued_at=_queued_at(connection, row),
        assurance=Assurance(row.assurance),
        chosen_attempt=row.chosen_attempt,
        scopes=scope_rows.of_job(connection, row.id),
        orders=forget_rows.of_job(connection, row.id),
        has_receipt=receipt_rows.has_receipt(connection, row.id),
        origin=Origin(row.call_id, row.traceparent),
    )


def _queued_at(connection: Connection, row: Row[Any]) -> float:
    merged = select(jobs.c.id).where(jobs.c.merged_into == row.id)
    query = select(func.max(phase_entries.c.at)).where(
        (phase_entries.c.job_id == row.id) | phase_entries.c.job_id.in_(merged),
        phase_entries.c.phase == JobPhase.QUEUED,
    )
    return float(connection.execute(query).scalar() or row.created_at)


def _attempt(connection: Connection, row: Row[Any]) -> Attempt:
    found = round_rows.recovery_rounds(connection, row.job_id, row.number)
    return Attempt(
        job_id=row.job_id,
        number=row.number,
        method=row.method,
        tensors=tuple(row.tensors),
        start_version=row.start_version,
        outcome=AttemptOutcome(row.outcome),
        stop_reason=StopReason(row.stop_reason) if row.stop_reason else None,
        stopped_at=row.stopped_at,
        warnings=tuple(row.warnings),
        explanation=row.explanation,
        rounds=tuple(RecoveryRound(r.number, r.result_version, r.metrics) for r in found),
        rung=row.rung,
        verification=verification_json.from_json(row.verification),
        steps=tuple(row.steps),
    )
