"""The codec none: the payload is the flat update itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from fednot.codecs.codec import Codec
from fednot.manifest import Manifest, TensorSpec
from fednot.tensors import views


@dataclass(frozen=True)
class Plain(Codec):
    """Every tensor is raw; nothing is copied, in either direction."""

    name: str = "none"

    def codes(self, spec: TensorSpec) -> bool:
        """No tensor is coded."""
        return False

    def encode(self, update: torch.Tensor, manifest: Manifest) -> torch.Tensor:
        """The update itself, not a copy. Raises ValueError if it has another size."""
        views(update, manifest)
        return update

    def section_size(self, numel: int) -> int:
        """There are no coded sections."""
        raise NotImplementedError

    def write(self, values: torch.Tensor, section: torch.Tensor, spec: TensorSpec) -> None:
        """There are no coded sections."""
        raise NotImplementedError

    def read(
        self, section: torch.Tensor, spec: TensorSpec, scratch: torch.Tensor
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """There are no coded sections."""
        raise NotImplementedError
