"""Second approvals in the database."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from sqlalchemy import Connection, Row, and_, insert, or_, select, update

from fednot.errors import FednotError, Reason
from server.records import Approval, ApprovalKind, ApprovalState
from server.state.fencing import FencedError
from server.state.schema import approvals


def insert_approval(connection: Connection, wanted: Approval) -> Approval:
    """Adds an approval and gives it its id."""
    made = replace(wanted, id=f"approval-{uuid.uuid4().hex[:12]}")
    connection.execute(insert(approvals).values(**asdict(made)))
    return made


def get_approval(connection: Connection, approval_id: str) -> Approval:
    """The approval of an id. Raises FednotError (UNKNOWN_APPROVAL)."""
    row = connection.execute(select(approvals).where(approvals.c.id == approval_id)).first()
    if row is None:
        raise FednotError(Reason.UNKNOWN_APPROVAL, f"there is no approval {approval_id!r}")
    return _approval(row)


def of_job(connection: Connection, job_id: str) -> Approval | None:
    """The approval that a job waits for, or waited for."""
    query = select(approvals).where(approvals.c.job_id == job_id)
    row = connection.execute(query.order_by(approvals.c.sequence.desc()).limit(1)).first()
    return _approval(row) if row else None


def waiting_readmission(connection: Connection, client: str) -> Approval | None:
    """The approval that waits and would readmit a client."""
    row = connection.execute(select(approvals).where(*_waiting_readmission(client))).first()
    return _approval(row) if row else None


def list_approvals(
    connection: Connection, before: int, size: int
) -> Sequence[tuple[int, Approval]]:
    """Approvals with a sequence number below `before` (0: all), newest first, each with its own."""
    query = select(approvals).order_by(approvals.c.sequence.desc()).limit(size)
    if before:
        query = query.where(approvals.c.sequence < before)
    return [(row.sequence, _approval(row)) for row in connection.execute(query)]


def overdue(connection: Connection, now: float, *, longest: float) -> Sequence[Approval]:
    """Approvals that wait and whose time is up, oldest first.

    That of a deletion is up after `longest` seconds, even if it should last longer.
    """
    waited = and_(
        approvals.c.kind == ApprovalKind.DELETION, approvals.c.requested_at <= now - longest
    )
    query = select(approvals).where(
        approvals.c.state == ApprovalState.WAITING, or_(approvals.c.expires_at <= now, waited)
    )
    return [_approval(row) for row in connection.execute(query.order_by(approvals.c.sequence))]


def end(
    connection: Connection, approval: Approval, state: ApprovalState, by: str, now: float
) -> Approval:
    """Ends an approval that waits; `by` is the key of who decided, "" if nobody did.

    Raises FencedError if it no longer waits.
    """
    ended = replace(approval, state=state, decided_by=by, decided_at=now)
    waits = (approvals.c.id == approval.id, approvals.c.state == ApprovalState.WAITING)
    values = {"state": state, "decided_by": by, "decided_at": now}
    if not connection.execute(update(approvals).where(*waits).values(**values)).rowcount:
        raise FencedError(f"{approval.id} no longer waits")
    return ended


def withdraw_of_job(connection: Connection, job_id: str, now: float) -> None:
    """Withdraws the approval that a job waits for, if it does."""
    waits = (approvals.c.job_id == job_id, approvals.c.state == ApprovalState.WAITING)
    _withdraw(connection, waits, now)


def withdraw_readmission(connection: Connection, client: str, now: float) -> None:
    """Withdraws the approval that would readmit a client, if one waits."""
    _withdraw(connection, _waiting_readmission(client), now)


def _withdraw(connection: Connection, which: tuple[Any, ...], now: float) -> None:
    values = {"state": ApprovalState.WITHDRAWN, "decided_at": now}
    connection.execute(update(approvals).where(*which).values(**values))


def _waiting_readmission(client: str) -> tuple[Any, ...]:
    return (
        approvals.c.client == client,
        approvals.c.kind == ApprovalKind.READMISSION,
        approvals.c.state == ApprovalState.WAITING,
    )


def _approval(row: Row[Any]) -> Approval:
    return Approval(
        id=row.id,
        kind=ApprovalKind(row.kind),
        client=row.client,
        requested_by=row.requested_by,
        requested_at=row.requested_at,
        expires_at=row.expires_at,
        job_id=row.job_id,
        state=ApprovalState(row.state),
        decided_by=row.decided_by,
        decided_at=row.decided_at,
    )
