"""Deletions in the database: requests with the jobs that serve them, and who may see which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Connection, Row, Select, case, func, insert, select, update

from fednot.errors import FednotError, Reason
from fednot.identity.subject import Role
from server.phases import CANCELLABLE, ENDED
from server.records import (
    NOBODY,
    Approval,
    ApprovalKind,
    Caller,
    Deletion,
    DeletionAsk,
    Job,
    JobPhase,
    Scope,
    ScopeKind,
    VersionOrigin,
)
from server.refusals import about
from server.state import (
    approval_rows,
    client_rows,
    forget_rows,
    job_rows,
    release_rows,
    round_rows,
    scope_rows,
    version_rows,
)
from server.state.schema import jobs, phase_entries, requests, scopes
from server.state.standing_rows import check_forgettable

PAUSE_SECONDS: Final = 60.0
"""A client whose own ask was cancelled waits so long: each ask interrupts everybody's training."""


def repeated(connection: Connection, ask: DeletionAsk) -> Deletion | None:
    """The deletion that this request id already names for this caller, if any.

    Raises FednotError (REQUEST_ID_REUSED) if it came with another payload.
    """
    same = (requests.c.caller == ask.caller.key, requests.c.request_id == ask.request_id)
    row = connection.execute(select(requests).where(*same)).first()
    if row is None:
        return None
    if row.digest != ask.digest:
        raise FednotError(
            Reason.REQUEST_ID_REUSED,
            f"request id {ask.request_id} was used before for another deletion",
        )
    return _deletion(connection, row)


def accept(
    connection: Connection, ask: DeletionAsk, now: float, *, approval_until: float | None = None
) -> Deletion:
    """Accepts a new request: fence, withdrawn release, aborted rounds and queued job, together.

    The job does not queue but waits, with `approval_until` that long for a second identity, and for
    clients to bar the samples of persons. Raises FednotError if a scope cannot be asked for
    (`check_forgettable`), or if it asks again within PAUSE_SECONDS of a cancellation (SERVER_BUSY).
    """
    wanted = ask.scopes or (Scope(ScopeKind.CLIENT, client=ask.client),)
    for scope in wanted:
        check_forgettable(connection, scope)
    _check_pause(connection, ask.caller, now)
    if ask.not_after is not None and ask.not_after <= now:
        raise FednotError(Reason.INVALID_REQUEST, "not_after: must be in the future")
    waits = approval_until is not None or any(scope.subject for scope in wanted)
    phase = JobPhase.AWAITING if waits else JobPhase.QUEUED
    job_id = job_rows.insert_job(connection, ask, phase, now)
    sequence = _insert_request(connection, ask, job_id, now)
    fence(connection, sequence, wanted, now)
    if approval_until is not None:
        kind, caller = ApprovalKind.DELETION, ask.caller.key
        first = scope_rows.first_client(wanted)
        wants = Approval("", kind, first, caller, now, approval_until, job_id)
        approval_rows.insert_approval(connection, wants)
    return get_deletion_of_job(connection, job_id)


def fence(connection: Connection, request: int, wanted: Sequence[Scope], now: float) -> None:
    """Fences the scopes of the request of a sequence number, and withdraws the release.

    Clients are barred, and whoever has something to bar itself is told to.
    """
    for scope in wanted:
        scope_id = scope_rows.insert_scope(connection, request, scope, now)
        forget_rows.order(connection, scope_id, scope, now)
        if scope.kind is ScopeKind.CLIENT:
            client_rows.bar_client(connection, scope.client, request, now)
            approval_rows.withdraw_readmission(connection, scope.client, now)
    version_rows.set_released(connection, 0)


def cancel(connection: Connection, request_id: str, caller: Caller, now: float) -> Deletion:
    """Cancels a deletion that waits, lifts its fence, and restores the release if no other waits.

    Where the caller sees no request of that id, it may be a job's id. Raises FednotError
    (UNKNOWN_DELETION, AMBIGUOUS_REQUEST_ID, NOT_CANCELLABLE), and NOT_YOUR_DELETION for a client
    whose deletion somebody else asked for.
    """
    deletion = _named(connection, request_id, caller)
    with about(deletion.client, deletion.job.id):
        _check_cancellable(deletion, request_id, caller)
    drop(connection, deletion.job, f"cancelled by {caller.who}", now)
    return get_deletion_of_job(connection, deletion.job.id)


def drop(connection: Connection, job: Job, why: str, now: float) -> None:
    """Cancels a job, lifts its fence, withdraws its approval, and restores the release if it may.

    Clients that were told to bar something are told to admit it again; what a client has barred
    itself stays barred there.

    `why` is for whoever follows the job; a name in it stands at its end, after "by". Raises
    FencedError if the job is no longer in the phase in which the caller read it.
    """
    job_rows.move(connection, job, JobPhase.CANCELLED, now, failure=why)
    client_rows.lift_bars_of_job(connection, job.id, now)
    forget_rows.lift(connection, scope_rows.lift_of_job(connection, job.id, now), now)
    approval_rows.withdraw_of_job(connection, job.id, now)
    if release_rows.may_release(connection):
        current, _ = version_rows.current_and_released(connection)
        if current is not None and current.origin is not VersionOrigin.INITIAL:
            version_rows.set_released(connection, current.number)


def fail(connection: Connection, job: Job, failure: str, now: float) -> None:
    """Fails a job: its fence stands and nothing is released.

    Raises FencedError if the job is no longer in the phase in which the caller read it.
    """
    job_rows.move(connection, job, JobPhase.FAILED, now, failure=failure)


def count_by_phase(connection: Connection) -> dict[JobPhase, int]:
    """How many jobs are in each phase."""
    query = select(jobs.c.phase, func.count()).group_by(jobs.c.phase)
    return {JobPhase(phase): count for phase, count in connection.execute(query)}


def lift_hold(
    connection: Connection, request_id: str, caller: Caller, now: float
) -> tuple[Deletion, bool]:
    """Lifts the legal hold of a deletion's job, whose held versions are then marked as destroyed.

    True unless it was lifted before. Raises FednotError (UNKNOWN_DELETION, AMBIGUOUS_REQUEST_ID,
    NO_HOLD).
    """
    deletion = _named(connection, request_id, caller)
    job = deletion.job
    if not job.retain:
        raise FednotError(Reason.NO_HOLD, f"deletion {request_id} was asked for without a hold")
    if job.hold_lifted_at is not None:
        return deletion, False
    version_rows.lift_hold(connection, job.id, now)
    lifted = update(jobs).where(jobs.c.id == job.id)
    connection.execute(lifted.values(hold_lifted_at=now))
    return get_deletion_of_job(connection, job.id), True


def get_deletion(connection: Connection, request_id: str, caller: Caller) -> Deletion:
    """The deletion of a request id: the caller's own, else the one that it may see.

    Raises FednotError (UNKNOWN_DELETION, or AMBIGUOUS_REQUEST_ID if several others share the id).
    """
    query = _visible(caller, select(requests).where(requests.c.request_id == request_id))
    rows = connection.execute(query.order_by(requests.c.sequence)).all()
    found = [row for row in rows if row.caller == caller.key] or rows
    if not found:
        raise FednotError(Reason.UNKNOWN_DELETION, f"there is no deletion {request_id!r}")
    if len(found) > 1:
        named = ", ".join(row.job_id for row in found)
        raise FednotError(
            Reason.AMBIGUOUS_REQUEST_ID,
            f"{len(found)} callers have a request {request_id!r}; its jobs are {named}",
        )
    return _deletion(connection, found[0])


def get_deletion_of_job(connection: Connection, job_id: str, caller: Caller = NOBODY) -> Deletion:
    """The deletion that a job was made for, else the oldest that it serves and the caller may see.

    A job that was merged into another one still names its deletion.

    Raises FednotError (UNKNOWN_DELETION).
    """
    own, served = requests.c.own_job_id == job_id, requests.c.job_id == job_id
    query = _visible(caller, select(requests).where(own | served))
    order = (case((own, 0), else_=1), requests.c.sequence)
    row = connection.execute(query.order_by(*order).limit(1)).first()
    if row is None:
        raise FednotError(Reason.UNKNOWN_DELETION, f"there is no job {job_id!r}")
    return _deletion(connection, row)


def subjects_of_job(connection: Connection, job_id: str) -> Sequence[str]:
    """What a job forgets as the audit names it, such as `client/c3`, in the order asked for.

    Of somebody's samples it names whose they are, of a class the label, as in `class/7`.
    """
    return subjects_of(scope_rows.of_job(connection, job_id))


def subjects_of(wanted: Sequence[Scope]) -> Sequence[str]:
    """What scopes forget as the audit names it, each once."""
    named = (f"client/{each.client}" if each.client else f"class/{each.label}" for each in wanted)
    return list(dict.fromkeys(named))


def list_deletions(
    connection: Connection, before: int, size: int, caller: Caller = NOBODY
) -> Sequence[tuple[int, Deletion]]:
    """Deletions with a sequence number below `before` (0: all), newest first, each with its own.

    Only those that the caller may see.
    """
    query = _visible(caller, select(requests).order_by(requests.c.sequence.desc()).limit(size))
    if before:
        query = query.where(requests.c.sequence < before)
    rows = connection.execute(query).all()
    return [(row.sequence, _deletion(connection, row)) for row in rows]


def _named(connection: Connection, name: str, caller: Caller) -> Deletion:
    by_request, by_job = (
        connection.execute(_visible(caller, select(requests).where(column == name))).first()
        for column in (requests.c.request_id, requests.c.own_job_id)
    )
    if by_request is None and by_job is not None:
        return get_deletion_of_job(connection, name, caller)
    return get_deletion(connection, name, caller)


def _check_cancellable(deletion: Deletion, request_id: str, caller: Caller) -> None:
    if caller.role is Role.CLIENT and deletion.requested_by != caller.key:
        raise FednotError(
            Reason.NOT_YOUR_DELETION,
            f"{caller.key} did not ask for deletion {request_id} and may not cancel it",
        )
    if deletion.job.phase not in CANCELLABLE:
        raise FednotError(
            Reason.NOT_CANCELLABLE,
            f"deletion {request_id} is {deletion.job.phase}; the model was changed already"
            if deletion.job.phase not in ENDED
            else f"deletion {request_id} has ended: {deletion.job.phase}",
        )


def _check_pause(connection: Connection, caller: Caller, now: float) -> None:
    if caller.role is not Role.CLIENT:
        return
    query = (
        select(func.max(phase_entries.c.at))
        .join(requests, requests.c.job_id == phase_entries.c.job_id)
        .where(requests.c.caller == caller.key, phase_entries.c.phase == JobPhase.CANCELLED)
    )
    cancelled_at = connection.execute(query).scalar()
    left = 0.0 if cancelled_at is None else cancelled_at + PAUSE_SECONDS - now
    if 0 < left <= PAUSE_SECONDS:
        raise FednotError(
            Reason.SERVER_BUSY,
            f"the last deletion that {caller.key} asked for was cancelled just now; "
            f"it may ask again in {left:.0f} s",
            retry_after=left,
        )


def _insert_request(connection: Connection, ask: DeletionAsk, job_id: str, now: float) -> int:
    aborted = round_rows.abort_running_rounds(connection, now)
    added = connection.execute(
        insert(requests)
        .values(
            caller=ask.caller.key,
            request_id=ask.request_id,
            digest=ask.digest,
            job_id=job_id,
            own_job_id=job_id,
            accepted_at=now,
            not_after=ask.not_after,
            aborted_rounds=list(aborted),
        )
        .returning(requests.c.sequence)
    )
    return int(added.scalar_one())


def _visible(caller: Caller, query: Select[Any]) -> Select[Any]:
    """A client sees the deletions that are about it, as those of a class are about everybody.

    Everybody else who may look sees all.
    """
    if caller.role is not Role.CLIENT:
        return query
    is_about = (scopes.c.client == caller.name) | (scopes.c.kind == ScopeKind.CLASS)
    return query.where(requests.c.sequence.in_(select(scopes.c.request).where(is_about)))


def _deletion(connection: Connection, row: Row[Any]) -> Deletion:
    wanted = scope_rows.of_request(connection, row.sequence)
    return Deletion(
        request_id=row.request_id,
        client=scope_rows.first_client(wanted),
        accepted_at=row.accepted_at,
        job=job_rows.get_job(connection, row.job_id),
        aborted_rounds=tuple(row.aborted_rounds),
        requested_by=row.caller,
        approval=approval_rows.of_job(connection, row.own_job_id),
        not_after=row.not_after,
        overdue=row.overdue_noted_at is not None,
        scopes=wanted,
        orders=forget_rows.of_request(connection, row.sequence),
    )
