"""Applies to a model what a rule makes of the same elements of all updates, piece by piece."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from fednot.errors import FednotError, Reason
from fednot.manifest import Manifest
from fednot.runs import PIECE_ELEMENTS, runs, tensor_at
from server.aggregation.clipping import Norm
from server.aggregation.finite import first_not_finite
from server.aggregation.kept_updates import KeptUpdates, Stack
from server.blocks import Block, Memory, Trail

Combine = Callable[[torch.Tensor], torch.Tensor]
"""From a finite [updates, k] stack to the step [k] that the model takes."""


@dataclass(frozen=True)
class Combined:
    """The new model, and the cosine of each update to the step that was made of all."""

    model: Block
    cosines: tuple[float, ...]


class _Agreement:
    """Products of the updates with the step, over floating elements."""

    def __init__(self, norms: Sequence[float]) -> None:
        self._norms = norms
        self._products = torch.zeros(len(norms), dtype=torch.float64)
        self._of_step = Norm()

    def add(self, stack: Stack, step: torch.Tensor) -> None:
        if stack.run.torch_dtype.is_floating_point:
            # Float32 within a piece is exact enough to tell against from along.
            self._products += torch.mv(stack.rows, step)
            self._of_step.take(step)

    def cosines(self) -> tuple[float, ...]:
        """0 where there is no direction, or none that floats can hold."""
        found = []
        for product, norm in zip(self._products.tolist(), self._norms, strict=True):
            scale = norm * self._of_step.value
            cosine = product / scale if scale else 0.0
            found.append(cosine if math.isfinite(cosine) else 0.0)
        return tuple(found)


def combined(
    kept: KeptUpdates, combine: Combine, model: Block, manifest: Manifest, memory: Memory
) -> Combined:
    """A new flat model: the given one plus the step. Integers are rounded to the nearest.

    Raises FednotError (NOT_FINITE) if it would hold NaN or Inf, and OSError if the disk has no room
    for a new block.
    """
    result = memory.block(manifest.nbytes)
    _copy_unaveraged(model, result, manifest)
    agreement = _Agreement([update.kept_norm for update in kept.updates])
    trail = Trail(model, result)
    for stack in kept.stacks():
        step = combine(stack.rows)
        agreement.add(stack, step)
        place = slice(stack.start, stack.start + len(step))
        before = stack.run.view(model.tensor)[place]
        after = stack.run.view(result.tensor)[place]
        start = stack.run.byte_offset + stack.start * after.itemsize
        result.prefault(start, start + after.nbytes)
        _apply(step, before, after)
        wrong = first_not_finite(after)
        if wrong is not None:
            name = tensor_at(manifest, start + wrong * after.itemsize)
            raise FednotError(Reason.NOT_FINITE, f"the updates make {name} NaN or Inf")
        trail.passed(2 * after.nbytes)
    trail.end()
    return Combined(result, agreement.cosines())


def _apply(step: torch.Tensor, before: torch.Tensor, after: torch.Tensor) -> None:
    if after.dtype.is_floating_point:
        after.copy_(step.add(before))
    else:
        # Not by way of float64, which does not hold every int64.
        torch.add(before, step.round().to(after.dtype), out=after)


def _copy_unaveraged(model: Block, result: Block, manifest: Manifest) -> None:
    for run in runs(manifest):
        if run.averaged:
            continue
        before, after = run.view(model.tensor), run.view(result.tensor)
        for start in range(0, run.numel, PIECE_ELEMENTS):
            after[start : start + PIECE_ELEMENTS] = before[start : start + PIECE_ELEMENTS]
