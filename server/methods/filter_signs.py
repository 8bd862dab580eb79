"""A random sign for each output filter: negation of a random half of the chosen layers' filters.

The paper negates whole layers; this is ours. Whoever knows the seed draws the same signs again, and
it follows from the sha256 of the base, which receipts tell: the draw is no secret.
"""

from __future__ import annotations

from typing import ClassVar, Final

import torch

from fednot.manifest import TensorSpec
from fednot.tensors import views
from server.methods.fresh import drawing
from server.methods.method import Needs, StartContext, WithoutSteps

_INPUT_FIRST: Final = (
    "Conv1D",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "LazyConvTranspose1d",
    "LazyConvTranspose2d",
    "LazyConvTranspose3d",
)
"""Modules whose weight has the inputs in its first dimension; Conv1D is that of GPT-2."""


def signs_of(spec: TensorSpec, seed: int) -> torch.Tensor:
    """+1 or -1 for each output filter, at least one of them -1; it broadcasts over the tensor."""
    dimension = 1 if spec.module_type in _INPUT_FIRST and len(spec.shape) > 1 else 0
    count = spec.shape[dimension] if spec.shape else 1
    generator = drawing(seed, "filter-signs", spec.name)
    signs = torch.randint(0, 2, (count,), generator=generator, dtype=torch.int8).mul_(2).sub_(1)
    one = int(torch.randint(0, max(1, count), (1,), generator=generator))
    if count and not bool((signs < 0).any()):
        signs[one] = -1
    shape = [count if place == dimension else 1 for place in range(len(spec.shape))]
    return signs.view(shape)


class FilterSigns(WithoutSteps):
    """Flip the signs of some output filters of the chosen layers once, then recover as NoT does."""

    name: ClassVar[str] = "filter-signs"
    needs: ClassVar[Needs] = Needs(layers=True)
    new_lineage: ClassVar[bool] = False
    negates: ClassVar[bool] = True

    def start(self, context: StartContext) -> torch.Tensor:
        """The base with some filters negated. Raises ValueError if no tensor is named."""
        return self._flipped(context, context.base)

    def undone(self, context: StartContext, flat: torch.Tensor) -> torch.Tensor:
        """The model with the same filters negated again."""
        return self._flipped(context, flat)

    def budget(self, *, default: int, rounds_trained: int) -> int:
        """The server's default."""
        return default

    def _flipped(self, context: StartContext, flat: torch.Tensor) -> torch.Tensor:
        if not context.tensors:
            raise ValueError("flipping signs needs at least one tensor")
        result = flat.clone()
        out = views(result, context.manifest)
        for name in dict.fromkeys(context.tensors):
            view, signs = out[name], signs_of(context.manifest[name], context.seed)
            torch.where(signs < 0, view.neg(), view, out=view)
        return result
