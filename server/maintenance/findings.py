"""What may be wrong with the rows of a state, by themselves and against the files beside them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import Connection, and_, func, select

from fednot import audit_chain
from fednot.audit_chain import BrokenChainError, Entry, Head
from fednot.receipt import ReceiptError, verified
from server.ledger.chain import Contents
from server.ledger.file import Key, Standing, standings
from server.ledger.requests import held, scopes_in, told
from server.state import receipt_rows
from server.state.model_store import ModelStore, ModelStoreError
from server.state.schema import attempts, audit, federation, metadata, versions


class Finding(NamedTuple):
    """Something that is wrong: which check found it, and a sentence."""

    check: str
    message: str


def of_database(connection: Connection) -> Iterator[Finding]:
    """Damage that the database itself can tell, and rows that name one that is not there."""
    if connection.dialect.name == "sqlite":
        for (said,) in connection.exec_driver_sql("PRAGMA integrity_check"):
            if said != "ok":
                yield Finding("database", f"SQLite says: {said}")
    for table in metadata.sorted_tables:
        for key in table.foreign_key_constraints:
            there = key.referred_table.alias()
            pairs = [(part.parent, there.c[part.column.name]) for part in key.elements]
            missing = ~select(there).where(and_(*(a == b for a, b in pairs))).exists()
            named = [a.is_not(None) for a, _ in pairs]
            orphans = select(func.count()).select_from(table).where(missing, *named)
            if count := connection.execute(orphans).scalar_one():
                names = ", ".join(key.column_keys)
                yield Finding(
                    "foreign keys",
                    f"{count} rows of {table.name} name by {names} what {key.referred_table.name} "
                    "does not hold",
                )


@dataclass(frozen=True)
class Kept:
    """The versions that a state keeps, by number, and those that it names."""

    named: Mapping[str, int]
    sha256s: Mapping[int, str]


def kept_versions(connection: Connection) -> Kept:
    """What is to be looked at of the versions."""
    row = connection.execute(select(federation)).one()
    query = select(versions.c.number, versions.c.sha256).where(versions.c.destroyed_at.is_(None))
    named = {"current": row.current_version, "released": row.released_version}
    sha256s = {found.number: found.sha256 for found in connection.execute(query)}
    return Kept(named, sha256s)


def of_versions(kept: Kept, store: ModelStore, present: Collection[str]) -> Iterator[Finding]:
    """Versions that are not what their rows say, and model files that no row keeps."""
    for name, number in kept.named.items():
        if number and number not in kept.sha256s:
            yield Finding("versions", f"the {name} version {number} is not kept")
    numbers = {sha256: number for number, sha256 in kept.sha256s.items()}
    for sha256, number in numbers.items():
        try:
            store.verify(sha256)
        except (ModelStoreError, OSError) as error:
            yield Finding("versions", f"version {number}: {error}")
    for sha256 in sorted(set(present) - set(numbers)):
        yield Finding("versions", f"no version keeps the model file {sha256}")


def of_updates(kept: Collection[str], store: ModelStore | None) -> Iterator[Finding]:
    """Kept updates that are not what their rows say; `store` is None if there is no folder."""
    if store is None:
        if kept:
            yield Finding("updates", f"all {len(kept)} kept updates are missing")
        return
    for sha256 in sorted(kept):
        try:
            store.verify(sha256)
        except (ModelStoreError, OSError) as error:
            yield Finding("updates", f"a kept update: {error}")


def of_negations(connection: Connection) -> Iterator[Finding]:
    """Negations that were done twice: each would bring back what the one before took out."""
    for row in connection.execute(select(versions.c.number, versions.c.negated_tensors)):
        twice = [name for name, count in Counter(row.negated_tensors).items() if count > 1]
        if twice:
            yield Finding("negations", f"version {row.number} has negated {twice} twice")
    starts = (
        select(attempts.c.start_version).group_by(attempts.c.start_version).having(func.count() > 1)
    )
    for number in connection.execute(starts).scalars():
        yield Finding("negations", f"several attempts start from version {number}")


def of_audit(connection: Connection) -> Iterator[Finding]:
    """A chain of the audit that is not whole."""
    rows = connection.execute(select(audit).order_by(audit.c.sequence))
    try:
        audit_chain.check(Entry(**row._mapping) for row in rows)
    except BrokenChainError as error:
        yield Finding("audit", str(error))


def of_receipts(connection: Connection) -> Iterator[Finding]:
    """Receipts whose signature no kept public key verifies, or that are about another job."""
    pem = "".join(key.pem for key in receipt_rows.list_keys(connection))
    for row in receipt_rows.list_receipts(connection):
        try:
            receipt = verified(row.jws, pem)
        except ReceiptError as error:
            yield Finding("receipts", f"the receipt of {row.job_id}: {error}")
            continue
        if (receipt.job_id, receipt.key_id) != (row.job_id, row.key_id):
            yield Finding("receipts", f"the receipt of {row.job_id} is that of {receipt.job_id}")


def of_ledger(connection: Connection, before: Contents, after: Contents) -> Iterator[Finding]:
    """A ledger that is not the state's, and requests of it that the state does not bar.

    `before` was read before the connection's moment, and `after` afterwards: what is accepted just
    now is in the ledger first.
    """
    row = connection.execute(select(federation)).one()
    seen = Head(row.ledger_sequence, row.ledger_hash)
    if after.header.state_id != row.state_id:
        yield Finding("ledger", "the ledger is another federation's")
        return
    if not seen.hash or not after.holds(seen):
        yield Finding(
            "ledger", f"the ledger does not hold entry {seen.entries} as the state saw it"
        )
        return
    settled = [entry for entry in before.entries if entry.sequence <= seen.entries]
    yield from _unbarred(connection, standings(settled).values())


def _unbarred(connection: Connection, noted: Iterable[Standing]) -> Iterator[Finding]:
    found = {key: request.barred for key, request in held(connection).items()}
    for each in noted:
        request_id, what = each.asked["request_id"], told(scopes_in(each.asked))
        barred = found.get(Key(each.asked["caller"], request_id))
        if each.lifted == "" and barred is None:
            yield Finding("ledger", f"the state lacks the deletion {request_id} of {what}")
        elif each.lifted == "" and not barred:
            yield Finding("ledger", f"{what} is not barred by the deletion {request_id}")
