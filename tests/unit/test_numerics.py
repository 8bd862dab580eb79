"""The figures of tests do not depend on the processor."""

from __future__ import annotations

import pytest
import torch
from support.numerics import can_be_pinned


@pytest.mark.skipif(not can_be_pinned(), reason="the processor has no AVX2")
def test_kernels_are_those_of_any_processor_with_avx2() -> None:
    assert torch.backends.cpu.get_cpu_capability() == "AVX2"
