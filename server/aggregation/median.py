"""The coordinate-wise median of updates (Yin et al., ICML 2018, arXiv 1803.01498)."""

from __future__ import annotations

import torch

from server.aggregation.ordering import ascending


def median(rows: torch.Tensor) -> torch.Tensor:
    """The median of each column of a finite [n, k] stack, the mean of the middle two if n is even.

    Every client counts once, as in the paper: its number of examples is its own claim.
    """
    found, middle = ascending(rows), len(rows) // 2
    if len(rows) % 2:
        return found[middle]
    return torch.lerp(found[middle - 1], found[middle], 0.5)
