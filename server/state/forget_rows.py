"""What clients were told to bar, and what they answered, in the database."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, insert, select, update

from server.phases import ENDED
from server.records import ForgetOrder, Scope, ScopeKind
from server.state import scope_rows
from server.state.schema import clients, forget_orders, jobs, requests, scopes


@dataclass(frozen=True)
class Answer:
    """What a client says of an order: how many samples it has barred, sha256 over their salted
    digests, or why it cannot; and how many samples are left to it.
    """

    count: int = 0
    sha256: str = ""
    refusal: str = ""
    num_train_examples: int = 0
    num_test_examples: int = 0


def order(connection: Connection, scope_id: int, scope: Scope, now: float) -> None:
    """Tells those who can bar a scope to do so: a person's samples their client, a class everybody.

    Nobody is told of a whole client, or of what a client has barred itself.
    """
    if scope.kind is ScopeKind.CLASS:
        _insert(connection, scope_id, connection.execute(select(clients.c.name)).scalars(), now)
    elif scope.subject:
        _insert(connection, scope_id, [scope.client], now)


def order_standing_classes(connection: Connection, client: str, now: float) -> bool:
    """Tells a client of every class that is forgotten and that it was not told of; False if none.

    What it refused before, it is told again.
    """
    told = select(forget_orders.c.scope).where(forget_orders.c.client == client)
    query = select(scopes.c.id).where(
        scopes.c.kind == ScopeKind.CLASS, scope_rows.is_standing(), scopes.c.id.not_in(told)
    )
    found = connection.execute(query.order_by(scopes.c.id)).scalars().all()
    for scope_id in found:
        _insert(connection, scope_id, [client], now)
    refused = (forget_orders.c.client == client, _is_open(), forget_orders.c.refusal != "")
    again = connection.execute(update(forget_orders).where(*refused).values(refusal=""))
    return bool(found or again.rowcount)


def order_classes_again(connection: Connection, client: str, now: float) -> None:
    """Tells a client once more of every class that is forgotten, since its tombstones are lost."""
    standing = select(scopes.c.id).where(scopes.c.kind == ScopeKind.CLASS, scope_rows.is_standing())
    told = (forget_orders.c.client == client, forget_orders.c.scope.in_(standing))
    values = {"ordered_at": now, "confirmed_at": None, "count": 0, "refusal": ""}
    connection.execute(update(forget_orders).where(*told).values(**values))


def pending(connection: Connection, client: str) -> ForgetOrder | None:
    """The oldest order that a client has not answered."""
    query = _orders().where(
        forget_orders.c.client == client, _is_open(), forget_orders.c.refusal == ""
    )
    row = connection.execute(query.order_by(forget_orders.c.id).limit(1)).first()
    return _order(row) if row else None


def owing(connection: Connection) -> dict[str, str]:
    """The clients that have not barred what they were told to, each with the oldest request."""
    query = (
        select(forget_orders.c.client, requests.c.request_id)
        .join(scopes, scopes.c.id == forget_orders.c.scope)
        .join(requests, requests.c.sequence == scopes.c.request)
        .where(forget_orders.c.lift.is_(False), _is_open())
        .order_by(forget_orders.c.id.desc())
    )
    return {row.client: row.request_id for row in connection.execute(query)}


def get_order(connection: Connection, client: str, order_id: int) -> ForgetOrder | None:
    """The order of an id, if it is the client's."""
    query = _orders().where(forget_orders.c.id == order_id, forget_orders.c.client == client)
    row = connection.execute(query).first()
    return _order(row) if row else None


def answer(connection: Connection, found: ForgetOrder, said: Answer, now: float) -> None:
    """Writes what a client answered; the key of a person is erased once its samples are barred."""
    values = {
        "confirmed_at": None if said.refusal else now,
        "count": said.count,
        "sha256": said.sha256,
        "refusal": said.refusal,
    }
    changed = update(forget_orders).where(forget_orders.c.id == found.id).values(**values)
    scope_id = connection.execute(changed.returning(forget_orders.c.scope)).scalar_one()
    if not said.refusal:
        scope_rows.erase_subject(connection, scope_id)
        left = {
            "num_train_examples": said.num_train_examples,
            "num_test_examples": said.num_test_examples,
        }
        connection.execute(update(clients).where(clients.c.name == found.client).values(**left))


def of_request(connection: Connection, request: int) -> tuple[ForgetOrder, ...]:
    """The orders of the request of a sequence number, by client."""
    return _listed(connection, scopes.c.request == request)


def of_job(connection: Connection, job_id: str) -> tuple[ForgetOrder, ...]:
    """The orders of the requests that a job serves, by client."""
    return _listed(connection, requests.c.job_id == job_id)


def lift(connection: Connection, scope_ids: Collection[int], now: float) -> None:
    """Tells whoever was told to bar these scopes to admit them again."""
    values = {"lift": True, "ordered_at": now, "confirmed_at": None, "count": 0, "sha256": ""}
    told = (forget_orders.c.scope.in_(scope_ids), forget_orders.c.lift.is_(False))
    connection.execute(update(forget_orders).where(*told).values(**values, refusal=""))


def late_jobs(connection: Connection, before: float) -> Sequence[str]:
    """The open jobs with an order for a person's samples, not answered and older than `before`."""
    query = (
        select(jobs.c.id)
        .join(requests, requests.c.job_id == jobs.c.id)
        .join(scopes, scopes.c.request == requests.c.sequence)
        .join(forget_orders, forget_orders.c.scope == scopes.c.id)
        .where(
            jobs.c.phase.not_in(ENDED),
            scopes.c.kind == ScopeKind.SAMPLES,
            forget_orders.c.ordered_at <= before,
            forget_orders.c.refusal == "",
            forget_orders.c.lift.is_(False),
            _is_open(),
        )
    )
    return connection.execute(query.distinct()).scalars().all()


def _insert(connection: Connection, scope_id: int, names: Iterable[str], now: float) -> None:
    for name in list(names):
        values = {"scope": scope_id, "client": name, "ordered_at": now}
        connection.execute(insert(forget_orders).values(**values))


def _is_open() -> ColumnElement[bool]:
    return forget_orders.c.confirmed_at.is_(None)


def _listed(connection: Connection, which: ColumnElement[bool]) -> tuple[ForgetOrder, ...]:
    query = _orders().where(which).order_by(forget_orders.c.client, forget_orders.c.id)
    return tuple(_order(row) for row in connection.execute(query))


def _orders() -> Select[Any]:
    of_order = (
        forget_orders.c.id.label("order_id"),
        forget_orders.c.client.label("told"),
        forget_orders.c.lift,
        forget_orders.c.ordered_at,
        forget_orders.c.confirmed_at,
        forget_orders.c.count.label("barred_count"),
        forget_orders.c.sha256.label("barred_sha256"),
        forget_orders.c.refusal,
    )
    return (
        select(scopes, requests.c.job_id, *of_order)
        .join(forget_orders, forget_orders.c.scope == scopes.c.id)
        .join(requests, requests.c.sequence == scopes.c.request)
    )


def _order(row: Row[Any]) -> ForgetOrder:
    return ForgetOrder(
        id=row.order_id,
        client=row.told,
        scope=scope_rows.scope_of(row),
        job_id=row.job_id,
        ordered_at=row.ordered_at,
        lift=row.lift,
        confirmed_at=row.confirmed_at,
        count=row.barred_count,
        sha256=row.barred_sha256,
        refusal=row.refusal,
    )
