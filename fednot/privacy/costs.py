"""What a piece of training under differential privacy costs."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass
from typing import Self

from fednot.training import Plan


class PrivacyError(ValueError):
    """Training that differential privacy cannot be promised of; the message says why."""


@dataclass(frozen=True)
class Noise:
    """How each step is made private.

    Each sample's gradient is clipped to the L2 norm `clip`; the sum of a batch gets Gaussian noise
    of standard deviation `multiplier` times `clip`.
    """

    multiplier: float
    clip: float

    def __post_init__(self) -> None:
        """Raises PrivacyError for what is not finite and positive."""
        for name, value in (("noise multiplier", self.multiplier), ("clip", self.clip)):
            if not math.isfinite(value) or value <= 0:
                raise PrivacyError(f"the {name} must be a positive number, not {value}")


@dataclass(frozen=True)
class Steps:
    """So many noisy steps, in each of which every sample takes part with probability `rate`."""

    noise: Noise
    rate: float
    count: int

    @classmethod
    def of(cls, plan: Plan, noise: Noise) -> Self:
        """The steps of a plan: as many as it has batches, of its batch size on average."""
        batches = math.ceil(plan.size / plan.batch_size)
        rate = min(plan.batch_size, plan.size) / plan.size
        return cls(noise, rate, plan.epochs * batches)


def is_installed() -> bool:
    """Whether Opacus is there."""
    return importlib.util.find_spec("opacus") is not None
