"""Norm clipping: an update that is larger than allowed is scaled down as a whole.

The norm is the L2 norm over all floating elements that are averaged, floating buffers included:
left out, they would be a way past the limit. Integers (the counters of BatchNorm) are not scaled.
Clipping bounds how far one update moves the model and not in which direction (Sun et al. 2019,
"Can You Really Backdoor Federated Learning?", arXiv 1911.07963).
"""

from __future__ import annotations

import math
from typing import Final

import torch

UNLIMITED: Final = math.inf


class Norm:
    """The L2 norm of an update, taken in piece by piece."""

    def __init__(self) -> None:
        self._squares = 0.0

    @property
    def value(self) -> float:
        """The norm of what was taken in; Inf if it is beyond float64's range."""
        return math.sqrt(self._squares)

    def take(self, values: torch.Tensor) -> bool:
        """Takes in a 1-D piece; integers count for nothing. True if it surely is all finite."""
        if not values.is_floating_point():
            return True
        dtype = torch.float32 if values.itemsize < 4 else values.dtype
        norm = float(torch.linalg.vector_norm(values, dtype=dtype))
        if not math.isfinite(norm * norm):
            norm = float(torch.linalg.vector_norm(values, dtype=torch.float64))
        # Python's floats overflow to Inf in a product, and raise in a power.
        self._squares += norm * norm
        return math.isfinite(norm)


def scale_to(limit: float, norm: float) -> float:
    """What an update of this norm is multiplied by: min(1, limit / norm)."""
    return 1.0 if norm <= limit else limit / norm
