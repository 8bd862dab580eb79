"""Receipts, which never change, and the public halves of the keys that signed them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from server.records import IssuedReceipt, ReceiptKey
from server.state.schema import receipt_keys, receipts


def insert_receipt(connection: Connection, receipt: IssuedReceipt) -> None:
    """Adds the receipt of a job, which has none."""
    connection.execute(
        insert(receipts).values(
            job_id=receipt.job_id,
            jws=receipt.jws,
            key_id=receipt.key_id,
            issued_at=receipt.issued_at,
        )
    )


def get_receipt(connection: Connection, job_id: str) -> IssuedReceipt | None:
    """The receipt of a job."""
    row = connection.execute(select(receipts).where(receipts.c.job_id == job_id)).first()
    return IssuedReceipt(**row._mapping) if row else None


def has_receipt(connection: Connection, job_id: str) -> bool:
    """Whether a job has a receipt."""
    query = select(receipts.c.job_id).where(receipts.c.job_id == job_id)
    return connection.execute(query).first() is not None


def list_receipts(connection: Connection) -> Sequence[IssuedReceipt]:
    """Every receipt, oldest first."""
    found = connection.execute(select(receipts).order_by(receipts.c.issued_at))
    return [IssuedReceipt(**row._mapping) for row in found]


def list_keys(connection: Connection) -> Sequence[ReceiptKey]:
    """Every key that receipts were ever signed with, newest first."""
    query = select(receipt_keys).order_by(receipt_keys.c.sequence.desc())
    return [_key(row) for row in connection.execute(query)]


def get_key(connection: Connection, key_id: str) -> ReceiptKey | None:
    """The key of an id."""
    row = connection.execute(select(receipt_keys).where(receipt_keys.c.id == key_id)).first()
    return _key(row) if row else None


def active_key(connection: Connection) -> ReceiptKey | None:
    """The key that signs now."""
    query = select(receipt_keys).where(receipt_keys.c.retired_at.is_(None))
    row = connection.execute(query.order_by(receipt_keys.c.sequence.desc()).limit(1)).first()
    return _key(row) if row else None


def replace_key(connection: Connection, key_id: str, pem: str, now: float) -> ReceiptKey:
    """Has a new key sign from now on, and retires the one before."""
    active = receipt_keys.c.retired_at.is_(None)
    connection.execute(update(receipt_keys).where(active).values(retired_at=now))
    connection.execute(insert(receipt_keys).values(id=key_id, pem=pem, created_at=now))
    return ReceiptKey(key_id, pem, now)


def _key(row: Row[Any]) -> ReceiptKey:
    return ReceiptKey(row.id, row.pem, row.created_at, row.retired_at)
