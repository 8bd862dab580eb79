"""NoT: unlearning by weight negation (Khalil et al., CVPR 2025, arXiv 2503.05657)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final

import torch

from fednot.manifest import Manifest
from server.blocks import Block, Memory, Trail
from server.methods.method import Needs, StartContext, WithoutSteps

PIECE: Final = 1 << 20
"""Elements that are written at a time."""


def negated(flat: torch.Tensor, manifest: Manifest, tensors: Sequence[str]) -> torch.Tensor:
    """A copy of the flat model with the named tensors times -1 and all else bit for bit the same.

    The weight tensors only: biases, normalisation parameters and buffers stay (paper, section 11).
    Raises KeyError for a tensor that the manifest does not list, ValueError if none is named.
    """
    return negated_block(Block.of(flat), manifest, tensors, Memory()).tensor


def negated_block(base: Block, manifest: Manifest, tensors: Sequence[str], memory: Memory) -> Block:
    """As `negated`, into a block of `memory`, in one pass of pieces over the model.

    Raises OSError, too, if the disk has no room for the block.
    """
    if not tensors:
        raise ValueError("negation needs at least one tensor")
    if base.nbytes != manifest.nbytes:
        raise ValueError(f"the flat model has {base.nbytes} bytes, not {manifest.nbytes}")
    chosen = {manifest[name] for name in tensors}
    result = memory.block(manifest.nbytes)
    trail, end = Trail(base, result), 0
    for spec in sorted(chosen, key=lambda spec: (spec.byte_offset, spec.numel)):
        start = spec.byte_offset
        _write(result, base, slice(end, start), torch.uint8, trail)
        end = start + spec.nbytes
        _write(result, base, slice(start, end), spec.torch_dtype, trail, negate=True)
    _write(result, base, slice(end, manifest.nbytes), torch.uint8, trail)
    trail.end()
    return result


def _write(
    result: Block,
    base: Block,
    part: slice,
    dtype: torch.dtype,
    trail: Trail,
    *,
    negate: bool = False,
) -> None:
    before, after = base.tensor[part].view(dtype), result.tensor[part].view(dtype)
    for start in range(0, after.numel(), PIECE):
        old, new = before[start : start + PIECE], after[start : start + PIECE]
        place = part.start + start * dtype.itemsize
        result.prefault(place, place + new.nbytes)
        if negate:
            torch.neg(old, out=new)
        else:
            new.copy_(old)
        trail.passed(2 * new.nbytes)


class Negation(WithoutSteps):
    """Negate the chosen layers once, then recover by federated averaging on the retained data."""

    name: ClassVar[str] = "not"
    needs: ClassVar[Needs] = Needs(layers=True)
    new_lineage: ClassVar[bool] = False
    negates: ClassVar[bool] = True

    def start(self, context: StartContext) -> torch.Tensor:
        """The base with the chosen tensors negated."""
        return negated(context.base, context.manifest, context.tensors)

    def undone(self, context: StartContext, flat: torch.Tensor) -> torch.Tensor | None:
        """The model with the tensors negated again."""
        return negated(flat, context.manifest, context.tensors)

    def budget(self, *, default: int, rounds_trained: int) -> int:
        """The server's default."""
        return default
