"""Model files: a flat model as safetensors, with its manifest in the file's metadata.

They are written and read piece by piece, so that neither needs memory for a second model. A file is
the length of the header (8 bytes), the header (JSON) and the tensors, larger items first and
without the flat model's padding, so that each tensor stands where its dtype can be viewed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError, safe_open

from fednot.manifest import ALIGNMENT, Manifest, ManifestError, TensorSpec
from fednot.tensors import as_bytes, empty

MANIFEST_KEY: Final = "fednot.manifest"
LAYERS_KEY: Final = "fednot.layers"
PIECE: Final = 4 << 20
_LENGTH: Final = 8
_METADATA: Final = "__metadata__"


class ModelFileError(ValueError):
    """A file that is no model file, or does not fit its manifest."""


@dataclass(frozen=True)
class Description:
    """What stands in a model file, and where: `places` are the tensors' bytes from its start on.

    `layers` is the JSON of a layer map, or "".
    """

    path: Path
    manifest: Manifest
    layers: str
    places: dict[str, int]


def parts(flat: torch.Tensor, manifest: Manifest, *, layers: str = "") -> Iterator[memoryview]:
    """The bytes of a model file one after another, at most PIECE of a tensor at a time.

    `layers` is the JSON of a layer map, kept if given. Raises ValueError if the flat model has
    another size than the manifest.
    """
    if flat.numel() != manifest.nbytes:
        raise ValueError(f"the flat model has {flat.numel()} bytes, not {manifest.nbytes}")
    metadata = {MANIFEST_KEY: manifest.to_json()}
    if layers:
        metadata[LAYERS_KEY] = layers
    yield memoryview(_header(manifest, metadata))
    content = as_bytes(flat)
    for spec in _in_file_order(manifest):
        for start, stop in _pieces(spec):
            yield content[start:stop]


def serialise(flat: torch.Tensor, manifest: Manifest, *, layers: str = "") -> bytes:
    """The bytes of a model file in one; `parts` without a copy."""
    return b"".join(parts(flat, manifest, layers=layers))


def describe(path: Path) -> Description:
    """Reads what a model file says of itself, but no tensor.

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
        with path.open("rb") as raw:
            length = int.from_bytes(raw.read(_LENGTH), "little")
            rows = json.loads(raw.read(length))
    except (SafetensorError, ManifestError, OSError, json.JSONDecodeError) as error:
        raise ModelFileError(f"{path} is not a model file: {error}") from error
    rows.pop(_METADATA, None)
    places = {}
    for spec in manifest:
        row = rows.get(spec.name)
        if row is None:
            raise ModelFileError(f"{path} lacks the tensor {spec.name}")
        if row["dtype"] != spec.dtype or tuple(row["shape"]) != spec.shape:
            raise ModelFileError(f"{path}: {spec.name} is not as its manifest says")
        places[spec.name] = _LENGTH + length + row["data_offsets"][0]
    return Description(path, manifest, metadata.get(LAYERS_KEY, ""), places)


def fill(flat: torch.Tensor, found: Description) -> Iterator[int]:
    """Reads a described file's tensors into a flat model of its size, in ascending order.

    Yields the end of what is filled after each piece of at most PIECE bytes; padding is left as it
    is. Raises ModelFileError if the file has become shorter or cannot be read.
    """
    content = as_bytes(flat)
    try:
        with found.path.open("rb", buffering=0) as file:
            for spec in found.manifest:
                file.seek(found.places[spec.name])
                for start, stop in _pieces(spec):
                    while start < stop:
                        count = file.readinto(content[start:stop])
                        if not count:
                            raise ModelFileError(f"{found.path} ends within {spec.name}")
                        start += count
                    yield stop
    except OSError as error:
        raise ModelFileError(f"{found.path} cannot be read: {error}") from error


def read(path: Path) -> tuple[torch.Tensor, Manifest, str]:
    """Reads a model file: flat model, manifest, and the JSON of its layer map or "".

    Raises ModelFileError with what is wrong with the file.
    """
    found = describe(path)
    flat = empty(found.manifest)
    for _ in fill(flat, found):
        pass
    return flat, found.manifest, found.layers


def _header(manifest: Manifest, metadata: dict[str, str]) -> bytes:
    rows: dict[str, object] = {_METADATA: metadata}
    place = 0
    for spec in _in_file_order(manifest):
        rows[spec.name] = {
            "dtype": spec.dtype,
            "shape": list(spec.shape),
            "data_offsets": [place, place + spec.nbytes],
        }
        place += spec.nbytes
    text = json.dumps(rows, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(_LENGTH, "little") + text


def _in_file_order(manifest: Manifest) -> list[TensorSpec]:
    return sorted(manifest, key=lambda spec: -spec.torch_dtype.itemsize)


def _pieces(spec: TensorSpec) -> Iterator[tuple[int, int]]:
    end = spec.byte_offset + spec.nbytes
    for start in range(spec.byte_offset, end, PIECE):
        yield start, min(start + PIECE, end)
