"""Clients and their tombstones in the database."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, Connection, insert, select, update

from server.records import Bar, ClientRecord
from server.state import scope_rows
from server.state.schema import clients, requests, tombstones


def record_join(connection: Connection, client: ClientRecord) -> None:
    """Adds a client, or refreshes what it says of itself; the first join's moment stays."""
    values = {
        "last_seen_at": client.last_seen_at,
        "num_train_examples": client.num_train_examples,
        "num_test_examples": client.num_test_examples,
        "device": client.device,
        "unsupported_scopes": dict(client.unsupported_scopes),
    }
    changed = connection.execute(
        update(clients).where(clients.c.name == client.name).values(**values)
    )
    if not changed.rowcount:
        connection.execute(
            insert(clients).values(name=client.name, joined_at=client.joined_at, **values)
        )


def record_seen(connection: Connection, name: str, at: float) -> None:
    """Notes when a client was last heard of."""
    connection.execute(update(clients).where(clients.c.name == name).values(last_seen_at=at))


def moved(connection: Connection, name: str, instance: str) -> bool:
    """Notes the state directory that a client runs from; True if it ran from another one before.

    A client that names none ("") is taken to be where it was.
    """
    query = select(clients.c.instance).where(clients.c.name == name)
    before = connection.execute(query).scalar() or ""
    if instance and instance != before:
        there = update(clients).where(clients.c.name == name).values(instance=instance)
        connection.execute(there)
    return bool(before and instance and instance != before)


def client_exists(connection: Connection, name: str) -> bool:
    """Whether a client of this name ever joined."""
    return connection.execute(select(clients).where(clients.c.name == name)).first() is not None


def list_clients(connection: Connection) -> Sequence[ClientRecord]:
    """Every client, by name."""
    bars = {bar.client: bar for bar in list_bars(connection)}
    return [
        ClientRecord(
            name=row.name,
            joined_at=row.joined_at,
            last_seen_at=row.last_seen_at,
            num_train_examples=row.num_train_examples,
            num_test_examples=row.num_test_examples,
            device=row.device,
            barred_by=bars[row.name].request_id if row.name in bars else "",
            unsupported_scopes=row.unsupported_scopes,
        )
        for row in connection.execute(select(clients).order_by(clients.c.name))
    ]


def list_bars(connection: Connection) -> Sequence[Bar]:
    """The tombstones that stand."""
    query = (
        select(tombstones.c.client, requests.c.request_id, tombstones.c.since)
        .join(requests, requests.c.sequence == tombstones.c.request)
        .where(tombstones.c.lifted_at.is_(None))
        .order_by(tombstones.c.id)
    )
    return [Bar(row.client, row.request_id, row.since) for row in connection.execute(query)]


def bar_client(connection: Connection, client: str, request: int, now: float) -> None:
    """Bars a client by the request of a sequence number."""
    connection.execute(insert(tombstones).values(client=client, request=request, since=now))


def lift_bars_of_job(connection: Connection, job_id: str, now: float) -> None:
    """Lifts the tombstones of clients of the requests that a job serves."""
    served = select(requests.c.sequence).where(requests.c.job_id == job_id)
    _lift(connection, tombstones.c.request.in_(served), now)


def lift_bars_of_client(connection: Connection, client: str, now: float) -> None:
    """Lifts every tombstone of a client, and the scopes that are the whole of it."""
    _lift(connection, tombstones.c.client == client, now)
    scope_rows.lift_of_client(connection, client, now)


def _lift(connection: Connection, which: ColumnElement[bool], now: float) -> None:
    standing = (which, tombstones.c.lifted_at.is_(None))
    connection.execute(update(tombstones).where(*standing).values(lifted_at=now))
