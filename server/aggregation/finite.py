"""Finds NaN and Inf."""

from __future__ import annotations

import math

import torch


def first_not_finite(values: torch.Tensor) -> int | None:
    """The first place of NaN or Inf in 1-D values, or None."""
    if not values.is_floating_point():
        return None
    # The sum of finite 16 bit floats is often beyond their own range.
    total = values.sum(dtype=torch.float32 if values.itemsize < 4 else values.dtype)
    if math.isfinite(total):
        return None
    found = values.isfinite().logical_not_().nonzero()
    return int(found[0]) if len(found) else None
