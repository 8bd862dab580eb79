"""The same figures on every x86 processor that has AVX2, whatever else it has.

PyTorch, oneDNN and MKL choose their kernels by processor, which add in another order each. A few
rounds of training make that a difference of whole percents, beyond what any test could allow for.
With these, three steps of the digits' Cnn had the same bits on an Intel with AVX-512 as on the
Haswell that qemu-user emulates.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

PINNED: Final = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "AVX2"}


def can_be_pinned() -> bool:
    """Whether the processor has what is pinned."""
    try:
        return " avx2 " in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False


def pin() -> None:
    """For this process and those that it starts; what is set already stays."""
    if can_be_pinned():
        for name, value in PINNED.items():
            os.environ.setdefault(name, value)
