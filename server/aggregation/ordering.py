"""Sorts each column of a stack of updates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch

FEW: Final = 50
"""Up to so many rows a network of vector minima and maxima is faster than sorting columns."""


def ascending(rows: torch.Tensor) -> Sequence[torch.Tensor]:
    """The rows of a finite [n, k] stack with every column in ascending order; `rows` stays as is.

    Odd-even transposition: after n passes over neighbours each column is in order.
    """
    if len(rows) > FEW:
        return list(rows.sort(dim=0).values)
    found = list(rows.clone())
    spare = torch.empty_like(rows[0])
    for number in range(len(found)):
        for low in range(number % 2, len(found) - 1, 2):
            torch.minimum(found[low], found[low + 1], out=spare)
            torch.maximum(found[low], found[low + 1], out=found[low + 1])
            found[low], spare = spare, found[low]
    return found
