"""What one attempt at masking is about: the same for all who take part, and signed by each."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Final

from fednot.errors import FednotError, Reason
from fednot.naming import CLIENT_NAME
from fednot.secure_aggregation.scale import Scale

LABEL: Final = b"fednot secure aggregation 1: "
"""What everything that is hashed or signed here begins with, so that it is nothing else."""
SMALLEST_COHORT: Final = 3
"""With two, each learns the other's update from the sum."""
SMALLEST_ATTEMPT: Final = 16
LARGEST_ATTEMPT: Final = 64
_LARGEST_NUMBER: Final = 1 << 64


@dataclass(frozen=True)
class Order:
    """An attempt at masking, as `MaskedRound` and `TrainWork` of the protocol tell it.

    `attempt`: 16 to 64 bytes that no other attempt has. `cohort`: the names of the clients, sorted.
    Raises FednotError (MASKING_FAILED) for an order that must not be obeyed: fewer than three
    clients, or a threshold by which a server could have both secrets of a client rebuilt.
    """

    attempt: bytes
    round: int
    version: int
    threshold: int
    cohort: tuple[str, ...]
    value_range: float
    most_examples: int

    def __post_init__(self) -> None:
        if not SMALLEST_ATTEMPT <= len(self.attempt) <= LARGEST_ATTEMPT:
            raise failed(f"the attempt is named by {len(self.attempt)} bytes, not by 16 to 64")
        if any(not 0 <= number < _LARGEST_NUMBER for number in (self.round, self.version)):
            raise failed("the round or the version is no number of 64 bits")
        if not all(CLIENT_NAME.fullmatch(name) for name in self.cohort):
            raise failed("the cohort holds what is no client's name")
        if list(self.cohort) != sorted(set(self.cohort)):
            raise failed("the cohort is not sorted, or somebody stands twice in it")
        if len(self.cohort) < SMALLEST_COHORT:
            raise failed(f"{len(self.cohort)} clients hide nothing; at least three must take part")
        if not len(self.cohort) < 2 * self.threshold <= 2 * len(self.cohort):
            raise failed(
                f"the threshold of {self.threshold} is not above half of the {len(self.cohort)} "
                "clients, or is above all of them"
            )
        if not 1 <= self.most_examples < _LARGEST_NUMBER:
            raise failed(f"the largest number of examples is {self.most_examples}")
        try:
            self.scale.steps  # noqa: B018 - a scale checks itself
        except ValueError as error:
            raise failed(str(error)) from error

    @property
    def scale(self) -> Scale:
        """How updates become integers; the whole cohort fits the ring, so any part of it does."""
        return Scale(len(self.cohort), self.value_range, self.most_examples)

    @cached_property
    def digest(self) -> bytes:
        """sha256 over everything in it."""
        numbers = (self.round, self.version, self.threshold, self.most_examples)
        parts = [number.to_bytes(8, "big") for number in numbers]
        parts.append(struct.pack(">d", self.value_range))
        parts += [name.encode() for name in self.cohort]
        return digest_of(LABEL + b"order", self.attempt, *parts)


def digest_of(*parts: bytes) -> bytes:
    """sha256 over parts, each after its length, so that no two lists of parts run together."""
    found = sha256()
    for part in parts:
        found.update(len(part).to_bytes(4, "big"))
        found.update(part)
    return found.digest()


def failed(message: str) -> FednotError:
    """The refusal to go on with an attempt."""
    return FednotError(Reason.MASKING_FAILED, message)
