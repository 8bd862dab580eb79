"""Chunks as encoded messages: what protobuf makes of a `bytes chunk = 2`, without its copies.

UploadUpdateRequest and DownloadModelResponse both carry their bytes in field 2. Its encoding is a
tag byte, the length as a varint, and the bytes (protobuf.dev, Encoding); so a chunk is read and
written in place, and the wire holds the documented message.
"""

from __future__ import annotations

from typing import Final

from fednot.v1 import federation_pb2

UPLOAD: Final = "/fednot.v1.FederationService/UploadUpdate"
DOWNLOAD: Final = "/fednot.v1.FederationService/DownloadModel"
OFFSET_KEY: Final = "fednot-offset"
"""The initial metadata with which the server lets an upload begin: the byte to send from."""

_TAG: Final = 2 << 3 | 2
_LONGEST_LENGTH: Final = 5


def framed(chunk: memoryview) -> bytes:
    """The encoded message of a chunk."""
    prefix = bytearray((_TAG,))
    left = len(chunk)
    while left > 0x7F:
        prefix.append(left & 0x7F | 0x80)
        left >>= 7
    prefix.append(left)
    return b"".join((prefix, chunk))


def chunk_in(raw: bytes) -> memoryview | None:
    """The chunk of a message that holds one and nothing else, without a copy; else None."""
    if not raw or raw[0] != _TAG:
        return None
    length = 0
    for at, byte in enumerate(raw[1 : 1 + _LONGEST_LENGTH]):
        length |= (byte & 0x7F) << (7 * at)
        if byte < 0x80:
            begin = at + 2
            return memoryview(raw)[begin:] if len(raw) - begin == length else None
    return None


def upload_bytes(part: federation_pb2.UploadUpdateRequest | bytes) -> bytes:
    """An encoded message of an upload; one that is encoded already stays as it is."""
    return part if isinstance(part, bytes) else part.SerializeToString()


def download_bytes(part: federation_pb2.DownloadModelResponse | bytes) -> bytes:
    """An encoded message of a download; one that is encoded already stays as it is."""
    return part if isinstance(part, bytes) else part.SerializeToString()


def upload_part(raw: bytes) -> federation_pb2.UploadUpdateRequest | memoryview:
    """A message of an upload, or the bytes of a chunk."""
    chunk = chunk_in(raw)
    if chunk is not None:
        return chunk
    part = federation_pb2.UploadUpdateRequest.FromString(raw)
    return memoryview(part.chunk) if part.HasField("chunk") else part


def download_part(raw: bytes) -> federation_pb2.DownloadModelResponse | memoryview:
    """A message of a download, or the bytes of a chunk."""
    chunk = chunk_in(raw)
    if chunk is not None:
        return chunk
    part = federation_pb2.DownloadModelResponse.FromString(raw)
    return memoryview(part.chunk) if part.HasField("chunk") else part
