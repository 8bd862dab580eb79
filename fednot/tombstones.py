"""Which samples a client may not read any more: tombstones in its state directory, on its own disk.

No id is written, only HMAC-SHA256 of it under a random salt that stays there. Any process of the
same user may add tombstones while the client runs; it sees them at its next look.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from fednot.identity.locking import holding
from fednot.whole_file import write_whole

TOMBSTONES_FILE: Final = "tombstones.json"
LOCK_FILE: Final = "tombstones.lock"
FORMAT: Final = 1
SALT_BYTES: Final = 32
REQUESTS: Final = uuid.UUID("3f0c2b0e-5b0c-5c0e-9a53-6a7ed70b57e5")
"""The namespace of the request ids that follow from a batch's digest."""

_Signature = tuple[int, int, int] | None


class TombstoneError(OSError):
    """Tombstones that cannot be read or written, and what to do about it."""


@dataclass(frozen=True)
class Tombstone:
    """What one deletion bars: samples by the salted digests of their ids, or a class.

    `digests` are hexadecimal and sorted; `label` is the class, None for samples. `own` is one that
    this client asks for itself, `asked` tells that the server has answered. `jobs` are the jobs
    that named it; once one of them has ended it is `closed`, and nothing may read its samples.
    """

    name: str
    digests: tuple[str, ...] = ()
    label: int | None = None
    own: bool = False
    asked: bool = False
    closed: bool = False
    jobs: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """How many samples it names; 0 for a class."""
        return len(self.digests)

    @property
    def sha256(self) -> str:
        """sha256, in hexadecimal, over the sorted digests; empty for a class."""
        return "" if self.label is not None else _sha256(self.digests)

    @property
    def request_id(self) -> str:
        """The request id that an own ask always has, so that asking again changes nothing."""
        return str(uuid.uuid5(REQUESTS, self.name))


@dataclass(frozen=True)
class Book:
    """All tombstones at one moment. `ended_jobs` have ended: nothing is looked at for them."""

    salt: bytes = b""
    tombstones: tuple[Tombstone, ...] = ()
    ended_jobs: frozenset[str] = frozenset()

    @cached_property
    def digests(self) -> frozenset[str]:
        """The digests of all samples that are barred by their ids."""
        return frozenset(digest for stone in self.tombstones for digest in stone.digests)

    @cached_property
    def labels(self) -> frozenset[int]:
        """The classes that are barred."""
        return frozenset(stone.label for stone in self.tombstones if stone.label is not None)

    @cached_property
    def barred(self) -> frozenset[str | int]:
        """All that is barred: digests of ids, and classes."""
        return self.digests | self.labels

    @property
    def unasked(self) -> tuple[Tombstone, ...]:
        """Own tombstones that the server has not answered."""
        return tuple(stone for stone in self.tombstones if stone.own and not stone.asked)

    def digest(self, sample_id: str) -> str:
        """The salted digest of an id, in hexadecimal."""
        return hmac.digest(self.salt, sample_id.encode(), "sha256").hex()

    def named(self, names: Collection[str]) -> tuple[Tombstone, ...]:
        """The tombstones of these names that stand."""
        return tuple(stone for stone in self.tombstones if stone.name in names)


class Tombstones:
    """The tombstones in a client's state directory; safe to use from several processes."""

    def __init__(self, state_dir: Path) -> None:
        self.path: Final = state_dir / TOMBSTONES_FILE
        self._lock = state_dir / LOCK_FILE
        self._seen: tuple[_Signature, Book] = None, Book()

    def now(self) -> Book:
        """The tombstones as they stand; cheap if nothing was written since the last look.

        Raises TombstoneError if they cannot be read: then nothing may be trained on.
        """
        signature = self._signature()
        seen = self._seen
        if signature != seen[0]:
            seen = self._seen = signature, self._read()  # at once, since threads share it
        return seen[1]

    def bar_samples(
        self, ids: Iterable[str], *, name: str = "", job_id: str = "", own: bool = False
    ) -> Tombstone:
        """Bars samples, durably before it returns. One that stands under the name stays as it is.

        The name of an own one is its sha256. Raises TombstoneError.
        """
        distinct = {_checked(sample_id) for sample_id in ids}
        made: list[Tombstone] = []

        def barred(book: Book) -> Book:
            digests = tuple(sorted(book.digest(sample_id) for sample_id in distinct))
            stone = Tombstone(name or _sha256(digests), digests, own=own, jobs=_jobs(job_id))
            made.append(stone)
            return _added(book, stone)

        book = self._change(barred)
        return book.named([made[0].name])[0]

    def bar_class(self, label: int, *, name: str, job_id: str = "") -> Tombstone:
        """Bars all samples of a class, as `bar_samples`."""
        stone = Tombstone(name, label=label, jobs=_jobs(job_id))
        return self._change(lambda book: _added(book, stone)).named([name])[0]

    def lift(self, name: str) -> None:
        """Takes a tombstone away, if there is one. Raises TombstoneError."""

        def lifted(book: Book) -> Book:
            kept = tuple(stone for stone in book.tombstones if stone.name != name)
            return replace(book, tombstones=kept)

        self._change(lifted)

    def answered(self, name: str, job_id: str) -> None:
        """The server has taken an own ask, for this job. Raises TombstoneError."""
        self._each(
            lambda stone: stone.name == name,
            lambda stone: replace(stone, asked=True, jobs=_with(stone.jobs, job_id)),
        )

    def belong(self, names: Collection[str], job_id: str) -> None:
        """A job has named these tombstones; they close when it ends. Raises TombstoneError."""
        self._each(
            lambda stone: stone.name in names,
            lambda stone: replace(stone, jobs=_with(stone.jobs, job_id)),
        )

    def close(self, job_id: str) -> None:
        """A job has ended: what it named may not be read even to verify. Raises TombstoneError."""

        def closed(book: Book) -> Book:
            stones = tuple(
                replace(stone, closed=stone.closed or job_id in stone.jobs)
                for stone in book.tombstones
            )
            ended = book.ended_jobs | {job_id}
            return replace(book, tombstones=stones, ended_jobs=ended)

        self._change(closed)

    def _each(
        self, chosen: Callable[[Tombstone], bool], change: Callable[[Tombstone], Tombstone]
    ) -> None:
        def changed(book: Book) -> Book:
            stones = tuple(change(stone) if chosen(stone) else stone for stone in book.tombstones)
            return replace(book, tombstones=stones)

        self._change(changed)

    def _change(self, change: Callable[[Book], Book]) -> Book:
        """Changes what is on disk, under the lock; writes nothing if nothing changes."""
        with self._locked():
            before = self._read()
            salted = replace(before, salt=before.salt or secrets.token_bytes(SALT_BYTES))
            after = change(salted)
            if after != salted:
                self._write(after)
            return after

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            if not self._lock.parent.is_dir():
                self._lock.parent.mkdir(parents=True, mode=0o700)
            with holding(self._lock):
                yield
        except TombstoneError:
            raise
        except OSError as error:  # a TimeoutError too
            raise TombstoneError(f"{self.path} cannot be changed: {error}") from error

    def _signature(self) -> _Signature:
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise TombstoneError(f"{self.path} cannot be read: {error}") from error
        return found.st_ino, found.st_mtime_ns, found.st_size

    def _read(self) -> Book:
        try:
            return _parsed(self.path.read_bytes())
        except FileNotFoundError:
            return Book()
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise TombstoneError(
                f"{self.path} cannot be read ({error}); restore it from a backup: without it this "
                "client would train on what it was told to forget"
            ) from error

    def _write(self, book: Book) -> None:
        write_whole(self.path, json.dumps(_document(book)))


@dataclass(frozen=True)
class Ask:
    """What the server will be asked: the request's id, how many samples, and their digest."""

    request_id: str
    count: int
    sha256: str


def forget_samples(state_dir: str | Path, ids: Iterable[str]) -> Ask:
    """Bars samples of the client with this state directory, and has it ask for their deletion.

    Durable when it returns: the client does not read them again. The running client, or its next
    start, asks the server. The same ids again change nothing. Raises TombstoneError, ValueError if
    there is no id, TypeError if one is no text.
    """
    stone = Tombstones(Path(state_dir)).bar_samples(_some(ids), own=True)
    return Ask(stone.request_id, stone.count, stone.sha256)


def _some(ids: Iterable[str]) -> list[str]:
    if isinstance(ids, str):
        raise TypeError("give a list of ids, not one text")
    listed = list(ids)
    if not listed:
        raise ValueError("there is no id to forget")
    return listed


def _checked(sample_id: str) -> str:
    if not isinstance(sample_id, str):
        raise TypeError(f"a sample's id is a text, not {type(sample_id).__name__}")
    return sample_id


def _sha256(digests: Iterable[str]) -> str:
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def _jobs(job_id: str) -> tuple[str, ...]:
    return (job_id,) if job_id else ()


def _with(jobs: tuple[str, ...], job_id: str) -> tuple[str, ...]:
    return jobs if not job_id or job_id in jobs else (*jobs, job_id)


def _added(book: Book, stone: Tombstone) -> Book:
    for known in book.tombstones:
        if known.name == stone.name:
            own = replace(known, own=known.own or stone.own)
            merged = tuple(own if each is known else each for each in book.tombstones)
            return replace(book, tombstones=merged)
    return replace(book, tombstones=(*book.tombstones, stone))


def _document(book: Book) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "salt": book.salt.hex(),
        "tombstones": [asdict(stone) for stone in book.tombstones],
        "ended_jobs": sorted(book.ended_jobs),
    }


def _parsed(text: bytes) -> Book:
    row = json.loads(text)
    if row["format"] != FORMAT:
        raise ValueError(f"format {row['format']} is of another version of fednot")
    stones = tuple(
        Tombstone(**(each | {"digests": tuple(each["digests"]), "jobs": tuple(each["jobs"])}))
        for each in row["tombstones"]
    )
    salt = bytes.fromhex(row["salt"])
    if len(salt) != SALT_BYTES:
        raise ValueError("its salt is cut")
    return Book(salt, stones, frozenset(row["ended_jobs"]))
