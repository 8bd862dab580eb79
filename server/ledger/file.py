"""The ledger's file: one process appends to it, and each append is on the disk when it returns."""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, update

from fednot.audit_chain import BrokenChainError, Head
from server.disk_faults import telling
from server.ledger.chain import Contents, Entry, Event, Header, Note, follow, parse
from server.state import durable
from server.state.database import StateError
from server.state.schema import federation

log = logging.getLogger("server.ledger")

CANCELLED: Final = "cancelled"
READMITTED: Final = "readmitted"


class Key(NamedTuple):
    """What names a request for ever."""

    caller: str
    request_id: str


@dataclass(frozen=True)
class Standing:
    """Where a request stands by the ledger; `lifted` says by what its bar was, "" if it stands."""

    asked: Mapping[str, Any]
    sequence: int
    completed: bool = False
    lifted: str = ""


class Ledger:
    """An open ledger, which no other process may open meanwhile.

    One thread uses it, in the transaction that its entries belong to: they are on the disk before
    that is committed.
    """

    def __init__(self, path: Path, descriptor: int, contents: Contents) -> None:
        self.path = path
        self.contents = contents
        self.standings = standings(contents.entries)
        self._descriptor = descriptor
        self._head = contents.head
        self._size = contents.size
        self._on_failed: Callable[[str], object] = lambda operation: None

    def when_failed(self, call: Callable[[str], object]) -> None:
        """Has a function called with "write", in the thread that appends, if that fails."""
        self._on_failed = call

    @classmethod
    def begin(cls, path: Path, state_id: str) -> Ledger:
        """Makes the ledger of a federation, and opens it."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        try:
            durable.append(descriptor, Header(state_id, time.time()).line, "ledger-header")
            durable.sync(descriptor, "ledger-header")
            durable.rename(temporary, path, "ledger")
        finally:
            os.close(descriptor)
            temporary.unlink(missing_ok=True)
        durable.sync_directory(path.parent, "ledger-directory")
        return cls.open(path)

    @classmethod
    def open(cls, path: Path) -> Ledger:
        """Opens a ledger, checked; a last line that a crash tore is cut off.

        Raises StateError if it cannot be used.
        """
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        except OSError as error:
            raise StateError(f"the ledger {path} cannot be opened: {error}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            contents = read(path)
            if contents.torn:
                log.warning("%s: its torn last line, %d bytes, is cut off", path, contents.torn)
                durable.truncate(descriptor, contents.size, "torn-ledger")
                durable.sync(descriptor, "torn-ledger")
        except BlockingIOError:
            os.close(descriptor)
            raise StateError(f"another process uses the ledger {path}; stop it first") from None
        except BaseException:
            os.close(descriptor)
            raise
        return cls(path, descriptor, contents)

    @property
    def head(self) -> Head:
        """Where the chain ends."""
        return self._head

    def append(self, connection: Connection, notes: Sequence[Note], now: float) -> None:
        """Writes notes to the disk, and their head into this transaction.

        If that is not committed the entries stay, and the next start makes good what they ask for.
        Raises OSError if they could not be written; then none of them was.
        """
        if notes:
            with telling(self._on_failed, "write"):
                self._append(notes, now)
        head = {"ledger_sequence": self._head.entries, "ledger_hash": self._head.hash}
        connection.execute(update(federation).values(**head))

    def _append(self, notes: Sequence[Note], now: float) -> None:
        head, entries = self._head, []
        for note in notes:
            entry = follow(head, note, now)
            head = Head(entry.sequence, entry.hash)
            entries.append(entry)
        content = b"".join(entry.line for entry in entries)
        if os.fstat(self._descriptor).st_size > self._size:  # what an append that failed has left
            durable.truncate(self._descriptor, self._size, "ledger")
        durable.append(self._descriptor, content, "ledger")
        durable.sync(self._descriptor, "ledger")
        self._head, self._size = head, self._size + len(content)
        take(self.standings, entries)

    def close(self) -> None:
        """Lets other processes open it."""
        os.close(self._descriptor)


def read(path: Path) -> Contents:
    """What a ledger holds, checked; it may be in use. Raises StateError if it cannot be used."""
    try:
        return parse(path.read_bytes())
    except OSError as error:
        raise StateError(f"the ledger {path} cannot be read: {error}") from error
    except BrokenChainError as error:
        raise StateError(f"the ledger {path} is not what was written: {error}") from error


def standings(entries: Iterable[Entry]) -> dict[Key, Standing]:
    """Where each request stands, in the order in which they were asked first."""
    found: dict[Key, Standing] = {}
    take(found, entries)
    return found


def take(found: dict[Key, Standing], entries: Iterable[Entry]) -> None:
    """Takes more entries into account. A request that is asked again stands anew."""
    for entry in entries:
        key = Key(entry.payload["caller"], entry.payload["request_id"])
        if entry.event is Event.ASKED:
            found[key] = Standing(entry.payload, entry.sequence)
        elif key in found and entry.event is Event.COMPLETED:
            found[key] = replace(found[key], completed=True)
        elif key in found:
            found[key] = replace(found[key], lifted=entry.payload["by"])
