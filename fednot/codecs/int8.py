"""The codec int8: a quarter of float32's bytes, with a scale for each tensor.

Rounding loses up to half a step of max|x| / 127, the same for small elements as for large ones, so
the client keeps what was lost and adds it to its next update (client/residual.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import torch

from fednot.codecs.codec import (
    LossyCodec,
    aligned,
    as_float32,
    bounds,
    check_padding,
    chunks,
    invalid,
)
from fednot.errors import FednotError, Reason
from fednot.manifest import TensorSpec
from fednot.runs import PIECE_ELEMENTS

HEAD: Final = 8
STEPS: Final = 127
SMALLEST_SCALE: Final = torch.finfo(torch.float32).tiny
"""Below it floats lose precision, and 127 steps of it are nothing in any update."""
LARGEST_SCALE: Final = float.fromhex("0x1.020406p+121")
"""The largest float32 of which 127 are still finite."""


@dataclass(frozen=True)
class Int8(LossyCodec):
    """Symmetric linear quantisation; the error is at most scale / 2 (1 + 2^-14)."""

    name: str = "int8"
    feeds_back: bool = True

    def section_size(self, numel: int) -> int:
        """The scale and a byte an element."""
        return HEAD + aligned(numel)

    def write(self, values: torch.Tensor, section: torch.Tensor, spec: TensorSpec) -> None:
        """Finds the scale in one pass and rounds in another; an all-zero tensor has scale 0."""
        largest = max(largest for _, _, largest in chunks(values, spec))
        scale = section[:4].view(torch.float32).fill_(min(largest / STEPS, LARGEST_SCALE))
        step = float(scale)
        if step < SMALLEST_SCALE:
            scale.zero_()
            return
        scratch = torch.empty(min(values.numel(), PIECE_ELEMENTS))
        steps = section[HEAD : HEAD + spec.numel].view(torch.int8)
        for start, stop in bounds(spec.numel):
            scaled = scratch[: stop - start]
            torch.div(as_float32(values[start:stop], largest, scaled), step, out=scaled)
            steps[start:stop].copy_(scaled.round_().clamp_(-STEPS, STEPS))

    def read(
        self, section: torch.Tensor, spec: TensorSpec, scratch: torch.Tensor
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """Multiplies by the scale. -128, which no writer writes, is taken for what it is."""
        scale = _scale(section, spec)
        check_padding(section, 4, HEAD, spec)
        check_padding(section, HEAD + spec.numel, section.numel(), spec)
        steps = section[HEAD : HEAD + spec.numel].view(torch.int8)
        for start, stop in bounds(spec.numel):
            yield start, scratch[: stop - start].copy_(steps[start:stop]).mul_(scale)


def _scale(section: torch.Tensor, spec: TensorSpec) -> float:
    scale = float(section[:4].view(torch.float32))
    if not math.isfinite(scale):
        raise FednotError(Reason.NOT_FINITE, f"the scale of {spec.name} is {scale}")
    if scale < 0:
        raise invalid(f"the scale of {spec.name} is {scale}, below 0")
    return scale
