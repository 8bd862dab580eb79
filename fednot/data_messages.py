"""Messages of the data channel: each travels as its size in four bytes, big-endian, and itself."""

from __future__ import annotations

from typing import Final, TypeVar

from google.protobuf.message import DecodeError, Message

from fednot.v1 import data_channel_pb2, model_pb2

PREFIX_BYTES: Final = 4
MOST_BYTES: Final = 64 << 10

M = TypeVar("M", bound=Message)


class DataMessageError(Exception):
    """What came is no message of the data channel."""


def framed(message: Message) -> bytes:
    """A message as it travels. Raises ValueError if it is larger than a message may be."""
    body = message.SerializeToString()
    if len(body) > MOST_BYTES:
        raise ValueError(f"a message of {len(body)} bytes is larger than {MOST_BYTES}")
    return len(body).to_bytes(PREFIX_BYTES) + body


def size_in(prefix: bytes | bytearray) -> int:
    """The size that the four bytes before a message announce.

    Raises DataMessageError if no message is so large, before anything is made room for.
    """
    size = int.from_bytes(prefix)
    if size > MOST_BYTES:
        raise DataMessageError(f"a message of {size} bytes was announced; {MOST_BYTES} is the most")
    return size


def request_in(raw: bytes) -> data_channel_pb2.DataRequest:
    """The request that a client sent. Raises DataMessageError if it is none."""
    request = _parsed(data_channel_pb2.DataRequest, raw)
    if request.WhichOneof("transfer") is None:
        raise DataMessageError("the request names no transfer")
    return request


def response_in(raw: bytes) -> data_channel_pb2.DataResponse:
    """The message that a server sent. Raises DataMessageError if it is none."""
    response = _parsed(data_channel_pb2.DataResponse, raw)
    if response.WhichOneof("part") is None:
        raise DataMessageError("the answer has nothing in it")
    return response


def trailer_in(raw: bytes) -> model_pb2.StreamTrailer:
    """The end of an upload. Raises DataMessageError if it is none."""
    return _parsed(model_pb2.StreamTrailer, raw)


def _parsed(kind: type[M], raw: bytes) -> M:
    try:
        return kind.FromString(raw)
    except DecodeError as error:
        raise DataMessageError(f"no {kind.DESCRIPTOR.name} can be read from it") from error
