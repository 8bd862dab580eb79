"""Model bytes on the wire: 1 MiB chunks, a checksum over all of them, manifests as messages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import torch
import xxhash

from fednot.errors import FednotError, Reason
from fednot.manifest import Manifest, TensorKind, TensorSpec
from fednot.tensors import as_bytes, empty
from fednot.v1 import model_pb2

CHUNK_BYTES: Final = 1 << 20

_KINDS: Final = {
    TensorKind.PARAMETER: model_pb2.TENSOR_KIND_PARAMETER,
    TensorKind.BUFFER: model_pb2.TENSOR_KIND_BUFFER,
}
_KINDS_BACK: Final = {value: kind for kind, value in _KINDS.items()}


def manifest_message(manifest: Manifest) -> model_pb2.Manifest:
    """The manifest as a message."""
    return model_pb2.Manifest(
        tensors=[
            model_pb2.TensorSpec(
                name=spec.name,
                dtype=spec.dtype,
                shape=spec.shape,
                kind=_KINDS[spec.kind],
                module_type=spec.module_type,
                byte_offset=spec.byte_offset,
                aliases=spec.aliases,
            )
            for spec in manifest
        ]
    )


def manifest_of(message: model_pb2.Manifest) -> Manifest:
    """Reads a manifest message. Raises ManifestError, or KeyError for an unset kind."""
    return Manifest(
        tuple(
            TensorSpec(
                name=tensor.name,
                dtype=tensor.dtype,
                shape=tuple(tensor.shape),
                kind=_KINDS_BACK[tensor.kind],
                module_type=tensor.module_type,
                byte_offset=tensor.byte_offset,
                aliases=tuple(tensor.aliases),
            )
            for tensor in message.tensors
        )
    )


def chunks(payload: memoryview) -> Iterator[bytes]:
    """The payload cut into chunks of CHUNK_BYTES, the last one shorter."""
    for start in range(0, len(payload), CHUNK_BYTES):
        yield bytes(payload[start : start + CHUNK_BYTES])


def checksum(payload: memoryview) -> str:
    """xxh3-128 over the payload, in hexadecimal."""
    return xxhash.xxh3_128_hexdigest(payload)


class Receiver:
    """Puts a stream of chunks together as one flat model and checks size and checksum.

    The buffer has the size that the manifest gives, never one that the sender names.
    """

    def __init__(self, manifest: Manifest, announced_bytes: int) -> None:
        if announced_bytes != manifest.nbytes:
            raise FednotError(
                Reason.WRONG_SIZE,
                f"the stream announces {announced_bytes} bytes; the model has {manifest.nbytes}",
            )
        self._flat = empty(manifest)
        self._into = as_bytes(self._flat)
        self._filled = 0
        self._hash = xxhash.xxh3_128()

    def add(self, chunk: bytes) -> None:
        """Takes the next chunk. Raises FednotError (WRONG_SIZE) if it is one too many."""
        end = self._filled + len(chunk)
        if end > len(self._into):
            raise FednotError(Reason.WRONG_SIZE, f"more than {len(self._into)} bytes were sent")
        self._into[self._filled : end] = chunk
        self._filled = end
        self._hash.update(chunk)

    def finish(self, expected_checksum: str) -> torch.Tensor:
        """The flat model. Raises FednotError (WRONG_SIZE or WRONG_CHECKSUM)."""
        if self._filled != len(self._into):
            raise FednotError(
                Reason.WRONG_SIZE, f"{self._filled} of {len(self._into)} bytes were sent"
            )
        if self._hash.hexdigest() != expected_checksum:
            raise FednotError(
                Reason.WRONG_CHECKSUM,
                f"the bytes have xxh3-128 {self._hash.hexdigest()}, not {expected_checksum!r}",
            )
        return self._flat
