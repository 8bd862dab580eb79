"""Chunks as encoded messages are what protobuf makes of them, both ways."""

from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from fednot.chunk_messages import (
    chunk_in,
    download_bytes,
    download_part,
    framed,
    upload_bytes,
    upload_part,
)
from fednot.v1 import federation_pb2, model_pb2

SIZES = [0, 1, 127, 128, 16383, 16384, 1 << 20, (1 << 21) + 5]


@pytest.mark.parametrize("size", SIZES)
def test_a_chunk_is_written_as_protobuf_writes_it(size: int) -> None:
    chunk = bytes(size)
    expected = federation_pb2.UploadUpdateRequest(chunk=chunk).SerializeToString()
    assert framed(memoryview(chunk)) == expected
    assert expected == federation_pb2.DownloadModelResponse(chunk=chunk).SerializeToString()


@pytest.mark.parametrize("size", SIZES)
def test_a_chunk_is_read_without_a_copy(size: int) -> None:
    raw = federation_pb2.UploadUpdateRequest(chunk=bytes(size)).SerializeToString()
    found = chunk_in(raw)
    assert found is not None
    assert (len(found), found.obj) == (size, raw)


@given(raw=st.binary(max_size=40))
def test_whatever_is_no_lone_chunk_is_left_to_protobuf(raw: bytes) -> None:
    found = chunk_in(raw)
    try:
        message = federation_pb2.UploadUpdateRequest.FromString(raw)
    except DecodeError:
        assert found is None
    else:
        assert found is None or found == message.chunk


def test_a_chunk_after_a_header_in_one_message_counts_as_protobuf_says() -> None:
    """The last field of a oneof wins, so these bytes are a chunk."""
    header = federation_pb2.UploadUpdateRequest(header=federation_pb2.UpdateHeader(work_id="w"))
    chunk = federation_pb2.UploadUpdateRequest(chunk=b"abc")
    raw = header.SerializeToString() + chunk.SerializeToString()
    assert chunk_in(raw) is None
    assert upload_part(raw) == b"abc"


def test_other_messages_come_through() -> None:
    trailer = model_pb2.StreamTrailer(xxh3_128="ab")
    upload = federation_pb2.UploadUpdateRequest(trailer=trailer)
    download = federation_pb2.DownloadModelResponse(trailer=trailer)
    assert upload_part(upload_bytes(upload)) == upload
    assert download_part(download_bytes(download)) == download


def test_what_is_encoded_already_is_sent_as_it_is() -> None:
    frame = framed(memoryview(b"abc"))
    assert upload_bytes(frame) is frame
    assert download_bytes(frame) is frame
    assert download_part(frame) == b"abc"
