"""Updates as integers modulo 2^32, whose sum is the sum of the updates.

A float x of an update that counts w examples becomes round(clip(x) / range * w / most * L), with
L = (2^31 - 1) // clients, so that no sum of `clients` such numbers leaves the ring. Integers (such
as BatchNorm's counts of batches) go the same way with the range INTEGER_RANGE.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NoReturn

import torch

from fednot.codecs.codec import Codec, Piece, aligned, invalid
from fednot.manifest import Manifest
from fednot.runs import PIECE_ELEMENTS, Run, runs
from fednot.tensors import empty

WORD: Final = 4
ZEROS: Final = 8
"""Bytes at a payload's end; masks taken off wrongly leave zeros there by a chance of 2^-64."""
INTEGER_RANGE: Final = float(1 << 20)
HALF_RING: Final = (1 << 31) - 1


@dataclass(frozen=True)
class Masked(Codec):
    """The codec of masked updates: an uint32, little-endian, for each element of each averaged run
    of the flat model, padding between its tensors included, zeros up to a multiple of 8, and 8
    bytes of zeros, which are masked like the rest and must be zero in a sum without masks.
    """

    name: str = "masked"

    def size(self, manifest: Manifest) -> int:
        """The bytes of every payload of a model."""
        return aligned(WORD * sum(run.numel for run in _averaged(manifest))) + ZEROS

    def encode(self, update: torch.Tensor, manifest: Manifest) -> NoReturn:
        """Raises TypeError: only a participant of a masked round makes such a payload."""
        raise TypeError("an update is masked by fednot.secure_aggregation.participant")

    def pieces(self, payload: torch.Tensor, manifest: Manifest) -> Iterator[Piece]:
        """Raises FednotError (INVALID_STREAM): a masked update alone says nothing."""
        raise invalid("a masked update cannot be read, only the sum of a round's")


@dataclass(frozen=True)
class Scale:
    """How updates fit into the ring: at most `clients` of them, floats within ±`value_range`,
    weights of at most `most_examples`. Raises ValueError for what is no scale.

    Of a mean of n equally weighted updates, an element is off by at most value_range * n / 2^31:
    of 5 clients and a range of 16, 4e-8.
    """

    clients: int
    value_range: float
    most_examples: int

    def __post_init__(self) -> None:
        if not 1 <= self.clients <= HALF_RING or self.most_examples < 1:
            raise ValueError("a scale is for at least one client and one example")
        if not (math.isfinite(self.value_range) and self.value_range > 0):
            raise ValueError(f"a range of {self.value_range} is none")

    @property
    def steps(self) -> int:
        """The largest magnitude of a client's number."""
        return HALF_RING // self.clients

    def range_of(self, run: Run) -> float:
        """The largest magnitude of an element of a run's dtype."""
        return self.value_range if run.torch_dtype.is_floating_point else INTEGER_RANGE


def quantised(
    update: torch.Tensor, manifest: Manifest, num_examples: int, scale: Scale
) -> tuple[torch.Tensor, int]:
    """A flat update as a payload without masks, uint8, and how many elements were clipped.

    Raises ValueError if it counts more examples than the scale has room for, or has NaN or Inf.
    """
    if not 1 <= num_examples <= scale.most_examples:
        raise ValueError(f"{num_examples} examples are not within 1 to {scale.most_examples}")
    payload = torch.zeros(Masked().size(manifest), dtype=torch.uint8)
    words = payload.view(torch.int32)
    weight, clipped = num_examples / scale.most_examples, 0
    for run, place, values in _stretches(update, manifest):
        limit = scale.range_of(run)
        numbers = values.to(torch.float64)
        if not bool(numbers.isfinite().all()):
            raise ValueError("the update holds NaN or Inf")
        clipped += int((numbers.abs() > limit).sum())
        numbers = numbers.clamp(-limit, limit).mul_(weight * scale.steps / limit).round_()
        words[place : place + numbers.numel()].copy_(numbers)
    return payload, clipped


def mean_of(
    total: torch.Tensor, manifest: Manifest, num_examples: int, scale: Scale
) -> torch.Tensor:
    """The weighted mean of the updates that a payload is the sum of, as a flat update.

    `num_examples` is the sum of their weights. Raises ValueError for a payload of another size.
    """
    if total.numel() != Masked().size(manifest):
        raise ValueError(f"the sum has {total.numel()} bytes, not {Masked().size(manifest)}")
    mean = empty(manifest)
    words = total.view(torch.int32)
    for run, place, values in _stretches(mean, manifest):
        unit = scale.range_of(run) / scale.steps * scale.most_examples / num_examples
        numbers = words[place : place + values.numel()].to(torch.float64).mul_(unit)
        values.copy_(numbers if run.torch_dtype.is_floating_point else numbers.round_())
    return mean


def ends_in_zeros(total: torch.Tensor) -> bool:
    """Whether a sum of payloads can be one: else masks are on it, or other numbers in it."""
    return not bool(total[-ZEROS:].any())


def _averaged(manifest: Manifest) -> Iterator[Run]:
    return (run for run in runs(manifest) if run.averaged)


def _stretches(flat: torch.Tensor, manifest: Manifest) -> Iterator[tuple[Run, int, torch.Tensor]]:
    """Each piece of each averaged run in a flat model, with the place of its first word."""
    first = 0
    for run in _averaged(manifest):
        values = run.view(flat)
        for start in range(0, run.numel, PIECE_ELEMENTS):
            yield run, first + start, values[start : start + PIECE_ELEMENTS]
        first += run.numel
