"""How much privacy noisy steps have spent, by Opacus' accountant of Renyi differential privacy."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from fednot.privacy.costs import Steps

ORDERS: Final = (
    *(1 + x / 10 for x in range(1, 100)),
    *range(11, 64),
    *(80, 96, 128, 192, 256, 512),
)
"""The Renyi orders among which the best bound is looked for."""


def epsilon(taken: Iterable[Steps], delta: float) -> float:
    """The epsilon of all these steps together at a delta; 0 without any.

    It bounds what anyone learns who sees every intermediate model, whatever else they know, about
    whether one sample was in the training data (neighbours differ by one sample that is there or
    not). Composed over steps of differing noise and rate (Mironov, CSF 2017; the sampled Gaussian
    mechanism: Mironov, Talwar and Zhang, 2019). Raises ImportError without Opacus.
    """
    from opacus.accountants.analysis import rdp

    total = None
    for each in taken:
        cost = rdp.compute_rdp(
            q=each.rate,
            noise_multiplier=each.noise.multiplier,
            steps=each.count,
            orders=list(ORDERS),
        )
        total = cost if total is None else total + cost
    if total is None:
        return 0.0
    found, _ = rdp.get_privacy_spent(orders=list(ORDERS), rdp=total, delta=delta)
    return max(0.0, float(found))
