"""How much privacy noisy steps have spent, by Opacus' accountant of Renyi differential privacy."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fednot.privacy.costs import Steps

# A best order at the end of the list gives a bound that is looser than need be, and still a bound.
warnings.filterwarnings("ignore", "Optimal order is the", UserWarning)

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

    every = [each.count * _of_one(each.noise.multiplier, each.rate) for each in taken]
    if not every:
        return 0.0
    found, _ = rdp.get_privacy_spent(orders=list(ORDERS), rdp=sum(every), delta=delta)
    return max(0.0, float(found))


@functools.lru_cache(maxsize=4096)
def _of_one(multiplier: float, rate: float) -> NDArray[np.float64]:
    """The divergence of one step at each order: 0.05 s to compute."""
    from opacus.accountants.analysis import rdp

    found = rdp.compute_rdp(q=rate, noise_multiplier=multiplier, steps=1, orders=list(ORDERS))
    return np.asarray(found, dtype=np.float64)
