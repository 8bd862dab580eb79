"""What clients say that their training under differential privacy has spent."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from fednot.errors import FednotError, Reason
from fednot.v1 import federation_pb2


@dataclass(frozen=True)
class PrivacySpent:
    """An epsilon at a delta, in so many noisy steps; `limit` is where the client stops, 0 for none.

    It is the client's own word: the server sees no noise and no sample.
    """

    epsilon: float
    delta: float
    limit: float
    steps: int

    @classmethod
    def told(cls, message: federation_pb2.PrivacySpent) -> Self:
        """What a heartbeat tells. Raises FednotError (INVALID_REQUEST) for what cannot be."""
        numbers = (message.epsilon, message.epsilon_limit)
        if not all(math.isfinite(each) and each >= 0 for each in numbers):
            raise FednotError(
                Reason.INVALID_REQUEST, "privacy: an epsilon is 0 or more, and finite"
            )
        if not 0 < message.delta < 1:
            raise FednotError(Reason.INVALID_REQUEST, "privacy.delta: must be between 0 and 1")
        return cls(message.epsilon, message.delta, message.epsilon_limit, message.steps)

    def message(self) -> federation_pb2.PrivacySpent:
        """The same as a message."""
        return federation_pb2.PrivacySpent(
            epsilon=self.epsilon, delta=self.delta, epsilon_limit=self.limit, steps=self.steps
        )


def most(spent: Iterable[PrivacySpent | None]) -> PrivacySpent | None:
    """What was spent by the client that spent most; None if none trains with noise."""
    known = [each for each in spent if each is not None]
    return max(known, key=lambda each: each.epsilon, default=None)
