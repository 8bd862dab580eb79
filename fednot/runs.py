"""Runs: the flat model as few 1-D tensors, one for each stretch of tensors of one dtype.

A model has hundreds of tensors but mostly one dtype, so whole-model arithmetic goes run by run, in
pieces of PIECE_ELEMENTS, and pays the price of a call once a piece instead of once a tensor.

A run starts where its first tensor does and ends where the next run starts, or at the end of the
flat model: the padding after each of its tensors belongs to it, after the last one too. That always
is a whole number of elements, since tensors start at multiples of 8 and every item size divides 8.
So runs lie end to end and cover the flat model from its first byte to its last. Tensors without
elements are in no run and end none.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import torch

from fednot.manifest import ALIGNMENT, DTYPES, Manifest, TensorSpec
from fednot.tensors import UNAVERAGED

PIECE_ELEMENTS: Final = 1 << 18
"""Elements that are worked on at a time: 1 MiB of float32."""


@dataclass(frozen=True)
class Run:
    """Consecutive tensors of one dtype, padding included: `nbytes` from `byte_offset` on."""

    dtype: str
    torch_dtype: torch.dtype
    byte_offset: int
    nbytes: int

    @property
    def numel(self) -> int:
        """How many elements it has, those that lie in padding included."""
        return self.nbytes // self.torch_dtype.itemsize

    @property
    def averaged(self) -> bool:
        """Whether updates of it are averaged; bool and uint8 have no differences."""
        return self.torch_dtype not in UNAVERAGED

    def view(self, flat: torch.Tensor) -> torch.Tensor:
        """The run in a flat model, in place: a 1-D tensor [numel] of the run's dtype."""
        return flat[self.byte_offset : self.byte_offset + self.nbytes].view(self.torch_dtype)


def runs(manifest: Manifest) -> tuple[Run, ...]:
    """The runs of a model in ascending order; their sizes sum to the size of the flat model."""
    return tuple(joined(manifest))


def joined(specs: Iterable[TensorSpec]) -> Iterator[Run]:
    """Joins each stretch of tensors that stand end to end with one dtype; the specs ascend."""
    dtype, start, end = "", 0, 0
    for spec in specs:
        if not spec.numel:
            continue
        if spec.dtype != dtype or spec.byte_offset != end:
            if end > start:
                yield Run(dtype, DTYPES[dtype], start, end - start)
            dtype, start = spec.dtype, spec.byte_offset
        end = -(-(spec.byte_offset + spec.nbytes) // ALIGNMENT) * ALIGNMENT
    if end > start:
        yield Run(dtype, DTYPES[dtype], start, end - start)


def tensor_at(manifest: Manifest, byte_offset: int) -> str:
    """The name of the tensor at a byte of the flat model; padding counts as the tensor before it.

    Raises ValueError if the flat model has no such byte.
    """
    if not 0 <= byte_offset < manifest.nbytes:
        raise ValueError(f"byte {byte_offset} is not in a flat model of {manifest.nbytes} bytes")
    place = bisect_right(manifest.tensors, byte_offset, key=lambda spec: spec.byte_offset)
    return manifest.tensors[place - 1].name
