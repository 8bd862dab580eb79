"""What a client has barred by an order of the server."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Forgotten:
    """What an order barred: how many samples, their digest, and what is left of both data."""

    count: int
    sha256: str
    num_train: int
    num_test: int
    refusal: str = ""
