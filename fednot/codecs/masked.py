"""The codec masked: noise by itself, so it can be added up and not be read.

fednot/secure_aggregation has its layout. It is named here for the protocol alone: only a
participant of a masked round can write such a payload.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import torch

from fednot.codecs.codec import Codec, Piece, aligned, invalid
from fednot.manifest import Manifest, TensorSpec
from fednot.tensors import UNAVERAGED

ELEMENT_BYTES: Final = 4


@dataclass(frozen=True)
class Masked(Codec):
    """Updates of a masked round. It is not among NAMES: nobody chooses it, a round demands it."""

    name: str = "masked"

    def size(self, manifest: Manifest) -> int:
        """Four bytes for each element of each averaged tensor and for one or two zeros."""
        return aligned(ELEMENT_BYTES * (1 + sum(spec.numel for spec in averaged(manifest))))

    def encode_tensors(
        self, tensors: Mapping[str, torch.Tensor], manifest: Manifest
    ) -> torch.Tensor:
        """Raises ValueError: without the masks of an attempt there is no masked update."""
        raise ValueError("only a participant of a masked round can write a masked update")

    def pieces(self, payload: torch.Tensor, manifest: Manifest) -> Iterator[Piece]:
        """Raises FednotError (INVALID_STREAM): nobody can read a single masked update."""
        raise invalid("a masked update cannot be read, only the sum of several")


def averaged(manifest: Manifest) -> Iterator[TensorSpec]:
    """The tensors of which updates are averaged, in the order of the payload."""
    return (spec for spec in manifest if spec.torch_dtype not in UNAVERAGED)
