"""What runs on a real CUDA device, and is skipped on a machine without one."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture
def cuda() -> torch.device:
    """The first CUDA device; skips where torch sees none."""
    if not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device on this machine")
    torch.cuda.empty_cache()
    return torch.device("cuda:0")
