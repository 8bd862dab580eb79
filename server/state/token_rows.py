"""Enrolment tokens: what is kept of each is the sha256 of its secret, and whether it was used."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, Row, delete, insert, select, update

from fednot.errors import FednotError, Reason
from server.state.schema import enrolment_tokens

KEPT_SECONDS: Final = 30 * 24 * 3600.0
"""Tokens that ended are kept so long, to tell those who come late what is the matter."""


def create(
    connection: Connection, secret_sha256: str, client: str, *, now: float, expires_at: float
) -> None:
    """Keeps a new token, and drops those that ended long ago."""
    old = enrolment_tokens.c.expires_at < now - KEPT_SECONDS
    connection.execute(delete(enrolment_tokens).where(old))
    connection.execute(
        insert(enrolment_tokens).values(
            secret_sha256=secret_sha256, client=client, created_at=now, expires_at=expires_at
        )
    )


def client_of(connection: Connection, secret_sha256: str, now: float) -> str:
    """The client that a token is for. Raises FednotError (INVALID_TOKEN, TOKEN_EXPIRED)."""
    return str(_standing(connection, secret_sha256, now).client)


def use(connection: Connection, secret_sha256: str, key_digest: str, now: float) -> str:
    """Uses a token for a key, and returns its client; for that key it can be used again.

    Raises FednotError (INVALID_TOKEN, TOKEN_EXPIRED, TOKEN_USED).
    """
    row = _standing(connection, secret_sha256, now)
    if row.used_at is None:
        connection.execute(
            update(enrolment_tokens)
            .where(enrolment_tokens.c.secret_sha256 == secret_sha256)
            .values(used_at=now, used_key=key_digest)
        )
    elif row.used_key != key_digest:
        raise FednotError(
            Reason.TOKEN_USED,
            f"the token of client {row.client} was used already, for another key",
            metadata={"client": row.client},
        )
    return str(row.client)


def _standing(connection: Connection, secret_sha256: str, now: float) -> Row[tuple[object, ...]]:
    query = select(enrolment_tokens).where(enrolment_tokens.c.secret_sha256 == secret_sha256)
    row = connection.execute(query).first()
    if row is None:
        raise FednotError(Reason.INVALID_TOKEN, "this server has made no such token")
    if now > row.expires_at:
        raise FednotError(
            Reason.TOKEN_EXPIRED,
            f"the token of client {row.client} has expired",
            metadata={"client": row.client},
        )
    return row
