"""FedAvg as a running sum: memory does not grow with the number of updates.

McMahan et al. 2017, algorithm 1: the new model is the old one plus the mean of the updates, each
weighted by its number of examples. All is done in pieces of about 1 MiB, which stay in the cache
between the steps that need them. Sums of 16 and 32 bit floats are float32 or float64, as asked for:
with float64 the order in which updates arrive does not change the result beyond float64's own
rounding, which the cast to the model's dtype hides in practice (docs/decisions/0003).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import torch

from fednot.codecs.codec import Codec, Piece
from fednot.codecs.none import Plain
from fednot.errors import FednotError, Reason
from fednot.manifest import ALIGNMENT, Manifest
from fednot.runs import PIECE_ELEMENTS, Run, runs, tensor_at
from server.aggregation.clipping import UNLIMITED, Norm, scale_to
from server.aggregation.finite import first_not_finite
from server.blocks import Block, Memory, Trail

PLAIN: Final = Plain()
PRECISIONS: Final = (torch.float32, torch.float64)
_IN_PRECISION: Final = (torch.float16, torch.bfloat16, torch.float32)


class RunningAverage:
    """The weighted mean of updates, added one at a time, then applied to a model, once.

    `precision` is the dtype of the sums of 16 and 32 bit floats; the others are summed in float64.
    Signed integers are averaged and rounded to the nearest; bool and uint8 stay the model's. The
    sums are a block of `memory`, if given. Raises OSError if the disk has no room for it.
    """

    def __init__(
        self,
        manifest: Manifest,
        *,
        memory: Memory | None = None,
        precision: torch.dtype = torch.float32,
    ) -> None:
        self._manifest = manifest
        self._memory = memory or Memory()
        self._layout = _Layout.of(manifest, precision)
        self._sums: Block | None = self._memory.block(self._layout.nbytes)
        self._scratch = torch.empty(PIECE_ELEMENTS, dtype=torch.float64)
        self.num_examples = 0

    def add(
        self,
        update: torch.Tensor | Block,
        num_examples: int,
        codec: Codec = PLAIN,
        *,
        clip_norm: float = UNLIMITED,
    ) -> float:
        """Adds one update, a payload of the codec, uint8, and gives its L2 norm as it was sent.

        One whose norm is above `clip_norm` is scaled down to it. Raises FednotError if it has no
        weight, holds NaN or Inf, or as `Codec.pieces` does; a refused update leaves the sums bit
        for bit as they were. Raises ValueError after `applied_to`.
        """
        if num_examples < 1:
            raise FednotError(
                Reason.WRONG_NUM_EXAMPLES, f"an update of {num_examples} examples has no weight"
            )
        payload, sums = _block_of(update), self._kept_sums()
        trail, norm = Trail(payload, sums), Norm()
        for piece in codec.pieces(payload.tensor, self._manifest):
            self._check(piece, norm)
            trail.passed(piece.values.nbytes)
        trail.end()
        flat_sums, scale = sums.tensor, scale_to(clip_norm, norm.value)
        for piece in codec.pieces(payload.tensor, self._manifest):
            start, stop, dtype = self._layout.place_of(piece)
            sums.prefault(start, stop)
            total = flat_sums[start:stop].view(dtype)
            factor = scale if piece.values.is_floating_point() else 1.0
            total.add_(self._widened(piece.values, total.dtype), alpha=num_examples * factor)
            trail.passed(piece.values.nbytes + total.nbytes)
        trail.end()
        self.num_examples += num_examples
        return norm.value

    def applied_to(self, model: torch.Tensor | Block) -> Block:
        """A new flat model: the given one plus the mean update. The sums are used up by it.

        It stands in the sums' own block if their items are as large as the model's, else in a new
        one. Raises FednotError (NOT_FINITE) if the new model would hold NaN or Inf, OSError if the
        disk has no room for a new block, and ValueError if no update was added or the mean was
        applied before.
        """
        if not self.num_examples:
            raise ValueError("no update was added, so there is no mean")
        old, sums = _block_of(model), self._kept_sums()
        result = sums if self._layout.as_model else self._memory.block(self._manifest.nbytes)
        self._sums = None
        trail = Trail(old, sums, result)
        for stretch in self._layout.stretches:
            run, total = stretch.run, stretch.view(sums.tensor)
            before, after = run.view(old.tensor), run.view(result.tensor)
            for start in range(0, run.numel, PIECE_ELEMENTS):
                piece = slice(start, start + PIECE_ELEMENTS)
                place = run.byte_offset + start * run.torch_dtype.itemsize
                result.prefault(place, place + after[piece].nbytes)
                self._apply(total[piece], before[piece], after[piece])
                self._check_result(after[piece], run, start)
                trail.passed(2 * after[piece].nbytes + total[piece].nbytes)
        trail.end()
        return result

    def _kept_sums(self) -> Block:
        if self._sums is None:
            raise ValueError("the mean was applied already, which used the sums up")
        return self._sums

    def _apply(self, total: torch.Tensor, before: torch.Tensor, after: torch.Tensor) -> None:
        if not total.numel():
            after.copy_(before)
            return
        mean = total.div_(self.num_examples)
        if not after.dtype.is_floating_point:
            # Not by way of float64, which does not hold every int64.
            torch.add(before, mean.round_().to(after.dtype), out=after)
        elif mean.dtype is after.dtype:
            torch.add(before, mean, out=after)
        else:
            after.copy_(mean.add_(self._widened(before, mean.dtype)))

    def _widened(self, values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        # Adding another dtype in place would take three times as long as to convert it first.
        if values.dtype is dtype:
            return values
        return self._scratch.view(dtype)[: values.numel()].copy_(values)

    def _check(self, piece: Piece, norm: Norm) -> None:
        place = None if norm.take(piece.values) else first_not_finite(piece.values)
        if place is not None:
            name = self._layout.name_at(piece.byte_offset, place)
            raise FednotError(Reason.NOT_FINITE, f"the update of {name} holds NaN or Inf")

    def _check_result(self, values: torch.Tensor, run: Run, start: int) -> None:
        place = first_not_finite(values)
        if place is not None:
            name = self._layout.name_at(run.byte_offset, start + place)
            raise FednotError(Reason.NOT_FINITE, f"the mean of the updates makes {name} NaN or Inf")


@dataclass(frozen=True)
class _Stretch:
    """A run and its sums: `numel` of `dtype` from `byte_offset` on, 0 if it is not averaged."""

    run: Run
    dtype: torch.dtype
    byte_offset: int
    numel: int

    def view(self, sums: torch.Tensor) -> torch.Tensor:
        stop = self.byte_offset + self.numel * self.dtype.itemsize
        return sums[self.byte_offset : stop].view(self.dtype)


@dataclass(frozen=True)
class _Layout:
    """Where the sums of a model stand. `as_model`: where the model's own tensors stand in it."""

    manifest: Manifest
    stretches: tuple[_Stretch, ...]
    nbytes: int
    as_model: bool

    @classmethod
    def of(cls, manifest: Manifest, precision: torch.dtype) -> _Layout:
        if precision not in PRECISIONS:
            raise ValueError(f"sums are {' or '.join(map(str, PRECISIONS))}, not {precision}")
        found = [
            (run, precision if run.torch_dtype in _IN_PRECISION else torch.float64)
            for run in runs(manifest)
        ]
        as_model = all(
            run.torch_dtype.itemsize == dtype.itemsize for run, dtype in found if run.averaged
        )
        stretches = tuple(_stretches(found, as_model=as_model))
        last = stretches[-1] if stretches else None
        size = last.byte_offset + last.numel * last.dtype.itemsize if last else 0
        return cls(manifest, stretches, manifest.nbytes if as_model else size, as_model)

    def place_of(self, piece: Piece) -> tuple[int, int, torch.dtype]:
        """Where the sums of a piece start and stop, in bytes, and their dtype."""
        found = self._stretch_at(piece.byte_offset)
        index = (piece.byte_offset - found.run.byte_offset) // found.run.torch_dtype.itemsize
        start = found.byte_offset + index * found.dtype.itemsize
        return start, start + piece.values.numel() * found.dtype.itemsize, found.dtype

    def name_at(self, byte_offset: int, place: int) -> str:
        """The tensor of the element that is `place` elements on from a byte of the flat model."""
        itemsize = self._stretch_at(byte_offset).run.torch_dtype.itemsize
        return tensor_at(self.manifest, byte_offset + place * itemsize)

    def _stretch_at(self, byte_offset: int) -> _Stretch:
        place = bisect_right(self.stretches, byte_offset, key=lambda each: each.run.byte_offset)
        return self.stretches[place - 1]


def _stretches(found: list[tuple[Run, torch.dtype]], *, as_model: bool) -> Iterator[_Stretch]:
    start = 0
    for run, dtype in found:
        numel = run.numel if run.averaged else 0
        stretch = _Stretch(run, dtype, run.byte_offset if as_model else start, numel)
        yield stretch
        start = -(-(start + numel * dtype.itemsize) // ALIGNMENT) * ALIGNMENT


def _block_of(flat: torch.Tensor | Block) -> Block:
    return flat if isinstance(flat, Block) else Block.of(flat)
