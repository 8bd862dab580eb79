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
from typing import Any, BinaryIO, Final, Self

import torch

from fednot.manifest import ALIGNMENT, Manifest, ManifestError, TensorSpec
from fednot.tensors import as_bytes, empty

MANIFEST_KEY: Final = "fednot.manifest"
LAYERS_KEY: Final = "fednot.layers"
PIECE: Final = 4 << 20
LONGEST_HEADER: Final = 100 << 20
"""That of the safetensors library."""
_LENGTH: Final = 8
_METADATA: Final = "__metadata__"


class ModelFileError(ValueError):
    """A file that is no model file, or does not fit its manifest."""


@dataclass(frozen=True)
class Source:
    """A model file that is open for reading at any place, on a disk or elsewhere.

    `name` is what errors call it. Who opened it closes it.
    """

    name: str
    size: int
    file: BinaryIO

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


@dataclass(frozen=True)
class Description:
    """What stands in a model file, and where: `places` are the tensors' bytes from its start on.

    `layers` is the JSON of a layer map, or "".
    """

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
    yield memoryview(_header(manifest, layers))
    content = as_bytes(flat)
    for spec in _in_file_order(manifest):
        for start, stop in _pieces(spec):
            yield content[start:stop]


def serialise(flat: torch.Tensor, manifest: Manifest, *, layers: str = "") -> bytes:
    """The bytes of a model file in one; `parts` without a copy."""
    return b"".join(parts(flat, manifest, layers=layers))


def size_of(manifest: Manifest, *, layers: str = "") -> int:
    """How many bytes `parts` makes of a model."""
    return len(_header(manifest, layers)) + sum(spec.nbytes for spec in manifest)


def opened(path: Path) -> Source:
    """Opens a model file of the disk. Raises OSError if it cannot."""
    file = path.open("rb", buffering=0)
    return Source(str(path), path.stat().st_size, file)


def describe(source: Source) -> Description:
    """Reads what a model file says of itself, but no tensor.

    Raises ModelFileError with what is wrong with the file, OSError if it cannot be read.
    """
    try:
        return _described(source)
    except ModelFileError:
        raise
    except (ManifestError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise ModelFileError(f"{source.name} is not a model file: {error}") from error


def fill(flat: torch.Tensor, found: Description, source: Source) -> Iterator[int]:
    """Reads a described file's tensors into a flat model of its size, in ascending order.

    Yields the end of what is filled after each piece of at most PIECE bytes; padding is left as it
    is. Raises ModelFileError if the file has become shorter, OSError if it cannot be read.
    """
    content = as_bytes(flat)
    for spec in found.manifest:
        source.file.seek(found.places[spec.name])
        for start, stop in _pieces(spec):
            _read_into(content[start:stop], source, spec.name)
            yield stop


def flat_bytes(found: Description, source: Source) -> Iterator[bytes | memoryview]:
    """The flat model of a described file in ascending order, padding too, at most PIECE at a time.

    A piece is overwritten by the next. Raises as `fill` does.
    """
    buffer = memoryview(bytearray(PIECE))
    end = 0
    for spec in found.manifest:
        yield bytes(spec.byte_offset - end)
        source.file.seek(found.places[spec.name])
        for start, stop in _pieces(spec):
            piece = buffer[: stop - start]
            _read_into(piece, source, spec.name)
            yield piece
        end = spec.byte_offset + spec.nbytes
    yield bytes(found.manifest.nbytes - end)


def read(path: Path) -> tuple[torch.Tensor, Manifest, str]:
    """Reads a model file: flat model, manifest, and the JSON of its layer map or "".

    Raises ModelFileError with what is wrong with the file.
    """
    try:
        with opened(path) as source:
            found = describe(source)
            flat = empty(found.manifest)
            for _ in fill(flat, found, source):
                pass
    except OSError as error:
        raise ModelFileError(f"{path} is not a model file: {error}") from error
    return flat, found.manifest, found.layers


def _read_into(buffer: memoryview, source: Source, what: str) -> None:
    start = 0
    while start < len(buffer):
        # A BinaryIO has it, though its type does not say so.
        count = source.file.readinto(buffer[start:])  # type: ignore[attr-defined]
        if not count:
            raise ModelFileError(f"{source.name} ends within {what}")
        start += count


def _described(source: Source) -> Description:
    rows, start = _rows_of(source)
    metadata = rows.pop(_METADATA, {})
    _check_places(rows, source.size - start)
    if MANIFEST_KEY not in metadata:
        raise ModelFileError(
            f"{source.name} has no manifest in its metadata; make it with `fednot model init`"
        )
    manifest = Manifest.from_json(metadata[MANIFEST_KEY])
    places = {}
    for spec in manifest:
        row = rows.get(spec.name)
        if row is None:
            raise ModelFileError(f"{source.name} lacks the tensor {spec.name}")
        first, last = row["data_offsets"]
        found = (row["dtype"], tuple(row["shape"]), last - first)
        if found != (spec.dtype, spec.shape, spec.nbytes):
            raise ModelFileError(f"{source.name}: {spec.name} is not as its manifest says")
        places[spec.name] = start + first
    return Description(manifest, str(metadata.get(LAYERS_KEY, "")), places)


def _rows_of(source: Source) -> tuple[dict[str, Any], int]:
    """A file's header and where the tensors begin."""
    if source.size < _LENGTH:
        raise ValueError(f"it has {source.size} bytes")
    length = bytearray(_LENGTH)
    source.file.seek(0)
    _read_into(memoryview(length), source, "the header's length")
    size = int.from_bytes(length, "little")
    if size > min(LONGEST_HEADER, source.size - _LENGTH):
        raise ValueError(f"a header of {size} bytes does not fit in it")
    text = bytearray(size)
    _read_into(memoryview(text), source, "the header")
    rows = json.loads(text)
    if not isinstance(rows, dict):
        raise ValueError("its header is no object")  # noqa: TRY004  a file's fault
    return rows, _LENGTH + size


def _check_places(rows: dict[str, Any], size: int) -> None:
    """Each tensor begins where the one before ends, and the last ends with the file."""
    end = 0
    for first, last in sorted(row["data_offsets"] for row in rows.values()):
        if not (type(first) is type(last) is int) or first != end or last < first:
            raise ValueError("its tensors do not follow each other")
        end = last
    if end != size:
        raise ValueError(f"its tensors take {end} bytes and {size} are there")


def _header(manifest: Manifest, layers: str) -> bytes:
    metadata = {MANIFEST_KEY: manifest.to_json()}
    if layers:
        metadata[LAYERS_KEY] = layers
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
