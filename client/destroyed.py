"""What a client kept and has overwritten, by the digest that it had."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch

from fednot.tensors import as_bytes


@dataclass(frozen=True)
class Destroyed:
    """A cache that is gone; `kind` is "residual", "update", "payload" or "model"."""

    kind: str
    sha256: str
    num_bytes: int


def destroy(kind: str, held: torch.Tensor) -> Destroyed:
    """Overwrites a tensor with zeros and tells what it held. It blocks: run it in a thread."""
    data = as_bytes(held.view(torch.uint8))
    gone = Destroyed(kind, hashlib.sha256(data).hexdigest(), len(data))
    held.zero_()
    return gone
