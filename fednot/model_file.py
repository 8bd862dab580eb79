"""Model files: a flat model as safetensors, with its manifest in the file's metadata."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from fednot.manifest import Manifest, ManifestError
from fednot.tensors import flatten, views

MANIFEST_KEY: Final = "fednot.manifest"
LAYERS_KEY: Final = "fednot.layers"


class ModelFileError(ValueError):
    """A file that is no model file, or does not fit its manifest."""


def serialise(flat: torch.Tensor, manifest: Manifest, *, layers: str = "") -> bytes:
    """The bytes of a safetensors file. `layers` is the JSON of a layer map, kept if given."""
    metadata = {MANIFEST_KEY: manifest.to_json()}
    if layers:
        metadata[LAYERS_KEY] = layers
    return save(views(flat, manifest), metadata)


def read(path: Path) -> tuple[torch.Tensor, Manifest, str]:
    """Reads a model file: flat model, manifest, and the JSON of its layer map or "".

    Raises ModelFileError with what is wrong with the file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if MANIFEST_KEY not in metadata:
                raise ModelFileError(
                    f"{path} has no manifest in its metadata; make it with `fednot model init`"
                )
            manifest = Manifest.from_json(metadata[MANIFEST_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, ManifestError, OSError, json.JSONDecodeError) as error:
        raise ModelFileError(f"{path} is not a model file: {error}") from error
    return _checked(tensors, manifest, path), manifest, metadata.get(LAYERS_KEY, "")


def _checked(tensors: dict[str, torch.Tensor], manifest: Manifest, path: Path) -> torch.Tensor:
    for spec in manifest:
        tensor = tensors.get(spec.name)
        if tensor is None:
            raise ModelFileError(f"{path} lacks the tensor {spec.name}")
        if tensor.dtype is not spec.torch_dtype or tuple(tensor.shape) != spec.shape:
            raise ModelFileError(f"{path}: {spec.name} is not as its manifest says")
    return flatten(tensors, manifest)
