"""Deletion requests, jobs and attempts in the database."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select, update

from fednot.errors import FednotError, Reason
from server.phases import CANCELLABLE, ENDED, moved
from server.records import (
    Attempt,
    AttemptOutcome,
    Deletion,
    DeletionAsk,
    Job,
    JobPhase,
    RecoveryPolicy,
    RecoveryRound,
    StopReason,
)
from server.state import client_rows, round_rows, version_rows
from server.state.fencing import FencedError
from server.state.schema import attempts, jobs, phase_entries, requests, versions


def repeated(connection: Connection, ask: DeletionAsk) -> Deletion | None:
    """The deletion that this request id already names, if any.

    Raises FednotError (REQUEST_ID_REUSED) if it came with another payload.
    """
    query = select(requests.c.digest).where(requests.c.request_id == ask.request_id)
    digest = connection.execute(query).scalar()
    if digest is None:
        return None
    if digest != ask.digest:
        raise FednotError(
            Reason.REQUEST_ID_REUSED,
            f"request id {ask.request_id} was used before for another deletion",
        )
    return get_deletion(connection, ask.request_id)


def accept(connection: Connection, ask: DeletionAsk, now: float) -> Deletion:
    """Accepts a new request: fence, withdrawn release, aborted rounds and queued job, together.

    Raises FednotError if the client is unknown, or is forgotten or being forgotten already.
    """
    if not client_rows.client_exists(connection, ask.client):
        raise FednotError(Reason.UNKNOWN_CLIENT, f"no client {ask.client!r} has ever joined")
    _check_not_forgotten(connection, ask.client)
    job_id = f"job-{uuid.uuid4().hex[:12]}"
    connection.execute(
        insert(jobs).values(
            id=job_id,
            phase=JobPhase.QUEUED,
            method=ask.method,
            layers=ask.layers,
            allow_unsafe_layers=ask.allow_unsafe_layers,
            policy=asdict(ask.policy),
            created_at=now,
        )
    )
    _note_phase(connection, job_id, JobPhase.QUEUED, now)
    aborted = round_rows.abort_running_rounds(connection, now)
    connection.execute(
        insert(requests).values(
            request_id=ask.request_id,
            digest=ask.digest,
            client=ask.client,
            job_id=job_id,
            accepted_at=now,
            aborted_rounds=list(aborted),
        )
    )
    client_rows.bar_client(connection, ask.client, ask.request_id, now)
    version_rows.set_released(connection, 0)
    return get_deletion(connection, ask.request_id)


def cancel(connection: Connection, request_id: str, now: float) -> Deletion:
    """Cancels a deletion that waits, lifts its fence, and restores the release if no other waits.

    Raises FednotError (UNKNOWN_DELETION, NOT_CANCELLABLE).
    """
    deletion = get_deletion(connection, request_id)
    if deletion.job.phase not in CANCELLABLE:
        raise FednotError(
            Reason.NOT_CANCELLABLE,
            f"deletion {request_id} is {deletion.job.phase}; the model was changed already"
            if deletion.job.phase not in ENDED
            else f"deletion {request_id} has ended: {deletion.job.phase}",
        )
    move(connection, deletion.job, JobPhase.CANCELLED, now)
    client_rows.lift_bar(connection, request_id, now)
    if may_release(connection):
        current, _ = version_rows.current_and_released(connection)
        if current is not None and current.round:
            version_rows.set_released(connection, current.number)
    return get_deletion(connection, request_id)


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


def set_released_by(connection: Connection, job_id: str, version: int) -> None:
    """Notes which version was released at a job's end."""
    connection.execute(update(jobs).where(jobs.c.id == job_id).values(released_version=version))


def count_by_phase(connection: Connection) -> dict[JobPhase, int]:
    """How many jobs are in each phase."""
    query = select(jobs.c.phase, func.count()).group_by(jobs.c.phase)
    return {JobPhase(phase): count for phase, count in connection.execute(query)}


def oldest_open(connection: Connection) -> float:
    """When the oldest open job was asked for, in seconds since the epoch; 0 if none is open."""
    query = select(func.min(jobs.c.created_at)).where(jobs.c.phase.not_in(ENDED))
    return connection.execute(query).scalar() or 0.0


def insert_attempt(connection: Connection, attempt: Attempt) -> None:
    """Adds an attempt."""
    row = asdict(attempt)
    row.pop("rounds")
    row |= {"tensors": list(attempt.tensors), "warnings": list(attempt.warnings)}
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


def open_jobs(connection: Connection) -> Sequence[Job]:
    """Jobs that have not ended, in the order in which they were asked for."""
    query = select(jobs).where(jobs.c.phase.not_in(ENDED)).order_by(jobs.c.sequence)
    return [_job(connection, row) for row in connection.execute(query).all()]


def first_open_id(connection: Connection) -> str:
    """The id of the open job that goes first; "" if none is open."""
    query = select(jobs.c.id).where(jobs.c.phase.not_in(ENDED)).order_by(jobs.c.sequence)
    return connection.execute(query.limit(1)).scalar() or ""


def may_release(connection: Connection) -> bool:
    """Whether a version may be released: no job is open, and no client's last one has failed.

    The model may still hold what a failed job was to take out, until another job for that client
    completes, or any job retrains from the initial version.
    """
    ended = (
        select(requests.c.client, jobs.c.phase, jobs.c.id)
        .join(jobs, jobs.c.id == requests.c.job_id)
        .where(jobs.c.phase != JobPhase.CANCELLED)
        .order_by(requests.c.sequence)
    )
    found = connection.execute(ended).all()
    phases = {JobPhase(row.phase) for row in found}
    if JobPhase.FAILED not in phases:
        return phases <= {JobPhase.COMPLETED}
    latest: dict[str, JobPhase] = {}
    for row in found:
        if row.phase == JobPhase.COMPLETED and _retrained(connection, row.id):
            latest.clear()
        latest[row.client] = JobPhase(row.phase)
    return set(latest.values()) <= {JobPhase.COMPLETED}


def get_deletion(connection: Connection, request_id: str) -> Deletion:
    """The deletion of a request id. Raises FednotError (UNKNOWN_DELETION)."""
    row = connection.execute(select(requests).where(requests.c.request_id == request_id)).first()
    if row is None:
        raise FednotError(Reason.UNKNOWN_DELETION, f"there is no deletion {request_id!r}")
    return _deletion(connection, row)


def get_deletion_of_job(connection: Connection, job_id: str) -> Deletion:
    """The oldest deletion that a job serves. Raises FednotError (UNKNOWN_DELETION)."""
    query = select(requests).where(requests.c.job_id == job_id).order_by(requests.c.sequence)
    row = connection.execute(query.limit(1)).first()
    if row is None:
        raise FednotError(Reason.UNKNOWN_DELETION, f"there is no job {job_id!r}")
    return _deletion(connection, row)


def list_deletions(
    connection: Connection, before: int, size: int
) -> Sequence[tuple[int, Deletion]]:
    """Deletions with a sequence number below `before` (0: all), newest first, each with its own."""
    query = select(requests).order_by(requests.c.sequence.desc()).limit(size)
    if before:
        query = query.where(requests.c.sequence < before)
    rows = connection.execute(query).all()
    return [(row.sequence, _deletion(connection, row)) for row in rows]


def _check_not_forgotten(connection: Connection, client: str) -> None:
    query = select(requests).where(requests.c.client == client).order_by(requests.c.sequence.desc())
    for row in connection.execute(query).all():
        phase = _deletion(connection, row).job.phase
        if phase is JobPhase.COMPLETED:
            raise FednotError(
                Reason.CLIENT_ALREADY_FORGOTTEN,
                f"client {client} was forgotten by deletion {row.request_id}",
                metadata={"request_id": row.request_id},
            )
        if phase not in ENDED:
            raise FednotError(
                Reason.DELETION_IN_PROGRESS,
                f"client {client} is being forgotten by deletion {row.request_id}",
                metadata={"request_id": row.request_id},
            )


def _retrained(connection: Connection, job_id: str) -> bool:
    """Whether a job's last attempt started from the initial version."""
    query = (
        select(versions.c.sha256)
        .join(attempts, attempts.c.start_version == versions.c.number)
        .where(attempts.c.job_id == job_id)
        .order_by(attempts.c.number.desc())
    )
    start = connection.execute(query.limit(1)).first()
    return start is not None and start.sha256 == version_rows.initial_version(connection).sha256


def _note_phase(connection: Connection, job_id: str, phase: JobPhase, now: float) -> None:
    connection.execute(insert(phase_entries).values(job_id=job_id, phase=phase, at=now))


def _deletion(connection: Connection, row: Row[Any]) -> Deletion:
    found = connection.execute(select(jobs).where(jobs.c.id == row.job_id)).one()
    return Deletion(
        request_id=row.request_id,
        client=row.client,
        accepted_at=row.accepted_at,
        job=_job(connection, found),
        aborted_rounds=tuple(row.aborted_rounds),
    )


def _job(connection: Connection, row: Row[Any]) -> Job:
    entries = select(phase_entries).where(phase_entries.c.job_id == row.id)
    history = connection.execute(entries.order_by(phase_entries.c.id)).all()
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
        history=tuple((JobPhase(entry.phase), entry.at) for entry in history),
        attempts=tuple(_attempt(connection, found) for found in connection.execute(tries).all()),
        destroyed=version_rows.destroyed_by(connection, row.id),
    )


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
    )
