"""What a codec is: sections of raw and coded tensors, written whole and read in pieces."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Final

import torch

from fednot.errors import REMEDY_KEY, FednotError, Reason
from fednot.manifest import ALIGNMENT, Manifest, TensorKind, TensorSpec
from fednot.runs import PIECE_ELEMENTS, joined, tensor_at
from fednot.tensors import empty, views

SMALLEST_CODED: Final = 1024
"""Tensors of fewer elements are raw: their bytes count for nothing."""
LARGEST: Final = torch.finfo(torch.float32).max


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive elements of a decoded update, to be read only.

    `byte_offset` is the place of the first one in the flat update; `values` is 1-D, of the dtype
    that the manifest has there or float32. It may be the codec's scratch, which the next piece
    overwrites.
    """

    byte_offset: int
    values: torch.Tensor


class Codec:
    """A way to write updates as payloads; fednot/codecs/__init__.py has the layouts.

    `feeds_back`: it loses so much that the client must add what was lost to its next update. Here
    every section is raw.
    """

    name: str
    feeds_back: bool = False

    def codes(self, spec: TensorSpec) -> bool:
        """Whether a tensor's section is coded and not raw."""
        return False

    def size(self, manifest: Manifest) -> int:
        """The bytes of every payload of a model."""
        return sum(self._size(spec) for spec in manifest)

    def encode(self, update: torch.Tensor, manifest: Manifest) -> torch.Tensor:
        """A flat update as a payload, uint8 [size].

        Raises ValueError if the update has another size than the manifest, or if a tensor to be
        coded holds NaN or Inf.
        """
        return self.encode_tensors(views(update, manifest), manifest)

    def encode_tensors(
        self, tensors: Mapping[str, torch.Tensor], manifest: Manifest
    ) -> torch.Tensor:
        """Named tensors as a payload; those to be coded may be of any floating dtype.

        Raises KeyError if one is missing, and ValueError if one has another number of elements, or
        as `encode` does.
        """
        payload = torch.zeros(self.size(manifest), dtype=torch.uint8)
        start = 0
        for spec in manifest:
            section = payload[start : start + self._size(spec)]
            values = tensors[spec.name].detach().reshape(-1)
            if values.numel() != spec.numel:
                raise ValueError(f"{spec.name} has {values.numel()} elements, not {spec.numel}")
            self._write(values, section, spec)
            start += section.numel()
        return payload

    def pieces(self, payload: torch.Tensor, manifest: Manifest) -> Iterator[Piece]:
        """The decoded update of a payload (contiguous uint8), in ascending order.

        Each piece has at most PIECE_ELEMENTS elements of one run; together they have every element
        of every averaged tensor once. Padding between raw tensors may be among them, as zeros.

        Raises FednotError with WRONG_SIZE, or, before the piece it is about, INVALID_STREAM for a
        payload that is none and NOT_FINITE for a scale that is NaN or Inf. Go through all pieces
        before anything of them is kept. Values are not checked to be finite.
        """
        size = self.size(manifest)
        if payload.numel() != size:
            raise FednotError(
                Reason.WRONG_SIZE,
                f"the {self.name} payload has {payload.numel()} bytes, not {size}",
            )
        scratch = torch.empty(PIECE_ELEMENTS)
        start = 0
        for coded, group in groupby(manifest, key=self.codes):
            specs = list(group)
            section = payload[start : start + sum(map(self._size, specs))]
            if coded:
                yield from self._coded_pieces(section, specs, scratch)
            else:
                yield from _raw_pieces(section, specs)
            start += section.numel()

    def decode(self, payload: torch.Tensor, manifest: Manifest) -> torch.Tensor:
        """The flat update of a payload, in the manifest's dtypes; bool and uint8 are zeros.

        Raises FednotError as `pieces` does.
        """
        flat = empty(manifest)
        for piece in self.pieces(payload, manifest):
            dtype = manifest[tensor_at(manifest, piece.byte_offset)].torch_dtype
            stop = piece.byte_offset + piece.values.numel() * dtype.itemsize
            flat[piece.byte_offset : stop].view(dtype).copy_(piece.values)
        return flat

    def _size(self, spec: TensorSpec) -> int:
        return aligned(spec.nbytes)

    def _write(self, values: torch.Tensor, section: torch.Tensor, spec: TensorSpec) -> None:
        section[: spec.nbytes].view(spec.torch_dtype).copy_(values)

    def _coded_pieces(
        self, sections: torch.Tensor, specs: list[TensorSpec], scratch: torch.Tensor
    ) -> Iterator[Piece]:
        yield from ()


class LossyCodec(Codec, ABC):
    """A codec that codes the sections of large tensors that gradient descent learns."""

    def codes(self, spec: TensorSpec) -> bool:
        """Whether a tensor is a large floating parameter that gets smaller by it."""
        return (
            spec.kind is TensorKind.PARAMETER
            and spec.torch_dtype.is_floating_point
            and spec.numel >= SMALLEST_CODED
            and self.section_size(spec.numel) < aligned(spec.nbytes)
        )

    @abstractmethod
    def section_size(self, numel: int) -> int:
        """The bytes of a coded section of so many elements, padding included."""

    @abstractmethod
    def write(self, values: torch.Tensor, section: torch.Tensor, spec: TensorSpec) -> None:
        """Writes a floating 1-D tensor into its section, which is zeros."""

    @abstractmethod
    def read(
        self, section: torch.Tensor, spec: TensorSpec, scratch: torch.Tensor
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """A coded section's elements, as the index of the first and float32 values.

        `scratch` is float32 [PIECE_ELEMENTS]; what is given may be in it.
        """

    def _size(self, spec: TensorSpec) -> int:
        return self.section_size(spec.numel) if self.codes(spec) else super()._size(spec)

    def _write(self, values: torch.Tensor, section: torch.Tensor, spec: TensorSpec) -> None:
        if self.codes(spec):
            self.write(values, section, spec)
        else:
            super()._write(values, section, spec)

    def _coded_pieces(
        self, sections: torch.Tensor, specs: list[TensorSpec], scratch: torch.Tensor
    ) -> Iterator[Piece]:
        start = 0
        for spec in specs:
            section = sections[start : start + self.section_size(spec.numel)]
            for index, values in self.read(section, spec, scratch):
                yield Piece(spec.byte_offset + index * spec.torch_dtype.itemsize, values)
            start += section.numel()


def _raw_pieces(section: torch.Tensor, specs: list[TensorSpec]) -> Iterator[Piece]:
    first = specs[0].byte_offset
    for spec in specs:
        stop = spec.byte_offset + spec.nbytes - first
        check_padding(section, stop, aligned(stop), spec)
    for run in joined(specs):
        if not run.averaged:
            continue
        start = run.byte_offset - first
        values = section[start : start + run.nbytes].view(run.torch_dtype)
        for index in range(0, run.numel, PIECE_ELEMENTS):
            place = run.byte_offset + index * run.torch_dtype.itemsize
            yield Piece(place, values[index : index + PIECE_ELEMENTS])


def aligned(nbytes: int) -> int:
    """The next multiple of 8."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def check_padding(section: torch.Tensor, start: int, stop: int, spec: TensorSpec) -> None:
    """Raises FednotError if a byte of a section's padding is not zero."""
    if stop > start and bool(section[start:stop].any()):
        raise invalid(f"{spec.name} has padding that is not zero")


def invalid(message: str) -> FednotError:
    """The refusal of a payload that is none."""
    remedy = {REMEDY_KEY: "Write the payload as fednot/codecs/__init__.py says."}
    return FednotError(Reason.INVALID_STREAM, message, metadata=remedy)


def chunks(values: torch.Tensor, spec: TensorSpec) -> Iterator[tuple[int, torch.Tensor, float]]:
    """Float32 values in pieces: the index of the first, the values, and their largest magnitude.

    The values are the tensor itself if it is float32, else a scratch that the next piece
    overwrites; float64 beyond float32's range is clamped to it. Raises ValueError for NaN or Inf.
    """
    scratch = torch.empty(0 if values.dtype is torch.float32 else PIECE_ELEMENTS)
    for start in range(0, values.numel(), PIECE_ELEMENTS):
        chunk = values[start : start + PIECE_ELEMENTS]
        low, high = chunk.aminmax()
        largest = max(-float(low), float(high))
        if not math.isfinite(largest):
            raise ValueError(f"the update of {spec.name} holds NaN or Inf")
        yield start, as_float32(chunk, largest, scratch), largest


def as_float32(chunk: torch.Tensor, largest: float, scratch: torch.Tensor) -> torch.Tensor:
    """Values of at most that magnitude as float32: themselves, or in the scratch, clamped."""
    if chunk.dtype is torch.float32:
        return chunk
    if largest > LARGEST:
        chunk = chunk.clamp(-LARGEST, LARGEST)
    return scratch[: chunk.numel()].copy_(chunk)


def bounds(numel: int) -> Iterable[tuple[int, int]]:
    """Where the pieces of so many elements start and end."""
    return (
        (start, min(start + PIECE_ELEMENTS, numel)) for start in range(0, numel, PIECE_ELEMENTS)
    )
