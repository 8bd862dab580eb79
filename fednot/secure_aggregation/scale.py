"""The steps in which updates are counted, so that their sum fits 32 bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

RING: Final = 1 << 32
"""Payloads are added modulo this; the upper half stands for negative numbers."""
SMALLEST_RANGE: Final = 1e-30
LARGEST_RANGE: Final = 1e30
INTEGER_RANGE: Final = float(1 << 20)
"""The largest magnitude of an integer in an update, such as BatchNorm's count of batches."""


@dataclass(frozen=True)
class Scale:
    """How the updates of up to `clients` clients become integers whose sum cannot wrap.

    An element is clipped to `value_range` (an integer one to 2^20), multiplied by the client's
    share of `most_examples`, and rounded to a whole number of steps; nobody has more than
    `steps` = floor((2^31 - 1) / clients) of them in one element.

    Resolution: a step is value_range / steps. The weighted mean of K updates is off by at most half
    a step times K * most_examples / (the sum of their examples). So with a range of 16, 10 clients
    and equal numbers of examples it is off by at most 3.8e-8, as float32 is off at 0.3; with 1000
    clients by at most 3.8e-6. Raises ValueError for figures that leave no step.
    """

    clients: int
    value_range: float
    most_examples: int

    def __post_init__(self) -> None:
        if not 1 <= self.clients < RING // 2:
            raise ValueError(f"a sum of {self.clients} updates does not fit the ring")
        if self.most_examples < 1:
            raise ValueError(f"the largest number of examples is {self.most_examples}, below 1")
        if not SMALLEST_RANGE <= self.value_range <= LARGEST_RANGE:
            raise ValueError(
                f"the range of values is {self.value_range}, not {SMALLEST_RANGE} to "
                f"{LARGEST_RANGE}"
            )

    @property
    def steps(self) -> int:
        """The largest magnitude of one client's element, in steps."""
        return (RING // 2 - 1) // self.clients

    def range_of(self, *, floating: bool) -> float:
        """What elements are clipped to."""
        return self.value_range if floating else INTEGER_RANGE
