"""The updates of a round, kept whole on disk for rules that must see them together.

The mean needs a sum alone; an order statistic or a distance needs every update. Each is decoded
into a spill file of the model's size, so the disk holds cohort x model bytes until the round's end,
and the memory a piece of each. What does not fit the disk is an OSError, when the update comes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import torch

from fednot.codecs.codec import Codec, Piece
from fednot.errors import FednotError, Reason
from fednot.manifest import Manifest
from fednot.runs import PIECE_ELEMENTS, Run, runs, tensor_at
from server.aggregation.clipping import Norm, scale_to
from server.aggregation.finite import first_not_finite
from server.blocks import Block, Memory, SpillFile, Trail

SMALLEST_PIECE: Final = 1 << 12
_IN_FLOAT32: Final = (torch.float16, torch.bfloat16, torch.float32)


@dataclass(frozen=True)
class KeptUpdate:
    """One client's update, decoded and clipped.

    `norm` is its L2 norm as it was sent, `kept_norm` what clipping left of it.
    """

    client: str
    file: SpillFile
    norm: float
    kept_norm: float


@dataclass(frozen=True)
class Stack:
    """The same elements of all updates: `rows` [updates, elements], float32 or float64.

    They are elements `start` and on of the run. `rows` is overwritten by the next stack.
    """

    run: Run
    start: int
    rows: torch.Tensor


class KeptUpdates:
    """Updates in the order of their coming, clipped to the L2 norm `clip_norm`."""

    def __init__(self, manifest: Manifest, memory: Memory, clip_norm: float) -> None:
        self._manifest = manifest
        self._memory = memory
        self._clip_norm = clip_norm
        self._kept: list[KeptUpdate] = []

    @property
    def updates(self) -> tuple[KeptUpdate, ...]:
        """What is kept."""
        return tuple(self._kept)

    def add(self, client: str, payload: Block, codec: Codec) -> None:
        """Keeps a copy of an update. Raises FednotError as `RunningAverage.add` does, and OSError
        if the disk has no room; then nothing of the update is kept.
        """
        norm, trail = Norm(), Trail(payload)
        for piece in codec.pieces(payload.tensor, self._manifest):
            place = None if norm.take(piece.values) else first_not_finite(piece.values)
            self._check(place, piece)
            trail.passed(piece.values.nbytes)
        trail.end()
        scale = scale_to(self._clip_norm, norm.value)
        file = self._memory.spill_file(self._manifest.nbytes)
        try:
            for piece in codec.pieces(payload.tensor, self._manifest):
                self._write(piece, scale, file)
                trail.passed(piece.values.nbytes)
        except BaseException:
            file.close()
            raise
        trail.end()
        self._kept.append(KeptUpdate(client, file, norm.value, scale * norm.value))

    def stacks(self, *, floating_only: bool = False) -> Iterator[Stack]:
        """All averaged elements in ascending order, a piece of every update at a time."""
        if not self._kept:
            return
        size = max(SMALLEST_PIECE, PIECE_ELEMENTS // len(self._kept))
        scratch = torch.empty(len(self._kept), size, dtype=torch.float64)
        raw = torch.empty(size, dtype=torch.float64)
        for run in runs(self._manifest):
            if not run.averaged or (floating_only and not run.torch_dtype.is_floating_point):
                continue
            dtype = torch.float32 if run.torch_dtype in _IN_FLOAT32 else torch.float64
            for start in range(0, run.numel, size):
                width = min(size, run.numel - start)
                flat = scratch.view(-1).view(dtype)
                rows = flat[: len(self._kept) * width].view(len(self._kept), width)
                place = run.byte_offset + start * run.torch_dtype.itemsize
                into = raw.view(run.torch_dtype)[:width]
                for row, kept in zip(rows, self._kept, strict=True):
                    kept.file.read(place, into)
                    row.copy_(into)
                yield Stack(run, start, rows)

    def close(self) -> None:
        """Drops all updates and the space that they take."""
        while self._kept:
            self._kept.pop().file.close()

    def _write(self, piece: Piece, scale: float, file: SpillFile) -> None:
        dtype = self._manifest[tensor_at(self._manifest, piece.byte_offset)].torch_dtype
        clipped = scale < 1 and dtype.is_floating_point
        written = (torch.mul(piece.values, scale) if clipped else piece.values).to(dtype)
        file.write(piece.byte_offset, written.contiguous())
        if dtype is not piece.values.dtype:
            # A narrower dtype than the codec's may not hold the value.
            self._check(first_not_finite(written), piece)

    def _check(self, place: int | None, piece: Piece) -> None:
        if place is None:
            return
        dtype = self._manifest[tensor_at(self._manifest, piece.byte_offset)].torch_dtype
        name = tensor_at(self._manifest, piece.byte_offset + place * dtype.itemsize)
        raise FednotError(Reason.NOT_FINITE, f"the update of {name} holds NaN or Inf")
