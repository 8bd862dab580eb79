"""The codec none: the payload is the flat update itself."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fednot.codecs.codec import Codec
from fednot.manifest import Manifest
from fednot.tensors import views


@dataclass(frozen=True)
class Plain(Codec):
    """Every tensor is raw; nothing is copied, in either direction."""

    name: str = "none"

    def encode(self, update: torch.Tensor, manifest: Manifest) -> torch.Tensor:
        """The update itself, not a copy. Raises ValueError if it has another size."""
        views(update, manifest)
        return update
