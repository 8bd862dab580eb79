"""What this process has done, for the server to add up over all clients: Prometheus cannot reach a
client behind NAT.
"""

from __future__ import annotations

import secrets
from collections import deque
from typing import Final

from fednot.v1 import federation_pb2

NEWEST: Final = 32
"""So many trainings are told of at a time; a heartbeat later there are never as many new ones."""


class Activity:
    """Counts from the start of the process on, and remembers what a server has answered to."""

    def __init__(self) -> None:
        self._process = secrets.token_bytes(16)
        self._counted = federation_pb2.ClientCounts()
        self._acknowledged = federation_pb2.ClientCounts()
        self._seconds: deque[float] = deque(maxlen=NEWEST)

    def reconnected(self) -> None:
        """An outage ended, or a session had to be opened again."""
        self._counted.reconnects += 1

    def contributed(self, examples: int) -> None:
        """The server took an update of so many examples."""
        self._counted.examples += examples

    def trained(self, seconds: float) -> None:
        """Local training took so long."""
        self._counted.trainings += 1
        self._seconds.append(seconds)

    def message(self) -> federation_pb2.ClientActivity:
        """What the server is told."""
        return federation_pb2.ClientActivity(
            process=self._process,
            counted=self._counted,
            acknowledged=self._acknowledged,
            train_seconds=self._seconds,
        )

    def answered(self, message: federation_pb2.ClientActivity) -> None:
        """A server has answered a heartbeat with this message."""
        self._acknowledged.CopyFrom(message.counted)
