"""Fresh draws without a Task: what a method draws, and new weights as initialisation gave them."""

from __future__ import annotations

import hashlib

import torch

from fednot.manifest import Manifest, TensorKind, TensorSpec
from fednot.tensors import views


def drawing(seed: int, what: str, tensor: str) -> torch.Generator:
    """The generator of what is drawn for a tensor: the same for the same three, always."""
    digest = hashlib.sha256(f"{seed}/{what}/{tensor}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def learned(spec: TensorSpec) -> bool:
    """Whether a tensor is a floating parameter: all that is ever drawn afresh or perturbed."""
    return spec.kind is TensorKind.PARAMETER and spec.torch_dtype.is_floating_point


def fresh(initial: torch.Tensor, manifest: Manifest, seed: int) -> torch.Tensor:
    """A new flat model, as if the model had been initialised again, with another draw.

    Each learned tensor holds the elements of the initial version's in another order, so its
    distribution is the initialisation's to the last element; buffers stay. An initialisation that
    depends on the place of an element (a table of positions) is not kept.
    """
    result = initial.clone()
    for spec, view in zip(manifest, views(result, manifest).values(), strict=True):
        if learned(spec) and spec.numel:
            view.copy_(fresh_tensor(initial, spec, seed))
    return result


def fresh_tensor(initial: torch.Tensor, spec: TensorSpec, seed: int) -> torch.Tensor:
    """One learned tensor of `fresh`, of its own shape and dtype."""
    old = initial[spec.byte_offset : spec.byte_offset + spec.nbytes].view(spec.torch_dtype)
    generator = drawing(seed, "fresh", spec.name)
    order = torch.randperm(spec.numel, generator=generator, dtype=torch.int64)
    return old[order].view(spec.shape)
