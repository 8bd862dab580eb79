"""Models of a given size for benchmarks: a few equal float32 tensors, random values."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch

from fednot import model_file
from fednot.manifest import Manifest, TensorKind, TensorSpec
from fednot.tensors import empty

TENSORS: Final = 10
_DEVIATION: Final = 0.01


def manifest_of_bytes(nbytes: int) -> Manifest:
    """The manifest of TENSORS float32 weights that take `nbytes`, a multiple of 8, in all."""
    pairs, left = divmod(nbytes // 8, TENSORS)
    specs, offset = [], 0
    for index in range(TENSORS):
        numel = 2 * (pairs + (index < left))
        if numel:
            specs.append(_weight(index, numel, offset))
        offset += 4 * numel
    return Manifest(tuple(specs))


def _weight(index: int, numel: int, offset: int) -> TensorSpec:
    return TensorSpec(
        name=f"layer{index}.weight",
        dtype="F32",
        shape=(2, numel // 2),
        kind=TensorKind.PARAMETER,
        module_type="Linear",
        byte_offset=offset,
    )


def random_flat(manifest: Manifest, seed: int) -> torch.Tensor:
    """A flat model of small random values, uint8 [manifest.nbytes]."""
    flat = empty(manifest)
    generator = torch.Generator().manual_seed(seed)
    flat.view(torch.float32).normal_(std=_DEVIATION, generator=generator)
    return flat


def write_model(path: Path, nbytes: int) -> None:
    """Writes a model file of that size."""
    manifest = manifest_of_bytes(nbytes)
    path.write_bytes(model_file.serialise(random_flat(manifest, 0), manifest))
