"""Enrolment tokens: what is kept of each is the sha256 of its secret, and whether it was used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Row, delete, insert, select, update

from fednot.errors import FednotError, Reason
from server.state.schema import enrolment_tokens

KEPT_SECONDS: Final = 30 * 24 * 3600.0
"""Tokens that ended are kept so long, to tell those who come late what is the matter."""

REPEAT_SECONDS: Final = 15 * 60.0
"""So long after its first use a token can be used again for the same key."""


def create(
    connection: Connection, secret_sha256: str, client: str, *, now: float, expires_at: float
) -> None:
    """Keeps a new token in place of the client's unused ones; drops those that ended long ago."""
    ended = enrolment_tokens.c.expires_at < now - KEPT_SECONDS
    unused = (enrolment_tokens.c.client == client) & enrolment_tokens.c.used_at.is_(None)
    connection.execute(delete(enrolment_tokens).where(ended | unused))
    connection.execute(
        insert(enrolment_tokens).values(
            secret_sha256=secret_sha256, client=client, created_at=now, expires_at=expires_at
        )
    )


@dataclass(frozen=True)
class KeptToken:
    """What is known of a token; `created_at` is in seconds since the epoch."""

    client: str
    created_at: float
    used: bool


def find(connection: Connection, secret_sha256: str, now: float) -> KeptToken:
    """Looks at a token and does not use it. Raises FednotError (INVALID_TOKEN, TOKEN_EXPIRED)."""
    row = _standing(connection, secret_sha256, now)
    return KeptToken(row.client, row.created_at, used=row.used_at is not None)


def use(connection: Connection, secret_sha256: str, key_digest: str, now: float) -> bool:
    """Uses a token for a key, and says whether that is its first use.

    For that key it can be used again during REPEAT_SECONDS, since a reply may be lost. Raises
    FednotError (INVALID_TOKEN, TOKEN_EXPIRED, TOKEN_USED).
    """
    row = _standing(connection, secret_sha256, now)
    if row.used_at is None:
        connection.execute(
            update(enrolment_tokens)
            .where(enrolment_tokens.c.secret_sha256 == secret_sha256)
            .values(used_at=now, used_key=key_digest)
        )
        return True
    if row.used_key != key_digest:
        raise _used(row.client, "for another key")
    if now > row.used_at + REPEAT_SECONDS:
        raise _used(row.client, f"more than {REPEAT_SECONDS / 60:g} minutes ago")
    return False


def _used(client: str, how: str) -> FednotError:
    return FednotError(
        Reason.TOKEN_USED,
        f"the token of client {client} was used already, {how}",
        metadata={"client": client},
    )


def _standing(connection: Connection, secret_sha256: str, now: float) -> Row[Any]:
    query = select(enrolment_tokens).where(enrolment_tokens.c.secret_sha256 == secret_sha256)
    row = connection.execute(query).first()
    if row is None:
        raise FednotError(
            Reason.INVALID_TOKEN, "this server knows no such token; a newer one takes its place"
        )
    if now > row.expires_at:
        raise FednotError(
            Reason.TOKEN_EXPIRED,
            f"the token of client {row.client} has expired",
            metadata={"client": row.client},
        )
    return row
