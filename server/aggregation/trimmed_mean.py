"""The coordinate-wise trimmed mean of updates (Yin et al., ICML 2018, arXiv 1803.01498)."""

from __future__ import annotations

import torch

from server.aggregation.ordering import ascending


def fewest(byzantine: int) -> int:
    """How many updates it takes to withstand so many hostile ones: one is left in the middle."""
    return 2 * byzantine + 1


def trimmed_mean(rows: torch.Tensor, byzantine: int) -> torch.Tensor:
    """The mean of each column of a finite [n, k] stack without its lowest and highest values.

    So many as there may be hostile clients go on either side. Every other value counts once.
    """
    left = ascending(rows)[byzantine : len(rows) - byzantine]
    total = left[0].clone()
    for row in left[1:]:
        total.add_(row)
    return total.div_(len(left))
