"""Memory for whole models: zeros in huge pages, where the system has them.

A model's buffer is written once and soon given back. In pages of 4 KiB its first writes take three
times as long, since the system makes each page when it is first touched.
"""

from __future__ import annotations

import contextlib
import mmap
from typing import Final

import torch

HUGE_PAGE: Final = 1 << 21


def anonymous(nbytes: int) -> mmap.mmap:
    """A private mapping of at least so many zero bytes."""
    huge = nbytes >= HUGE_PAGE
    size = -(-nbytes // HUGE_PAGE) * HUGE_PAGE if huge else max(nbytes, 1)
    mapping = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if huge and hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):
            mapping.madvise(mmap.MADV_HUGEPAGE)
    return mapping


def tensor_of(mapping: mmap.mmap, nbytes: int) -> torch.Tensor:
    """The first bytes of a mapping, uint8 of shape [nbytes]; the mapping lives as long as it."""
    return torch.frombuffer(mapping, dtype=torch.uint8)[:nbytes]
