"""The lines of a ledger: a header, and entries that each carry the hash of the one before.

It is a chain as the audit is one (`fednot.audit_chain`), but of JSON lines, so that it can be read
without this program; nothing here touches a disk.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from fednot.audit_chain import BrokenChainError, Head

FORMAT: Final = 1


class Event(StrEnum):
    """What the ledger keeps of a deletion."""

    ASKED = "asked"
    COMPLETED = "completed"
    LIFTED = "lifted"


@dataclass(frozen=True)
class Note:
    """What is to be written; the payload names the request by `caller` and `request_id`."""

    event: Event
    payload: Mapping[str, Any]


@dataclass(frozen=True)
class Header:
    """Whose ledger it is, and when it was begun, in seconds since the epoch."""

    state_id: str
    begun_at: float

    @property
    def line(self) -> bytes:
        """The first line of the file."""
        values = {"fednot_ledger": FORMAT, "state_id": self.state_id, "begun_at": self.begun_at}
        return json.dumps(values).encode() + b"\n"

    @property
    def head(self) -> Head:
        """Where a ledger without an entry ends: no two begun at different times end alike."""
        return Head(0, hashlib.sha256(self.line).hexdigest())


@dataclass(frozen=True)
class Entry:
    """One line after the header; `at` is in seconds since the epoch."""

    sequence: int
    at: float
    event: Event
    payload: Mapping[str, Any]
    previous_hash: str
    hash: str = ""

    @property
    def line(self) -> bytes:
        """The entry as it stands in the file."""
        values = {
            "sequence": self.sequence,
            "at": self.at,
            "event": self.event,
            "payload": self.payload,
            "previous_hash": self.previous_hash,
            "hash": self.hash,
        }
        return json.dumps(values).encode() + b"\n"


@dataclass(frozen=True)
class Contents:
    """What a ledger holds: `size` bytes of it are whole lines, `torn` follow that are not."""

    header: Header
    entries: Sequence[Entry]
    size: int
    torn: int = 0
    hashes: Sequence[str] = field(default_factory=list)

    @property
    def head(self) -> Head:
        """Where the chain ends."""
        return Head(len(self.entries), self.hashes[-1])

    def holds(self, head: Head) -> bool:
        """Whether the chain went through a head that was noted earlier."""
        return head.entries < len(self.hashes) and self.hashes[head.entries] == head.hash


def follow(head: Head, note: Note, at: float) -> Entry:
    """The entry of a note after a head."""
    bare = Entry(head.entries + 1, at, note.event, note.payload, head.hash)
    return Entry(bare.sequence, at, bare.event, bare.payload, head.hash, _hash_of(bare))


def parse(content: bytes) -> Contents:
    """Reads and checks a whole ledger. A last line without its end is torn and left out.

    Raises BrokenChainError for anything else that is not what was written.
    """
    *lines, rest = content.split(b"\n")
    if not lines:
        raise BrokenChainError("it has no header")
    header = _header(lines[0])
    head, entries, hashes = header.head, [], [header.head.hash]
    for line in lines[1:]:
        entry = _entry(line, head)
        head = Head(entry.sequence, entry.hash)
        entries.append(entry)
        hashes.append(entry.hash)
    return Contents(header, entries, len(content) - len(rest), len(rest), hashes)


def _header(line: bytes) -> Header:
    try:
        values = json.loads(line)
        found, header = values["fednot_ledger"], Header(values["state_id"], values["begun_at"])
    except (ValueError, KeyError, TypeError):
        raise BrokenChainError("its first line is not the header of a ledger") from None
    if found != FORMAT:
        raise BrokenChainError(f"it has format {found}, and this program reads {FORMAT}")
    if header.line != line + b"\n":
        raise BrokenChainError("its header was changed")
    return header


def _entry(line: bytes, head: Head) -> Entry:
    place = f"entry {head.entries + 1}"
    try:
        values = json.loads(line)
        entry = Entry(**(values | {"event": Event(values["event"])}))
    except (ValueError, KeyError, TypeError):
        raise BrokenChainError(f"{place} cannot be read") from None
    if entry.sequence != head.entries + 1:
        raise BrokenChainError(f"entry {entry.sequence} stands where {place} belongs")
    if entry.previous_hash != head.hash:
        raise BrokenChainError(f"{place} does not follow the one before it")
    if entry.hash != _hash_of(entry):
        raise BrokenChainError(f"{place} was changed")
    return entry


def _hash_of(entry: Entry) -> str:
    fields = [entry.sequence, entry.at, entry.event, entry.payload, entry.previous_hash]
    text = json.dumps(fields, separators=(",", ":"), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
