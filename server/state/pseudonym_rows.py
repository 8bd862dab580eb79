"""The keys that tie names to pseudonyms: whoever destroys a key unlinks a name for ever."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Collection
from typing import Final

from sqlalchemy import Connection, delete, insert, select

from fednot.errors import FednotError, Reason
from server.state.schema import pseudonyms

PREFIX: Final = "p-"
KEY_BYTES: Final = 32
SHOWN_DIGITS: Final = 32


def pseudonym_of(connection: Connection, name: str) -> str:
    """The pseudonym of a name such as `officer/dora`, with a new key if it has none; "" of ""."""
    if not name:
        return ""
    known = _find(connection, name)
    if known:
        return known
    key = secrets.token_bytes(KEY_BYTES)
    digest = hmac.new(key, name.encode(), hashlib.sha256).hexdigest()
    pseudonym = f"{PREFIX}{digest[:SHOWN_DIGITS]}"
    connection.execute(insert(pseudonyms).values(name=name, pseudonym=pseudonym, key=key))
    return pseudonym


def known_pseudonym(connection: Connection, name: str) -> str:
    """The pseudonym that a name has. Raises FednotError (UNKNOWN_NAME)."""
    found = _find(connection, name)
    if not found:
        raise FednotError(Reason.UNKNOWN_NAME, f"no pseudonym stands for {name!r}")
    return found


def has_pseudonym(connection: Connection, name: str) -> bool:
    """Whether a pseudonym stands for a name."""
    return bool(_find(connection, name))


def names_of(connection: Connection, found: Collection[str]) -> dict[str, str]:
    """The names behind pseudonyms; one whose key was destroyed is left out."""
    query = select(pseudonyms.c.pseudonym, pseudonyms.c.name)
    rows = connection.execute(query.where(pseudonyms.c.pseudonym.in_(found)))
    return {row.pseudonym: row.name for row in rows}


def destroy(connection: Connection, name: str) -> None:
    """Deletes the key of a name, and the name with it."""
    connection.execute(delete(pseudonyms).where(pseudonyms.c.name == name))


def _find(connection: Connection, name: str) -> str:
    query = select(pseudonyms.c.pseudonym).where(pseudonyms.c.name == name)
    return connection.execute(query).scalar() or ""
