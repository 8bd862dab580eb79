"""What everybody in a masked round must agree on, and the texts that are signed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from fednot.secure_aggregation.ring import Scale

ATTEMPT_BYTES: Final = 16
FEWEST_CLIENTS: Final = 3
"""The sum of two updates tells each of the two the other's."""


@dataclass(frozen=True)
class Terms:
    """One attempt at masking: `cohort` are the clients that were sent the work.

    Raises ValueError for terms under which a single update could be read: fewer than 3 clients, or
    a threshold that is below `threshold_of` them, or above all of them.
    """

    attempt: bytes
    round: int
    version: int
    generation: int
    threshold: int
    cohort: tuple[str, ...]
    value_range: float
    most_examples: int

    def __post_init__(self) -> None:
        names = self.cohort
        if len(self.attempt) != ATTEMPT_BYTES or len(set(names)) != len(names):
            raise ValueError("the attempt has no name, or a client is in the cohort twice")
        if len(names) < FEWEST_CLIENTS:
            raise ValueError(f"{len(names)} clients are fewer than {FEWEST_CLIENTS}")
        least = threshold_of(len(names))
        if not least <= self.threshold <= len(names):
            raise ValueError(
                f"a threshold of {self.threshold} of {len(names)} clients is not {least} or more, "
                "so a server with clients of its own could read single updates"
            )
        _ = self.scale

    @property
    def scale(self) -> Scale:
        """How updates fit into the ring."""
        return Scale(len(self.cohort), self.value_range, self.most_examples)

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 over all of them."""
        numbers = (self.round, self.version, self.generation, self.threshold)
        parts = [b"fednot masked round 1", self.attempt, *(str(x).encode() for x in numbers)]
        parts += [self.value_range.hex().encode(), str(self.most_examples).encode()]
        parts += [name.encode() for name in sorted(self.cohort)]
        return hashlib.sha256(text(*parts)).digest()


def threshold_of(size: int) -> int:
    """How many of a cohort must reveal shares, while fewer learn nothing: floor(2n/3) + 1.

    It is what Bonawitz et al. (CCS 2017, theorem 6.5) ask for against a server that lies and works
    with up to ceil(n/3) - 1 of the clients.
    """
    return 2 * size // 3 + 1


def text(*parts: bytes) -> bytes:
    """Parts joined so that no other parts give the same bytes."""
    return b"".join(len(part).to_bytes(4, "little") + part for part in parts)


def keys_text(terms: Terms, client: str, cipher_key: bytes, mask_key: bytes) -> bytes:
    """What a client signs of its public keys."""
    return text(b"fednot masked keys 1", terms.digest, client.encode(), cipher_key, mask_key)


def survivors_text(terms: Terms, survivors: Iterable[str]) -> bytes:
    """What a client signs of the list of survivors."""
    return text(b"fednot survivors 1", terms.digest, *(name.encode() for name in sorted(survivors)))


def share_text(terms: Terms, sender: str, receiver: str) -> bytes:
    """The associated data of an encrypted share."""
    return text(b"fednot share 1", terms.digest, sender.encode(), receiver.encode())
