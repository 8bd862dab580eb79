"""The tombstones that stand, mirrored in memory for every call that a client makes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fednot.errors import FednotError, Reason
from server.records import Bar


class Fences:
    """Who is barred, and why, and who has yet to bar something itself."""

    def __init__(self) -> None:
        self._bars: dict[str, Bar] = {}
        self._owing: dict[str, str] = {}

    def load(self, bars: Iterable[Bar], owing: Mapping[str, str]) -> None:
        """Takes over the tombstones of the state, and who owes a confirmation to which request."""
        self._bars = {bar.client: bar for bar in bars}
        self._owing = dict(owing)

    def bar_of(self, client: str) -> Bar | None:
        """The tombstone of a client, if it is barred."""
        return self._bars.get(client)

    def check(self, client: str) -> None:
        """Raises FednotError (CLIENT_BARRED) if the client is barred or has something to bar."""
        bar = self._bars.get(client)
        if bar is not None:
            raise FednotError(
                Reason.CLIENT_BARRED, bar.message, metadata={"request_id": bar.request_id}
            )
        if client in self._owing:
            raise FednotError(
                Reason.CLIENT_BARRED,
                f"client {client} has not barred yet what deletion {self._owing[client]} forgets",
                metadata={"request_id": self._owing[client]},
            )

    def owes(self, client: str) -> bool:
        """Whether the client has yet to bar something that it was told to."""
        return client in self._owing

    def may_train(self, client: str) -> bool:
        """Whether nothing keeps the client out of rounds."""
        return client not in self._bars and client not in self._owing

    def __len__(self) -> int:
        return len(self._bars)
