"""What state a client is in, told once for the operator and for Prometheus."""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum

from server.records import ClientRecord


class ClientState(StrEnum):
    """The states of a client that has joined at least once."""

    IDLE = "idle"
    WORKING = "working"
    GONE = "gone"
    BARRED = "barred"


def state_of(
    client: ClientRecord, connected: Collection[str], working: Collection[str]
) -> ClientState:
    """The state of a client: barred whatever else it is, else by its session and its work."""
    if client.barred_by:
        return ClientState.BARRED
    if client.name not in connected:
        return ClientState.GONE
    return ClientState.WORKING if client.name in working else ClientState.IDLE
