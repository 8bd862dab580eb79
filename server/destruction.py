"""What clients are told to destroy, and what they say they did.

The servicer asks here before it gives a client any other work; who keeps the orders is behind it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from fednot.errors import FednotError, Reason

MOST_REPORTED: Final = 64
_KIND: Final = re.compile(r"[a-z][a-z0-9-]{0,31}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class DestroyOrder:
    """Everything of a generation older than `generation` goes; the job asked for it."""

    id: str
    generation: int
    job_id: str


@dataclass(frozen=True)
class DestroyedCache:
    """What a client kept and destroyed, by the sha256 and size that it had."""

    kind: str
    sha256: str
    num_bytes: int


class Destructions(Protocol):
    """The orders that clients have not answered."""

    async def pending(self, client: str) -> DestroyOrder | None:
        """The oldest order that the client has not answered."""
        ...

    async def acknowledge(
        self, client: str, order_id: str, destroyed: Sequence[DestroyedCache]
    ) -> None:
        """Notes what a client destroyed; the same report again changes nothing.

        Raises FednotError (UNKNOWN_WORK) for an order that the client was not given.
        """
        ...


class NoDestructions:
    """Where no client keeps anything: nothing is ordered."""

    async def pending(self, client: str) -> DestroyOrder | None:
        """None, for every client."""
        return None

    async def acknowledge(
        self, client: str, order_id: str, destroyed: Sequence[DestroyedCache]
    ) -> None:
        """Raises FednotError (UNKNOWN_WORK): there are no orders."""
        raise FednotError(Reason.UNKNOWN_WORK, f"{client} has no order {order_id!r} to destroy")


def check_report(destroyed: Sequence[DestroyedCache]) -> None:
    """Raises FednotError (INVALID_REQUEST) for a report that is not fit to be kept."""
    if len(destroyed) > MOST_REPORTED:
        raise FednotError(Reason.INVALID_REQUEST, f"destroyed: at most {MOST_REPORTED} entries")
    for index, cache in enumerate(destroyed):
        if not _KIND.fullmatch(cache.kind) or not _SHA256.fullmatch(cache.sha256):
            raise FednotError(
                Reason.INVALID_REQUEST,
                f"destroyed[{index}]: needs a kind, such as residual, and a sha256 in hex",
            )
