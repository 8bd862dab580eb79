"""What a job waits for before it may queue, and what follows once it has come."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from sqlalchemy import Connection

from server.records import (
    NOBODY,
    ApprovalState,
    AuditEvent,
    ForgetOrder,
    Job,
    JobPhase,
    ScopeKind,
)
from server.state import approval_rows, audit_rows, deletion_rows, forget_rows, job_rows

CONFIRMATIONS_OVERDUE: Final = "deletion.confirmation-overdue"
NOTHING_TO_FORGET: Final = "deletion.nothing-to-forget"


def unconfirmed(orders: Sequence[ForgetOrder]) -> list[ForgetOrder]:
    """The orders that a job waits for: samples of persons that their clients have yet to bar.

    One that was refused is no longer waited for, nor is one for a class: whoever has not barred
    that takes no part.
    """
    return [
        each
        for each in orders
        if each.scope.kind is ScopeKind.SAMPLES
        and not each.lift
        and each.confirmed_at is None
        and not each.refusal
    ]


def advance(
    connection: Connection, job: Job, now: float, *, confirmation_wait: float = math.inf
) -> bool:
    """Queues a job that has what it waited for, and cancels one with nothing to forget; True if
    it queued.

    An order older than `confirmation_wait` seconds is no longer waited for.
    """
    if job.phase is not JobPhase.AWAITING:
        return False
    waited_for = unconfirmed(job.orders)
    if any(each.ordered_at > now - confirmation_wait for each in waited_for):
        return False
    if not waited_for and (why := _nothing_to_forget(job)):
        _cancel(connection, job, why, now)
        return False
    approval = approval_rows.of_job(connection, job.id)
    if approval is not None and approval.state is ApprovalState.WAITING:
        return False
    for each in waited_for:
        _note(connection, each.client, job, CONFIRMATIONS_OVERDUE, now)
    job_rows.move(connection, job, JobPhase.QUEUED, now)
    return True


def late(connection: Connection, now: float, confirmation_wait: float) -> Sequence[Job]:
    """The jobs that wait for confirmations alone, and have waited for longer than that."""
    found = []
    for job_id in forget_rows.late_jobs(connection, now - confirmation_wait):
        job, approval = (
            job_rows.get_job(connection, job_id),
            approval_rows.of_job(connection, job_id),
        )
        approved = approval is None or approval.state is not ApprovalState.WAITING
        if job.phase is JobPhase.AWAITING and approved:
            found.append(job)
    return found


def _nothing_to_forget(job: Job) -> str:
    """Why nothing is left of a job, in a sentence; "" if something is."""
    answered = {each.scope.tombstone: each for each in job.orders}
    if any(scope.tombstone not in answered for scope in job.scopes):
        return ""
    if any(each.count or each.scope.kind is ScopeKind.CLASS for each in job.orders):
        return ""
    refusals = [each.refusal for each in job.orders if each.refusal]
    if refusals:
        return f"the client that holds the samples cannot bar them: {refusals[0]}"
    return "no client holds samples of it"


def _cancel(connection: Connection, job: Job, why: str, now: float) -> None:
    deletion_rows.drop(connection, job, why, now)
    for client in dict.fromkeys(each.client for each in job.orders):
        _note(connection, client, job, NOTHING_TO_FORGET, now)


def _note(connection: Connection, client: str, job: Job, action: str, now: float) -> None:
    event = AuditEvent(NOBODY, action, f"client/{client}", job_id=job.id)
    audit_rows.append(connection, event, now)
