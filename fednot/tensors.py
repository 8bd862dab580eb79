"""Flat models: a model's tensors as one contiguous run of bytes, viewed in place.

Little-endian byte order is assumed of the machine, as torch's own CPU builds do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from torch import nn

from fednot.manifest import Manifest
from fednot.pages import HUGE_PAGE, anonymous, tensor_of

UNAVERAGED: Final = (torch.bool, torch.uint8)
"""Dtypes that have no differences; such tensors stay as the server has them."""


def empty(manifest: Manifest) -> torch.Tensor:
    """A flat model of zeros, uint8 of shape [manifest.nbytes]."""
    if manifest.nbytes < HUGE_PAGE:
        return torch.zeros(manifest.nbytes, dtype=torch.uint8)
    return tensor_of(anonymous(manifest.nbytes), manifest.nbytes)


def views(flat: torch.Tensor, manifest: Manifest) -> dict[str, torch.Tensor]:
    """Each tensor as a view into the flat model; writing to one writes to the flat model.

    Raises ValueError if the flat model has another size than the manifest.
    """
    if flat.numel() != manifest.nbytes:
        raise ValueError(f"the flat model has {flat.numel()} bytes, not {manifest.nbytes}")
    found = {}
    for spec in manifest:
        raw = flat[spec.byte_offset : spec.byte_offset + spec.nbytes]
        found[spec.name] = raw.view(spec.torch_dtype).view(spec.shape)
    return found


def flatten(tensors: Mapping[str, torch.Tensor], manifest: Manifest) -> torch.Tensor:
    """Copies named tensors into a new flat model.

    Raises KeyError if one is missing and ValueError if one has another shape than the manifest's.
    """
    flat = empty(manifest)
    for name, view in views(flat, manifest).items():
        tensor = tensors[name].detach()
        if tensor.shape != view.shape:
            raise ValueError(f"{name} has shape {list(tensor.shape)}, not {list(view.shape)}")
        view.copy_(tensor)
    return flat


def flatten_module(module: nn.Module, manifest: Manifest) -> torch.Tensor:
    """Copies a module's state dict into a new flat model."""
    return flatten(module.state_dict(), manifest)


def load_into(module: nn.Module, flat: torch.Tensor, manifest: Manifest) -> None:
    """Copies a flat model into a module, tied names included."""
    found = views(flat, manifest)
    for spec in manifest:
        for alias in spec.aliases:
            found[alias] = found[spec.name]
    module.load_state_dict(found)


def difference(trained: torch.Tensor, given: torch.Tensor, manifest: Manifest) -> torch.Tensor:
    """The update: trained minus given in each tensor's dtype; UNAVERAGED dtypes are left zero."""
    update = empty(manifest)
    new, old, out = (views(flat, manifest) for flat in (trained, given, update))
    for name, view in out.items():
        if view.dtype not in UNAVERAGED:
            torch.sub(new[name], old[name], out=view)
    return update


def first_not_finite(flat: torch.Tensor, manifest: Manifest) -> str | None:
    """The name of the first tensor that holds NaN or Inf, or None."""
    for name, view in views(flat, manifest).items():
        if view.dtype.is_floating_point and not bool(torch.isfinite(view).all()):
            return name
    return None


def as_bytes(flat: torch.Tensor) -> memoryview:
    """The flat model's bytes, without a copy."""
    return memoryview(flat.numpy().data)
