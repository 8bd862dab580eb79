"""Second approval: what one identity asked for goes on once another one has said so."""

from __future__ import annotations

from sqlalchemy import Connection

from fednot.errors import FednotError, Reason
from server import awaiting
from server.records import (
    NOBODY,
    Approval,
    ApprovalKind,
    ApprovalState,
    AuditEvent,
    Caller,
)
from server.refusals import about
from server.state import (
    approval_rows,
    audit_rows,
    client_rows,
    deletion_rows,
    job_rows,
    standing_rows,
)


def approve(
    connection: Connection, approval_id: str, caller: Caller, now: float
) -> tuple[Approval, bool]:
    """Approves, so that a job queues, once its clients have confirmed too, or a client is
    readmitted; True unless it was so already.

    Raises FednotError (UNKNOWN_APPROVAL, APPROVAL_ENDED, SECOND_PERSON_NEEDED), and what
    `readmit` raises.
    """
    approval = approval_rows.get_approval(connection, approval_id)
    if _is_repeated(approval, caller, ApprovalState.APPROVED):
        return approval, False
    with about(approval.client, approval.job_id):
        _check_decidable(connection, approval, caller, now)
    ended = approval_rows.end(connection, approval, ApprovalState.APPROVED, caller.key, now)
    if approval.kind is ApprovalKind.DELETION:
        awaiting.advance(connection, job_rows.get_job(connection, approval.job_id), now)
    else:
        client_rows.lift_bars_of_client(connection, approval.client, now)
    _note(connection, approval, caller, "ApprovalService.Approve", now)
    return ended, True


def refuse(connection: Connection, approval_id: str, caller: Caller, now: float) -> Approval:
    """Refuses: a deletion is cancelled and its fence lifted, a readmission does not take place.

    Raises FednotError (UNKNOWN_APPROVAL, APPROVAL_ENDED).
    """
    approval = approval_rows.get_approval(connection, approval_id)
    if _is_repeated(approval, caller, ApprovalState.REFUSED):
        return approval
    with about(approval.client, approval.job_id):
        _check_waits(approval, now)
    ended = approval_rows.end(connection, approval, ApprovalState.REFUSED, caller.key, now)
    _drop(connection, approval, f"refused by {caller.who}", now)
    _note(connection, approval, caller, "ApprovalService.Refuse", now)
    return ended


def readmit(
    connection: Connection,
    client: str,
    caller: Caller,
    now: float,
    *,
    approval_until: float | None = None,
) -> Approval | None:
    """Lifts the bar of a client whose deletions have ended.

    With `approval_until` it asks for the second approval that this takes, and returns it; the one
    that waits already, if there is one. Raises FednotError (UNKNOWN_CLIENT, CLIENT_NOT_BARRED,
    DELETION_IN_PROGRESS).
    """
    _check_readmissible(connection, client)
    approval = approval_rows.waiting_readmission(connection, client)
    if approval is not None and approval_until is not None:
        return approval
    if approval_until is None:
        approval_rows.withdraw_readmission(connection, client, now)
        client_rows.lift_bars_of_client(connection, client, now)
    else:
        kind = ApprovalKind.READMISSION
        wanted = Approval("", kind, client, caller.key, now, approval_until)
        approval = approval_rows.insert_approval(connection, wanted)
    event = AuditEvent(caller, "OperatorService.ReadmitClient", f"client/{client}")
    audit_rows.append(connection, event, now)
    return approval if approval_until is not None else None


def expire(connection: Connection, now: float, *, job_deadline: float) -> tuple[str, ...]:
    """Ends what nobody decided in time, and returns a sentence for each.

    A deletion is cancelled then. It waits no longer than `job_deadline` seconds, whatever its
    approval says: what nobody approved bars nobody for good.
    """
    told = []
    for approval in approval_rows.overdue(connection, now, longest=job_deadline):
        approval_rows.end(connection, approval, ApprovalState.EXPIRED, NOBODY.key, now)
        _drop(connection, approval, "nobody approved it in time", now)
        _note(connection, approval, NOBODY, "approval.expired", now)
        told.append(f"{approval.id} expired: nobody decided on the {approval.kind} in time")
    return tuple(told)


def _drop(connection: Connection, approval: Approval, why: str, now: float) -> None:
    if approval.kind is ApprovalKind.DELETION:
        deletion_rows.drop(connection, job_rows.get_job(connection, approval.job_id), why, now)


def _note(
    connection: Connection, approval: Approval, caller: Caller, action: str, now: float
) -> None:
    subject = f"client/{approval.client}" if approval.client else ""
    event = AuditEvent(caller, action, subject, job_id=approval.job_id)
    audit_rows.append(connection, event, now)


def _is_repeated(approval: Approval, caller: Caller, state: ApprovalState) -> bool:
    """Whether the caller has decided so already: a lost reply costs nothing."""
    return approval.state is state and approval.decided_by == caller.key


def _check_decidable(
    connection: Connection, approval: Approval, caller: Caller, now: float
) -> None:
    _check_waits(approval, now)
    if caller.name == Caller.of_key(approval.requested_by).name:
        raise FednotError(
            Reason.SECOND_PERSON_NEEDED,
            f"{approval.id} was asked for by {approval.requested_by or 'nobody in particular'}; "
            "nobody approves what they asked for themselves",
        )
    if approval.kind is ApprovalKind.READMISSION:
        _check_readmissible(connection, approval.client)


def _check_waits(approval: Approval, now: float) -> None:
    state = approval.state
    if state is ApprovalState.WAITING and now >= approval.expires_at:
        state = ApprovalState.EXPIRED
    if state is not ApprovalState.WAITING:
        by = f" by {approval.decided_by}" if approval.decided_by else ""
        raise FednotError(
            Reason.APPROVAL_ENDED,
            f"{approval.id} is {state}{by}; it can no longer be decided",
            metadata={"state": state},
        )


def _check_readmissible(connection: Connection, client: str) -> None:
    if not client_rows.client_exists(connection, client):
        raise FednotError(Reason.UNKNOWN_CLIENT, f"no client {client!r} has ever joined")
    standing = standing_rows.standing_jobs(connection, client)
    if not standing:
        raise FednotError(Reason.CLIENT_NOT_BARRED, f"client {client} is not barred")
    standing_rows.check_no_deletion_is_open(standing, f"client {client}")
