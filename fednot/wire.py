"""Model bytes on the wire: 1 MiB chunks, a checksum over all of them, manifests as messages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import torch
import xxhash

from fednot.errors import FednotError, Reason
from fednot.manifest import Manifest, TensorKind, TensorSpec
from fednot.tensors import as_bytes, empty
from fednot.v1 import model_pb2

CHUNK_BYTES: Final = 1 << 20
SLOWEST_BYTES_PER_SECOND: Final = 50_000
MESSAGE_SECONDS: Final = 30.0
"""The longest that either side waits for the next bytes."""

_KINDS: Final = {
    TensorKind.PARAMETER: model_pb2.TENSOR_KIND_PARAMETER,
    TensorKind.BUFFER: model_pb2.TENSOR_KIND_BUFFER,
}
_KINDS_BACK: Final = {value: kind for kind, value in _KINDS.items()}
_CODECS: Final = {
    "none": model_pb2.UPDATE_CODEC_NONE,
    "bf16": model_pb2.UPDATE_CODEC_BF16,
    "fp16": model_pb2.UPDATE_CODEC_FP16,
    "int8": model_pb2.UPDATE_CODEC_INT8,
    "topk": model_pb2.UPDATE_CODEC_TOP_K,
    "masked": model_pb2.UPDATE_CODEC_MASKED,
}
_CODEC_NAMES: Final = {value: name for name, value in _CODECS.items()}


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


def codec_value(name: str) -> model_pb2.UpdateCodec.ValueType:
    """The protocol's value for a codec's name. Raises KeyError if there is no such codec."""
    return _CODECS[name]


def codec_name(value: model_pb2.UpdateCodec.ValueType) -> str:
    """The name of a codec; "" for a value of a newer protocol, "none" if it is not set."""
    if value == model_pb2.UPDATE_CODEC_UNSPECIFIED:
        return "none"
    return _CODEC_NAMES.get(value, "")


def longest_transfer(num_bytes: int) -> float:
    """Seconds that moving so many bytes may take: a minute, and 50 kB/s."""
    return 60.0 + num_bytes / SLOWEST_BYTES_PER_SECOND


def chunks(payload: memoryview) -> Iterator[bytes]:
    """The payload cut into chunks of CHUNK_BYTES, the last one shorter."""
    for start in range(0, len(payload), CHUNK_BYTES):
        yield bytes(payload[start : start + CHUNK_BYTES])


def checksum(payload: memoryview) -> str:
    """xxh3-128 over the payload, in hexadecimal."""
    return xxhash.xxh3_128_hexdigest(payload)


class Receiver:
    """Puts a stream of chunks together as one flat model and checks size and checksum.

    The buffer has the size that the manifest gives, never one that the sender names. A stream that
    was cut goes on at `filled`; one that was wrong begins again.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._flat = empty(manifest)
        self._into = as_bytes(self._flat)
        self.num_bytes: Final = len(self._into)
        self._start_over()

    def begin(self, announced_bytes: int, offset: int) -> None:
        """Takes the header of a stream.

        Raises FednotError (WRONG_SIZE) if it is of another size, INVALID_STREAM if it does not go
        on where the stream before was cut.
        """
        if announced_bytes != len(self._into):
            raise FednotError(
                Reason.WRONG_SIZE,
                f"the stream announces {announced_bytes} bytes; the model has {len(self._into)}",
            )
        if offset == 0:
            self._start_over()
        if offset != self.filled:
            raise FednotError(
                Reason.INVALID_STREAM, f"the stream begins at byte {offset}, not {self.filled}"
            )

    def add(self, chunk: bytes | memoryview) -> None:
        """Takes the next chunk. Raises FednotError (WRONG_SIZE) if it is one too many."""
        end = self.filled + len(chunk)
        if end > len(self._into):
            raise FednotError(Reason.WRONG_SIZE, f"more than {len(self._into)} bytes were sent")
        self._into[self.filled : end] = chunk
        self._took(end)

    def read_from(self, read: Callable[[memoryview], int], most: int) -> int:
        """Lets `read` fill the place of the next bytes, at most so many; gives how many came."""
        count = read(self._into[self.filled : self.filled + most])
        self._took(self.filled + count)
        return count

    @property
    def received(self) -> torch.Tensor:
        """The bytes that have come so far, where they lie."""
        return self._flat[: self.filled]

    def finish(self, expected_checksum: str) -> torch.Tensor:
        """The flat model. Raises FednotError (WRONG_SIZE or WRONG_CHECKSUM)."""
        if self.filled != len(self._into):
            raise FednotError(
                Reason.WRONG_SIZE, f"{self.filled} of {len(self._into)} bytes were sent"
            )
        found = self._hash.hexdigest()
        if found != expected_checksum:
            self._start_over()
            raise FednotError(
                Reason.WRONG_CHECKSUM,
                f"the bytes have xxh3-128 {found}, not {expected_checksum!r}",
            )
        return self._flat

    def _start_over(self) -> None:
        self.filled = 0
        self._hash = xxhash.xxh3_128()

    def _took(self, end: int) -> None:
        self._hash.update(self._into[self.filled : end])
        self.filled = end
