"""Manifests of any tensors, and flat models of any values for them."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from fednot.manifest import DTYPES, Manifest, TensorKind, TensorSpec
from fednot.tensors import empty, views

SHAPES = st.lists(st.integers(0, 7), max_size=3).map(tuple)


def manifest_of(**tensors: tuple[str, tuple[int, ...]]) -> Manifest:
    """A manifest of named tensors, each a dtype and a shape."""
    specs, offset = [], 0
    for name, (dtype, shape) in tensors.items():
        spec = TensorSpec(name, dtype, shape, TensorKind.PARAMETER, "", offset)
        specs.append(spec)
        offset += -(-spec.nbytes // 8) * 8
    return Manifest(tuple(specs))


def manifests(
    dtypes: tuple[str, ...] = tuple(DTYPES), shapes: st.SearchStrategy[tuple[int, ...]] = SHAPES
) -> st.SearchStrategy[Manifest]:
    """Up to 6 tensors of several dtypes, empty ones and such as need padding among them."""
    tensors = st.lists(st.tuples(st.sampled_from(dtypes), shapes), max_size=6)
    return tensors.map(lambda found: manifest_of(**{f"t{i}": row for i, row in enumerate(found)}))


def random_flat(manifest: Manifest, seed: int, scale: float = 4.0) -> torch.Tensor:
    """A flat model of normal values, or integers of that size; its padding is zero."""
    generator = torch.Generator().manual_seed(seed)
    flat = empty(manifest)
    for view in views(flat, manifest).values():
        view.copy_(torch.randn(view.shape, generator=generator, dtype=torch.float64) * scale)
    return flat
