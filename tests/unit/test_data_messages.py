"""Framing of the data channel's messages: sizes, and what is no message."""

from __future__ import annotations

import pytest
from google.protobuf.message import Message

from fednot.data_messages import (
    MOST_BYTES,
    PREFIX_BYTES,
    DataMessageError,
    framed,
    request_in,
    response_in,
    size_in,
    trailer_in,
)
from fednot.v1 import data_channel_pb2, federation_pb2, model_pb2

REQUEST = data_channel_pb2.DataRequest(
    download=federation_pb2.DownloadModelRequest(work_id="w1", offset=7)
)
REFUSAL = data_channel_pb2.DataRefusal(status=b"why")


def test_a_message_travels_behind_its_size_in_big_endian() -> None:
    """field 1 (download): tag, length 6; in it work_id = 2 and offset = 3 of their own message."""
    raw = framed(REQUEST)
    assert raw[:PREFIX_BYTES] == len(REQUEST.SerializeToString()).to_bytes(4, "big")
    assert size_in(raw[:PREFIX_BYTES]) == len(raw) - PREFIX_BYTES
    assert request_in(raw[PREFIX_BYTES:]) == REQUEST


def test_a_message_may_be_as_large_as_the_limit_and_no_larger() -> None:
    fits = data_channel_pb2.DataRefusal(status=bytes(MOST_BYTES - 4))
    assert len(fits.SerializeToString()) == MOST_BYTES
    assert len(framed(fits)) == PREFIX_BYTES + MOST_BYTES
    with pytest.raises(ValueError, match="larger than"):
        framed(data_channel_pb2.DataRefusal(status=bytes(MOST_BYTES - 3)))


@pytest.mark.parametrize("size", [MOST_BYTES + 1, 1 << 31, 0xFFFFFFFF])
def test_a_size_that_no_message_has_is_refused(size: int) -> None:
    with pytest.raises(DataMessageError, match=str(size)):
        size_in(size.to_bytes(PREFIX_BYTES, "big"))


@pytest.mark.parametrize("size", [0, 1, MOST_BYTES])
def test_a_size_that_a_message_can_have_is_taken(size: int) -> None:
    assert size_in(size.to_bytes(PREFIX_BYTES, "big")) == size


@pytest.mark.parametrize("raw", [b"\xff" * 20, b"\x0a\x50abc"])
def test_garbage_is_no_message(raw: bytes) -> None:
    for read in (request_in, response_in, trailer_in):
        with pytest.raises(DataMessageError, match="can be read"):
            read(raw)


def test_an_empty_message_names_no_transfer() -> None:
    with pytest.raises(DataMessageError, match="no transfer"):
        request_in(b"")
    with pytest.raises(DataMessageError, match="nothing in it"):
        response_in(b"")


@pytest.mark.parametrize(
    "part",
    [
        {"header": model_pb2.ModelHeader(version=3)},
        {"trailer": model_pb2.StreamTrailer(xxh3_128="ab")},
        {"grant": data_channel_pb2.UploadGrant(offset=0)},
        {"counted": federation_pb2.UploadUpdateResponse(round=2)},
        {"refusal": REFUSAL},
    ],
)
def test_every_answer_is_read_back(part: dict[str, Message]) -> None:
    response = data_channel_pb2.DataResponse(**part)  # type: ignore[arg-type]
    found = response_in(framed(response)[PREFIX_BYTES:])
    assert (found, found.WhichOneof("part")) == (response, next(iter(part)))


def test_a_trailer_is_read_back() -> None:
    trailer = model_pb2.StreamTrailer(xxh3_128="0123")
    assert trailer_in(framed(trailer)[PREFIX_BYTES:]) == trailer
