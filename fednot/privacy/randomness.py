"""Random numbers that nobody can foresee: which samples take part, and the noise.

They come of the operating system. A round's seed is the server's, so noise that followed from it
could be taken off again; and a torch generator's seed has 32 effective bits on the CPU, which can
be tried out.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Final

import torch

_MANTISSA: Final = 53
_SUMMANDS: Final = 4


def uniform(count: int) -> torch.Tensor:
    """Independent numbers, float64 [count], each strictly between 0 and 1."""
    if not count:
        return torch.empty(0, dtype=torch.float64)
    words = torch.frombuffer(bytearray(os.urandom(8 * count)), dtype=torch.int64)
    return ((words & ((1 << _MANTISSA) - 1)).double() + 0.5) / float(1 << _MANTISSA)


def gaussian(shape: Sequence[int], deviation: float) -> torch.Tensor:
    """Gaussian noise of a standard deviation, float64 of a shape.

    Each number is the sum of four over two, so that the floating-point values that one of them can
    take say nothing about the sum (Holohan and Braghin, ESORICS 2021, as Opacus' secure mode).
    """
    count = math.prod(shape)
    drawn = _standard(_SUMMANDS * count).view(_SUMMANDS, count)
    return (drawn.sum(0) * (deviation / math.sqrt(_SUMMANDS))).view(tuple(shape))


def poisson_batch(size: int, rate: float) -> list[int]:
    """The indices below `size` that a step trains on: each with the same probability, by itself."""
    if rate >= 1:
        return list(range(size))
    return torch.nonzero(uniform(size) < rate).flatten().tolist()


def _standard(count: int) -> torch.Tensor:
    """Numbers of the standard normal distribution, by Box and Muller's transformation."""
    half = (count + 1) // 2
    radius = torch.sqrt(-2 * torch.log(uniform(half)))
    angle = 2 * math.pi * uniform(half)
    return torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)])[:count]
