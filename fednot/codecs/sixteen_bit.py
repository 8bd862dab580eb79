"""The codecs bf16 and fp16: floats of 16 bits. Half the bytes of float32, no parameters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from fednot.codecs.codec import LossyCodec, aligned, bounds, check_padding, chunks
from fednot.manifest import TensorSpec


@dataclass(frozen=True)
class SixteenBit(LossyCodec):
    """Rounds to a 16-bit dtype; values beyond its range become its largest finite ones.

    The relative error is at most 2^-8 for bf16 and 2^-11 for fp16, whose absolute error is 2^-25
    below 2^-14.
    """

    name: str
    dtype: torch.dtype

    def section_size(self, numel: int) -> int:
        """Two bytes an element."""
        return aligned(numel * self.dtype.itemsize)

    def write(self, values: torch.Tensor, section: torch.Tensor, spec: TensorSpec) -> None:
        """Rounds; it clamps only the pieces that need it."""
        limit = torch.finfo(self.dtype).max
        rounded = self._elements(section, spec)
        for start, chunk, largest in chunks(values, spec):
            within = chunk.clamp(-limit, limit) if largest > limit else chunk
            rounded[start : start + chunk.numel()].copy_(within)

    def read(
        self, section: torch.Tensor, spec: TensorSpec, scratch: torch.Tensor
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """Widens to float32 in the scratch: adding 16-bit floats to wider ones is far slower."""
        rounded = self._elements(section, spec)
        check_padding(section, rounded.nbytes, section.numel(), spec)
        for start, stop in bounds(spec.numel):
            yield start, scratch[: stop - start].copy_(rounded[start:stop])

    def _elements(self, section: torch.Tensor, spec: TensorSpec) -> torch.Tensor:
        return section[: spec.numel * self.dtype.itemsize].view(self.dtype)
