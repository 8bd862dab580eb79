"""What requests forget, in the database."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, insert, select, update

from server.records import Scope, ScopeKind
from server.state.schema import requests, scopes, tombstones


def insert_scope(connection: Connection, request: int, scope: Scope, now: float) -> int:
    """Adds a scope of the request of a sequence number, and returns its id.

    A scope without a tombstone's name gets one, except a CLIENT, which needs none.
    """
    named = replace(scope, tombstone=scope.tombstone or _new_tombstone(scope))
    added = connection.execute(
        insert(scopes)
        .values(
            request=request,
            kind=named.kind,
            client=named.client,
            subject=named.subject,
            label=named.label,
            count=named.count,
            sha256=named.sha256,
            tombstone=named.tombstone,
            since=now,
        )
        .returning(scopes.c.id)
    )
    return int(added.scalar_one())


def of_request(connection: Connection, request: int) -> tuple[Scope, ...]:
    """What the request of a sequence number forgets, in the order in which it was asked for."""
    query = select(scopes).where(scopes.c.request == request)
    return tuple(scope_of(row) for row in connection.execute(query.order_by(scopes.c.id)))


def of_job(connection: Connection, job_id: str) -> tuple[Scope, ...]:
    """What the requests that a job serves forget, in the order in which that was asked for."""
    query = (
        select(scopes)
        .join(requests, requests.c.sequence == scopes.c.request)
        .where(requests.c.job_id == job_id)
    )
    return tuple(scope_of(row) for row in connection.execute(query.order_by(scopes.c.id)))


def first_client(found: Iterable[Scope]) -> str:
    """The first client that scopes name; "" if they name none."""
    return next((scope.client for scope in found if scope.client), "")


def standing_labels(connection: Connection) -> frozenset[int]:
    """The labels of the classes that are forgotten."""
    query = select(scopes.c.label).where(scopes.c.kind == ScopeKind.CLASS, is_standing())
    return frozenset(connection.execute(query).scalars())


def standing_requests(connection: Connection) -> frozenset[int]:
    """The sequence numbers of the requests that bar anything: a client by its tombstone, else what
    a client bars itself.
    """
    clients = select(tombstones.c.request).where(tombstones.c.lifted_at.is_(None))
    parts = select(scopes.c.request).where(scopes.c.kind != ScopeKind.CLIENT, is_standing())
    return frozenset(connection.execute(clients.union(parts)).scalars())


def is_standing() -> ColumnElement[bool]:
    """That a scope was not lifted."""
    return scopes.c.lifted_at.is_(None)


def lift_of_job(connection: Connection, job_id: str, now: float) -> Sequence[int]:
    """Lifts every scope of a job, erases the keys of persons in them, and returns their ids."""
    served = select(requests.c.sequence).where(requests.c.job_id == job_id)
    return _lift(connection, scopes.c.request.in_(served), now)


def lift_of_client(connection: Connection, client: str, now: float) -> None:
    """Lifts the scopes that are the whole of a client."""
    _lift(connection, (scopes.c.kind == ScopeKind.CLIENT) & (scopes.c.client == client), now)


def erase_subject(connection: Connection, scope: int) -> None:
    """Erases the key of a person that a scope names, by the scope's id."""
    connection.execute(update(scopes).where(scopes.c.id == scope).values(subject=""))


def scope_of(row: Row[Any]) -> Scope:
    """The scope of a row."""
    return Scope(
        kind=ScopeKind(row.kind),
        client=row.client,
        subject=row.subject,
        label=row.label,
        count=row._mapping["count"],  # a row is a tuple, whose `count` is another thing
        sha256=row.sha256,
        tombstone=row.tombstone,
    )


def _lift(connection: Connection, which: ColumnElement[bool], now: float) -> Sequence[int]:
    lifted = update(scopes).where(which, is_standing()).values(lifted_at=now, subject="")
    return connection.execute(lifted.returning(scopes.c.id)).scalars().all()


def _new_tombstone(scope: Scope) -> str:
    if scope.kind is ScopeKind.CLIENT:
        return ""
    return scope.sha256 or uuid.uuid4().hex
