"""What a masked round takes, before there is one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from fednot.secure_aggregation.order import SMALLEST_COHORT

LEAST_CLIENTS: Final = SMALLEST_COHORT


@dataclass(frozen=True)
class Masking:
    """How rounds are masked: the largest magnitude of an update's element, and the seconds that
    each step waits for its clients.
    """

    value_range: float = 16.0
    wait: float = 30.0


def threshold_of(clients: int) -> int:
    """So many of a cohort must reveal shares, and fewer learn nothing: floor(2n/3) + 1.

    It is what Bonawitz et al. (CCS 2017, theorem 6.5) ask for against a server that lies and works
    with up to ceil(n/3) - 1 of the clients. Raises ValueError for less than LEAST_CLIENTS.
    """
    if clients < LEAST_CLIENTS:
        raise ValueError(f"a masked round takes {LEAST_CLIENTS} clients, not {clients}")
    return 2 * clients // 3 + 1
