"""The codec topk: of each tensor the share of elements that changed most, as places and values.

What is left out is not lost: the client adds it to its next update (client/residual.py), so that
an element is sent once enough of it has gathered (Stich et al. 2018, arXiv 1809.07599).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import torch

from fednot.codecs.codec import LossyCodec, aligned, bounds, check_padding, chunks, invalid
from fednot.manifest import TensorSpec
from fednot.runs import PIECE_ELEMENTS

DEFAULT_FRACTION: Final = 0.01
INT32_PLACES: Final = 1 << 31
SAMPLE: Final = 1 << 16
MARGIN: Final = 1.25
"""How many more elements than are kept are looked at: six deviations of the sample's estimate."""


@dataclass(frozen=True)
class TopK(LossyCodec):
    """Keeps `fraction` of each tensor's elements, exactly; ties go to the lower places.

    Raises ValueError for a fraction that is not above 0 and at most 1.
    """

    fraction: float = DEFAULT_FRACTION
    name: str = "topk"
    feeds_back: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise ValueError(f"topk keeps a fraction above 0 and at most 1, not {self.fraction}")

    def kept(self, numel: int) -> int:
        """How many of so many elements are sent."""
        return min(max(math.ceil(self.fraction * numel), 1), numel)

    def section_size(self, numel: int) -> int:
        """Places, then values."""
        kept = self.kept(numel)
        return aligned(kept * _place_dtype(numel).itemsize) + aligned(kept * 4)

    def write(self, values: torch.Tensor, section: torch.Tensor, spec: TensorSpec) -> None:
        """Reads the values two or three times, in pieces; no copy of all magnitudes is made."""
        places, kept = self._parts(section, spec)
        found, chosen = largest(values, len(places), spec)
        places.copy_(found)
        kept.copy_(chosen)

    def read(
        self, section: torch.Tensor, spec: TensorSpec, scratch: torch.Tensor
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """Writes out the zeros, piece by piece."""
        places, kept = self._parts(section, spec)
        first_value = section.numel() - aligned(kept.nbytes)
        check_padding(section, places.nbytes, first_value, spec)
        check_padding(section, first_value + kept.nbytes, section.numel(), spec)
        _check_places(places, spec)
        starts = torch.arange(0, spec.numel, PIECE_ELEMENTS).to(places.dtype)
        cuts = [*torch.searchsorted(places, starts).tolist(), len(places)]
        for number, (start, stop) in enumerate(bounds(spec.numel)):
            inside = slice(cuts[number], cuts[number + 1])
            values = scratch[: stop - start].zero_()
            values.scatter_(0, (places[inside] - start).long(), kept[inside])
            yield start, values

    def _parts(self, section: torch.Tensor, spec: TensorSpec) -> tuple[torch.Tensor, torch.Tensor]:
        count, dtype = self.kept(spec.numel), _place_dtype(spec.numel)
        places = section[: count * dtype.itemsize].view(dtype)
        first_value = aligned(places.nbytes)
        return places, section[first_value : first_value + count * 4].view(torch.float32)


def largest(
    values: torch.Tensor, count: int, spec: TensorSpec
) -> tuple[torch.Tensor, torch.Tensor]:
    """The places (int64, ascending) and float32 values of the `count` largest magnitudes.

    A sample gives a magnitude that a little more than `count` elements are above; only those are
    sorted. Raises ValueError for NaN or Inf.
    """
    # An odd stride meets every column of a matrix whose width is a power of two.
    sample = values[:: max(values.numel() // SAMPLE, 1) | 1].abs().float()
    rank = math.ceil(len(sample) * count / values.numel() * MARGIN) + 8
    while True:
        limit = float(sample.topk(rank, sorted=False).values.min()) if rank < len(sample) else 0.0
        places, found = _beyond(values, limit, spec)
        if len(places) >= count:
            chosen = _exactly(found.abs(), count)
            return places[chosen], found[chosen]
        if limit == 0:
            return _filled(values.numel(), places, found, count)
        rank *= 4


def _beyond(
    values: torch.Tensor, limit: float, spec: TensorSpec
) -> tuple[torch.Tensor, torch.Tensor]:
    places, found = [], []
    magnitudes = torch.empty(min(values.numel(), PIECE_ELEMENTS))
    mask = torch.empty(len(magnitudes), dtype=torch.bool)
    for start, chunk, biggest in chunks(values, spec):
        if biggest <= limit:
            continue
        here = slice(chunk.numel())
        torch.gt(torch.abs(chunk, out=magnitudes[here]), limit, out=mask[here])
        near = mask[here].nonzero().view(-1)
        found.append(chunk[near])
        places.append(near.add_(start))
    if not places:
        return torch.empty(0, dtype=torch.int64), torch.empty(0)
    return torch.cat(places), torch.cat(found)


def _exactly(magnitudes: torch.Tensor, count: int) -> torch.Tensor:
    smallest = magnitudes.topk(count, sorted=False).values.min()
    chosen = magnitudes > smallest
    ties = (magnitudes == smallest).nonzero().view(-1)
    chosen[ties[: count - int(chosen.sum())]] = True
    return chosen.nonzero().view(-1)


def _filled(
    numel: int, places: torch.Tensor, found: torch.Tensor, count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    # Fewer elements than are kept are not zero: zeros make up the number.
    free = torch.ones(min(numel, count), dtype=torch.bool)
    free[places[places < len(free)]] = False
    zeros = free.nonzero().view(-1)[: count - len(places)]
    everywhere, order = torch.cat((places, zeros)).sort()
    return everywhere, torch.cat((found, torch.zeros(len(zeros))))[order]


def _check_places(places: torch.Tensor, spec: TensorSpec) -> None:
    if int(places[0]) < 0 or int(places[-1]) >= spec.numel:
        raise invalid(f"a place in {spec.name} is not in 0 to {spec.numel - 1}")
    for start, stop in bounds(len(places) - 1):
        if not bool((places[start + 1 : stop + 1] > places[start:stop]).all()):
            raise invalid(f"the places in {spec.name} do not ascend, or one stands twice")


def _place_dtype(numel: int) -> torch.dtype:
    return torch.int32 if numel <= INT32_PLACES else torch.int64
