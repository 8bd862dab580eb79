"""Model bytes on the wire: chunks, checksum, putting them together, manifests as messages."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fednot.errors import FednotError, Reason
from fednot.manifest import DTYPES, Manifest, ManifestError, TensorKind, TensorSpec
from fednot.tensors import as_bytes
from fednot.v1 import model_pb2
from fednot.wire import (
    CHUNK_BYTES,
    Receiver,
    checksum,
    chunks,
    manifest_message,
    manifest_of,
)


def manifest_of_bytes(count: int) -> Manifest:
    return Manifest((TensorSpec("w", "U8", (count,), TensorKind.PARAMETER, "", 0),))


SMALL = manifest_of_bytes(16)
PAYLOAD = bytes(range(16))


def receiver_of(*parts: bytes, manifest: Manifest = SMALL) -> Receiver:
    receiver = Receiver(manifest)
    receiver.begin(manifest.nbytes, 0)
    for part in parts:
        receiver.add(part)
    return receiver


def test_chunks_are_one_mebibyte_and_the_last_one_shorter() -> None:
    """2.5 MiB is cut into 1, 1 and 0.5 MiB."""
    payload = bytes(5 << 19)
    assert [len(chunk) for chunk in chunks(memoryview(payload))] == [1 << 20, 1 << 20, 1 << 19]
    assert CHUNK_BYTES == 1 << 20


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1])
def test_chunks_put_together_are_the_payload(size: int) -> None:
    payload = torch.randint(256, (size,), dtype=torch.uint8).numpy().tobytes()
    found = list(chunks(memoryview(payload)))
    assert b"".join(found) == payload
    assert all(found)


def test_the_checksum_is_xxh3_128_with_seed_0() -> None:
    """The value that the reference implementation documents for the empty input."""
    assert checksum(memoryview(b"")) == "99aa06d3014798d86001c324468d497f"


def test_one_changed_bit_changes_the_checksum() -> None:
    changed = bytearray(PAYLOAD)
    changed[7] ^= 1
    assert checksum(memoryview(changed)) != checksum(memoryview(PAYLOAD))


@given(payload=st.binary(min_size=8, max_size=64), cuts=st.lists(st.integers(0, 64), max_size=5))
def test_however_a_payload_is_cut_the_receiver_puts_it_together(
    payload: bytes, cuts: list[int]
) -> None:
    payload = payload[: len(payload) // 8 * 8]
    ends = [0, *sorted(min(cut, len(payload)) for cut in cuts), len(payload)]
    parts = [payload[start:end] for start, end in pairwise(ends)]
    receiver = receiver_of(*parts, manifest=manifest_of_bytes(len(payload)))
    flat = receiver.finish(checksum(memoryview(payload)))
    assert (flat.dtype, bytes(as_bytes(flat))) == (torch.uint8, payload)


def test_a_model_without_tensors_travels_as_no_bytes() -> None:
    flat = receiver_of(manifest=Manifest(())).finish(checksum(memoryview(b"")))
    assert flat.numel() == 0


@pytest.mark.parametrize("announced", [0, 15, 17, 2**60])
def test_a_stream_that_announces_another_size_is_refused(announced: int) -> None:
    """2**60 bytes: were the buffer of the announced size, this would be out of memory."""
    with pytest.raises(
        FednotError, match=f"announces {announced} bytes; the model has 16"
    ) as refusal:
        Receiver(SMALL).begin(announced, 0)
    assert refusal.value.reason is Reason.WRONG_SIZE


@given(cut=st.integers(0, 16))
def test_a_stream_that_was_cut_goes_on_at_its_byte(cut: int) -> None:
    receiver = receiver_of(PAYLOAD[:cut])
    receiver.begin(16, cut)
    receiver.add(PAYLOAD[cut:] if cut else PAYLOAD)
    assert bytes(as_bytes(receiver.finish(checksum(memoryview(PAYLOAD))))) == PAYLOAD


@pytest.mark.parametrize("offset", [1, 4, 6, 16])
def test_a_stream_that_goes_on_elsewhere_is_refused(offset: int) -> None:
    receiver = receiver_of(PAYLOAD[:5])
    with pytest.raises(FednotError, match=f"begins at byte {offset}, not 5") as refusal:
        receiver.begin(16, offset)
    assert refusal.value.reason is Reason.INVALID_STREAM


def test_a_sender_may_begin_again() -> None:
    receiver = receiver_of(PAYLOAD[:5])
    receiver.begin(16, 0)
    receiver.add(PAYLOAD)
    receiver.finish(checksum(memoryview(PAYLOAD)))


def test_a_stream_with_a_wrong_checksum_begins_again() -> None:
    """Its bytes cannot be told from right ones, so none of them is kept."""
    receiver = receiver_of(PAYLOAD)
    with pytest.raises(FednotError):
        receiver.finish("0" * 32)
    assert receiver.filled == 0


def test_bytes_can_be_read_straight_into_their_place() -> None:
    receiver = receiver_of(PAYLOAD[:5])

    def read(into: memoryview) -> int:
        into[:3] = PAYLOAD[5:8]
        return 3

    assert receiver.read_from(read, 100) == 3
    assert receiver.filled == 8


@pytest.mark.parametrize("parts", [(PAYLOAD + b"x",), (PAYLOAD, b"x"), (PAYLOAD[:9], PAYLOAD[:8])])
def test_a_byte_too_many_is_refused(parts: tuple[bytes, ...]) -> None:
    with pytest.raises(FednotError, match="more than 16 bytes were sent") as refusal:
        receiver_of(*parts)
    assert refusal.value.reason is Reason.WRONG_SIZE


@pytest.mark.parametrize("parts", [(), (PAYLOAD[:15],), (b"", b"")])
def test_a_byte_too_few_is_refused(parts: tuple[bytes, ...]) -> None:
    sent = sum(map(len, parts))
    with pytest.raises(FednotError, match=f"{sent} of 16 bytes were sent") as refusal:
        receiver_of(*parts).finish(checksum(memoryview(b"".join(parts))))
    assert refusal.value.reason is Reason.WRONG_SIZE


@pytest.mark.parametrize("expected", ["", "0" * 32, checksum(memoryview(PAYLOAD)).upper()])
def test_a_wrong_checksum_is_refused(expected: str) -> None:
    with pytest.raises(FednotError, match="the bytes have xxh3-128") as refusal:
        receiver_of(PAYLOAD).finish(expected)
    assert refusal.value.reason is Reason.WRONG_CHECKSUM


def test_chunks_in_another_order_have_a_wrong_checksum() -> None:
    with pytest.raises(FednotError, match="xxh3-128"):
        receiver_of(PAYLOAD[8:], PAYLOAD[:8]).finish(checksum(memoryview(PAYLOAD)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", TensorKind)
def test_a_manifest_is_the_same_after_a_round_trip(dtype: str, kind: TensorKind) -> None:
    manifest = Manifest(
        (
            TensorSpec("scalar", "F32", (), TensorKind.PARAMETER, "", 0),
            TensorSpec("w", dtype, (2, 0, 3), kind, "Conv2d", 8, ("tied", "again")),
            TensorSpec("é", dtype, (1,), kind, "", 8),
        )
    )
    raw = manifest_message(manifest).SerializeToString()
    found = manifest_of(model_pb2.Manifest.FromString(raw))
    assert found == manifest
    assert found.digest == manifest.digest


def test_a_kind_that_is_not_set_is_a_key_error() -> None:
    message = manifest_message(SMALL)
    message.tensors[0].ClearField("kind")
    with pytest.raises(KeyError):
        manifest_of(message)


def test_a_message_that_is_no_manifest_is_refused() -> None:
    message = manifest_message(SMALL)
    message.tensors[0].byte_offset = 8
    with pytest.raises(ManifestError, match="starts at byte 8, not 0"):
        manifest_of(message)


def test_every_kind_of_tensor_has_its_value_in_the_protocol() -> None:
    values = set(model_pb2.TensorKind.values()) - {model_pb2.TENSOR_KIND_UNSPECIFIED}
    found = set()
    for kind in TensorKind:
        spec = TensorSpec("w", "F32", (), kind, "", 0)
        found.add(manifest_message(Manifest((spec,))).tensors[0].kind)
    assert found == values
