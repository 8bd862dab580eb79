"""How often something was odd about a client's updates: counted here, written by the monitor."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from fednot.errors import FednotError, Reason
from server.records import Anomaly

Counts = Mapping[tuple[str, Anomaly], int]

_OF_REASONS: Final = {
    Reason.NOT_FINITE: Anomaly.NOT_FINITE,
    Reason.WRONG_SIZE: Anomaly.WRONG_SIZE,
    Reason.WRONG_CHECKSUM: Anomaly.WRONG_CHECKSUM,
    Reason.MANIFEST_MISMATCH: Anomaly.WRONG_MANIFEST,
    Reason.WRONG_NUM_EXAMPLES: Anomaly.WRONG_NUM_EXAMPLES,
    Reason.INVALID_STREAM: Anomaly.INVALID_STREAM,
    Reason.STALE_GENERATION: Anomaly.STALE,
    Reason.WRONG_BASE_VERSION: Anomaly.STALE,
}


def kind_of(error: BaseException | None) -> Anomaly | None:
    """What a refusal says about the update; None if it says nothing, as when a round is over."""
    return _OF_REASONS.get(error.reason) if isinstance(error, FednotError) else None


class Anomalies:
    """Counts by client and kind, from those in the database on. Thread-safe."""

    def __init__(self, stored: Mapping[str, Mapping[str, int]] | None = None) -> None:
        self._all = {name: Counter(dict(counts)) for name, counts in (stored or {}).items()}
        self._unwritten: Counter[tuple[str, Anomaly]] = Counter()
        self._lock = threading.Lock()

    def note(self, client: str, kind: Anomaly) -> None:
        """Counts one."""
        with self._lock:
            self._all.setdefault(client, Counter())[kind] += 1
            self._unwritten[client, kind] += 1

    def of(self, client: str) -> dict[str, int]:
        """The counts of a client by kind, in alphabetical order."""
        with self._lock:
            found = self._all.get(client, Counter())
            return {str(kind): found[kind] for kind in sorted(found)}

    @property
    def unwritten(self) -> bool:
        """Whether there is anything to write."""
        return bool(self._unwritten)

    @contextmanager
    def taken(self) -> Iterator[Counts]:
        """Gives what is to be added to the database; it comes back if that raises."""
        with self._lock:
            counts, self._unwritten = self._unwritten, Counter()
        try:
            yield counts
        except BaseException:
            with self._lock:
                self._unwritten.update(counts)
            raise
