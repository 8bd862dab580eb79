"""Multi-Krum (Blanchard et al., NeurIPS 2017): averages the updates that lie close to others.

The score of an update is the sum of its squared distances to the n - f - 2 updates nearest to it,
f being how many of the n may be hostile; the n - f best are averaged. Every chosen one counts once:
a hostile client would claim as many examples as its join allows. At least f updates are left out of
every round, honest ones if none is hostile. The distances are over floating elements.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch


def fewest(byzantine: int) -> int:
    """How many updates it takes to withstand so many hostile ones."""
    return 2 * byzantine + 3


def squared_distances(stacks: Iterable[torch.Tensor], count: int) -> torch.Tensor:
    """Between each two of `count` updates, float64 [count, count], from pieces [count, k].

    Of the sums |a|^2 + |b|^2 - 2ab only float64's rounding is lost, 1e-16 of the larger norm.
    """
    products = torch.zeros(count, count, dtype=torch.float64)
    for rows in stacks:
        wide = rows.double()
        products.addmm_(wide, wide.t())
    squares = products.diagonal()
    found = (squares[:, None] + squares[None, :] - 2 * products).clamp_(min=0)
    # What is beyond float64's range is far from everything.
    return found.nan_to_num_(nan=math.inf, posinf=math.inf).fill_diagonal_(0)


def scores(distances: torch.Tensor, byzantine: int) -> list[float]:
    """The score of each update, the lower the better, from squared distances [n, n].

    Raises ValueError for fewer updates than `fewest` says.
    """
    count = len(distances)
    if count < fewest(byzantine):
        raise ValueError(f"{count} updates do not withstand {byzantine} hostile ones")
    nearest = distances.sort(dim=1).values[:, 1 : count - byzantine - 1]
    return [float(score) for score in nearest.sum(dim=1)]


def chosen(found: list[float], byzantine: int) -> list[int]:
    """The places of the n - f best scores, ascending; of equal ones the earlier are taken."""
    best = sorted(range(len(found)), key=lambda place: (found[place], place))
    return sorted(best[: len(found) - byzantine])
