"""The chain of the audit: how an entry is hashed, and how a chain is checked (docs/audit.md)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

START: Final = "0" * 64
"""What the first entry has in place of the hash of an entry before it."""


class BrokenChainError(ValueError):
    """The entries are not what was written; the message says which one shows it, and how."""


@dataclass(frozen=True)
class Entry:
    """One entry; `actor` and `subject` are pseudonyms, or "" for nobody."""

    sequence: int
    at_microseconds: int
    actor: str
    role: str
    action: str
    subject: str
    outcome: str
    reason: str
    job_id: str
    version: int
    count: int
    previous_hash: str
    hash: str = ""


@dataclass(frozen=True)
class Head:
    """Where a chain ends: how many entries it has, and the hash of the last one."""

    entries: int = 0
    hash: str = START


def hash_of(entry: Entry) -> str:
    """The hash that an entry must have: sha256, in hexadecimal, over all its other fields."""
    fields = [
        entry.sequence,
        entry.at_microseconds,
        entry.actor,
        entry.role,
        entry.action,
        entry.subject,
        entry.outcome,
        entry.reason,
        entry.job_id,
        entry.version,
        entry.count,
        entry.previous_hash,
    ]
    return hashlib.sha256(json.dumps(fields, separators=(",", ":")).encode()).hexdigest()


def extended(head: Head, entry: Entry) -> Head:
    """The head after one more entry. Raises BrokenChainError if the entry does not belong there."""
    place = f"entry {entry.sequence}"
    if entry.sequence != head.entries + 1:
        raise BrokenChainError(f"{place} stands where entry {head.entries + 1} belongs")
    if entry.previous_hash != head.hash:
        raise BrokenChainError(f"{place} does not follow the entry before it: {head.hash}")
    if entry.hash != hash_of(entry):
        raise BrokenChainError(f"{place} was changed: its hash should be {hash_of(entry)}")
    return Head(entry.sequence, entry.hash)


def check(entries: Iterable[Entry], *, known: str = "") -> Head:
    """Checks a whole chain, oldest entry first, and returns its head.

    `known` is a head that was noted earlier: the chain must still hold it. Raises BrokenChainError.
    """
    head = Head()
    found = known in ("", head.hash)
    for entry in entries:
        head = extended(head, entry)
        found = found or head.hash == known
    if not found:
        raise BrokenChainError(
            f"no entry has the hash {known}: entries were removed or written anew since"
        )
    return head
