"""The tombstones that stand, mirrored in memory for every call that a client makes."""

from __future__ import annotations

from collections.abc import Iterable

from fednot.errors import FednotError, Reason
from server.records import Bar


class Fences:
    """Who is barred, and why."""

    def __init__(self) -> None:
        self._bars: dict[str, Bar] = {}

    def load(self, bars: Iterable[Bar]) -> None:
        """Takes over the tombstones of the state."""
        self._bars = {bar.client: bar for bar in bars}

    def bar_of(self, client: str) -> Bar | None:
        """The tombstone of a client, if it is barred."""
        return self._bars.get(client)

    def check(self, client: str) -> None:
        """Raises FednotError (CLIENT_BARRED) if the client is barred."""
        bar = self._bars.get(client)
        if bar is not None:
            raise FednotError(
                Reason.CLIENT_BARRED, bar.message, metadata={"request_id": bar.request_id}
            )

    def __len__(self) -> int:
        return len(self._bars)
