"""What the server waits for."""

from __future__ import annotations

from enum import StrEnum


class WaitKind(StrEnum):
    """What kind of thing the server waits for."""

    CLIENTS = "clients"
    RETRY = "retry"
    FAULT = "fault"
    ROOM = "room"
    DESTRUCTION = "destruction"
    CONFIRMATION = "confirmation"
    VERIFICATION = "verification"
