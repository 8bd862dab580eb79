"""How the losses of some samples are spread: all that a client tells of them.

A profile says how many samples have a loss in each of 402 bins, and not whose is which. The bins
are logarithmic, 40 to a decade from 1e-8 to 100 (each 6 % wide), with one below and one above, so
that a rank statistic such as an AUC is as good as from the losses themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

Losses = NDArray[np.float64]

PER_DECADE: Final = 40
LOWEST: Final = -8
HIGHEST: Final = 2
EDGES: Final[Losses] = np.logspace(LOWEST, HIGHEST, (HIGHEST - LOWEST) * PER_DECADE + 1)
BINS: Final = len(EDGES) + 1
CENTRES: Final[Losses] = np.concatenate([[0.0], np.sqrt(EDGES[:-1] * EDGES[1:]), EDGES[-1:]])
"""The loss that stands for all in a bin: 0 for those below the first edge."""


@dataclass(frozen=True)
class LossProfile:
    """Counts of samples by bin, `BINS` of them, and how many were answered correctly."""

    counts: tuple[int, ...]
    num_correct: int

    def __post_init__(self) -> None:
        if len(self.counts) != BINS or min(self.counts) < 0:
            raise ValueError(f"a loss profile has {BINS} counts, none below 0")
        if not 0 <= self.num_correct <= self.size:
            raise ValueError(f"{self.num_correct} of {self.size} samples cannot be correct")

    @classmethod
    def of(cls, losses: Sequence[float] | NDArray[Any], correct: Sequence[bool]) -> Self:
        """The profile of losses [N]. NaN counts as infinite. Raises ValueError if N differs."""
        values = np.nan_to_num(np.asarray(losses, dtype=np.float64), nan=np.inf, posinf=np.inf)
        if values.ndim != 1 or len(values) != len(correct):
            raise ValueError(f"{values.shape} losses and {len(correct)} answers do not match")
        counts = np.bincount(np.searchsorted(EDGES, values, side="right"), minlength=BINS)
        return cls(tuple(int(count) for count in counts), sum(bool(one) for one in correct))

    @property
    def size(self) -> int:
        """How many samples there are."""
        return sum(self.counts)

    @property
    def accuracy(self) -> float:
        """The share that was answered correctly. Raises ValueError if there are no samples."""
        if not self.size:
            raise ValueError("no samples, no accuracy")
        return self.num_correct / self.size

    @property
    def losses(self) -> Losses:
        """The losses [N], ascending, each as the centre of its bin."""
        return np.repeat(CENTRES, self.counts)

    def __add__(self, other: LossProfile) -> LossProfile:
        """The profile of both groups together."""
        counts = tuple(a + b for a, b in zip(self.counts, other.counts, strict=True))
        return LossProfile(counts, self.num_correct + other.num_correct)
