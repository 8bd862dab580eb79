"""What clients were told to destroy, and what they say that they destroyed, in the database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from server.records import ClientDestruction, DestroyedCache
from server.state.schema import clients, destructions


def order(connection: Connection, job_id: str, generation: int, now: float) -> None:
    """Tells every client that ever joined to destroy what it keeps of older generations."""
    told = select(destructions.c.client).where(destructions.c.job_id == job_id)
    names = connection.execute(select(clients.c.name).where(clients.c.name.not_in(told)))
    for name in names.scalars().all():
        connection.execute(
            insert(destructions).values(
                job_id=job_id, client=name, generation=generation, ordered_at=now, destroyed=[]
            )
        )


def pending(connection: Connection, client: str) -> ClientDestruction | None:
    """The oldest order that a client has not acknowledged."""
    query = select(destructions).where(
        destructions.c.client == client, destructions.c.acknowledged_at.is_(None)
    )
    row = connection.execute(query.order_by(destructions.c.id).limit(1)).first()
    return _destruction(row) if row else None


def acknowledge(
    connection: Connection,
    client: str,
    order_id: int,
    destroyed: Sequence[DestroyedCache],
    now: float,
) -> ClientDestruction | None:
    """Notes what a client destroyed; None if it has no such order, or has acknowledged it."""
    open_one = (
        destructions.c.id == order_id,
        destructions.c.client == client,
        destructions.c.acknowledged_at.is_(None),
    )
    values = {"acknowledged_at": now, "destroyed": [asdict(cache) for cache in destroyed]}
    if not connection.execute(update(destructions).where(*open_one).values(**values)).rowcount:
        return None
    query = select(destructions).where(destructions.c.id == order_id)
    return _destruction(connection.execute(query).one())


def outstanding(connection: Connection, job_id: str) -> Sequence[str]:
    """The clients that have not acknowledged the order of a job, by name."""
    owed = (destructions.c.job_id == job_id, destructions.c.acknowledged_at.is_(None))
    query = select(destructions.c.client).where(*owed).order_by(destructions.c.client)
    return connection.execute(query).scalars().all()


def of_job(connection: Connection, job_id: str) -> Sequence[ClientDestruction]:
    """The orders of a job, by client."""
    query = select(destructions).where(destructions.c.job_id == job_id)
    found = connection.execute(query.order_by(destructions.c.client))
    return [_destruction(row) for row in found]


def _destruction(row: Row[Any]) -> ClientDestruction:
    return ClientDestruction(
        id=row.id,
        client=row.client,
        job_id=row.job_id,
        generation=row.generation,
        ordered_at=row.ordered_at,
        acknowledged_at=row.acknowledged_at,
        destroyed=tuple(DestroyedCache(**cache) for cache in row.destroyed),
    )
