"""Updates as integers of a ring, and the mean of their sum."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fednot.codecs.codec import bounds
from fednot.codecs.masked import Masked, averaged
from fednot.errors import FednotError, Reason
from fednot.manifest import Manifest
from fednot.secure_aggregation.scale import Scale
from fednot.tensors import empty, views


@dataclass(frozen=True)
class Quantised:
    """An update as integers: `payload`, uint8 [Masked.size], and how many elements were clipped."""

    payload: torch.Tensor
    clipped: int


def quantised(
    update: torch.Tensor, manifest: Manifest, num_examples: int, scale: Scale
) -> Quantised:
    """A flat update, uint8 [manifest.nbytes], weighted by its examples, as integers of the ring.

    Raises FednotError (WRONG_NUM_EXAMPLES) for a number of examples that is not 1 to
    `scale.most_examples`, and ValueError for an update of another size or with NaN or Inf.
    """
    if not 1 <= num_examples <= scale.most_examples:
        raise FednotError(
            Reason.WRONG_NUM_EXAMPLES,
            f"an update of {num_examples} examples has no weight among 1 to {scale.most_examples}",
        )
    weight = num_examples / scale.most_examples
    payload = torch.zeros(Masked().size(manifest), dtype=torch.uint8)
    elements = payload.view(torch.int32)
    found, first, clipped = views(update, manifest), 0, 0
    for spec in averaged(manifest):
        limit = scale.range_of(floating=spec.torch_dtype.is_floating_point)
        values = found[spec.name].view(-1)
        for start, stop in bounds(spec.numel):
            # Float64: float32 does not hold every number of steps.
            piece = values[start:stop].double()
            if not bool(piece.isfinite().all()):
                raise ValueError(f"the update of {spec.name} holds NaN or Inf")
            clipped += int((piece.abs() > limit).sum())
            piece.clamp_(-limit, limit).mul_(weight * scale.steps / limit).round_()
            # Rounding of the factor itself must not make a step too many.
            piece.clamp_(-scale.steps, scale.steps)
            elements[first + start : first + stop].copy_(piece)
        first += spec.numel
    return Quantised(payload, clipped)


def mean(total: torch.Tensor, manifest: Manifest, num_examples: int, scale: Scale) -> torch.Tensor:
    """The weighted mean update, flat, of an unmasked sum; `num_examples` is that of all of them.

    The result has the manifest's dtypes; signed integers are rounded to the nearest, bool and uint8
    are zero, and what is beyond a 16-bit dtype's range becomes infinite. Raises ValueError for a
    sum of another size and for no examples.
    """
    if total.numel() != Masked().size(manifest):
        raise ValueError(f"the sum has {total.numel()} bytes, not {Masked().size(manifest)}")
    if num_examples < 1:
        raise ValueError(f"there is no mean over {num_examples} examples")
    elements, flat = total.view(torch.int32), empty(manifest)
    found, first = views(flat, manifest), 0
    for spec in averaged(manifest):
        floating = spec.torch_dtype.is_floating_point
        factor = scale.range_of(floating=floating) / scale.steps
        factor *= scale.most_examples / num_examples
        values = found[spec.name].view(-1)
        for start, stop in bounds(spec.numel):
            piece = elements[first + start : first + stop].double().mul_(factor)
            values[start:stop].copy_(piece if floating else piece.round_())
        first += spec.numel
    return flat


def ends_in_zeros(total: torch.Tensor, manifest: Manifest) -> bool:
    """Whether the zeros at the end of an unmasked sum are zeros: else a mask is still on it."""
    last = sum(spec.numel for spec in averaged(manifest))
    return not bool(total.view(torch.int32)[last:].any())
