"""Payloads that no codec wrote: each is refused, or decodes to elements that are all in place."""

from __future__ import annotations

import struct

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fednot.codecs import NAMES, codec_of
from fednot.errors import FednotError, Reason
from fednot.manifest import Manifest, TensorKind, TensorSpec
from fednot.runs import PIECE_ELEMENTS
from fednot.tensors import empty

FRACTION = 0.002
"""Three places of 1025."""


def manifest() -> Manifest:
    """1025 elements that are coded, then 3 that are raw and have 4 bytes of padding."""
    weight = TensorSpec("weight", "F32", (1025,), TensorKind.PARAMETER, "", 0)
    return Manifest((weight, TensorSpec("bias", "F32", (3,), TensorKind.PARAMETER, "", 4104)))


def payload_of(name: str) -> bytearray:
    codec = codec_of(name, FRACTION)
    return bytearray(codec.encode(empty(manifest()), manifest()).numpy().tobytes())


def refusal(name: str, payload: bytearray) -> FednotError:
    codec = codec_of(name, FRACTION)
    flat = torch.frombuffer(payload, dtype=torch.uint8)
    with pytest.raises(FednotError) as caught:
        list(codec.pieces(flat, manifest()))
    with pytest.raises(FednotError):
        codec.decode(flat, manifest())
    return caught.value


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("change", [-8, 8])
def test_another_size_is_refused_at_once(name: str, change: int) -> None:
    size = len(payload_of(name))
    error = refusal(name, bytearray(size + change))
    assert error.reason is Reason.WRONG_SIZE
    assert error.message == f"the {name} payload has {size + change} bytes, not {size}"


@pytest.mark.parametrize(
    ("name", "offset", "tensor"),
    [
        ("none", 4100, "weight"),
        ("none", 4116, "bias"),
        ("bf16", 2050, "weight"),
        ("fp16", 2055, "weight"),
        ("int8", 4, "weight"),
        ("int8", 8 + 1025, "weight"),
        ("topk", 12, "weight"),
        ("topk", 31, "weight"),
        ("topk", 32 + 15, "bias"),
    ],
)
def test_padding_must_be_zero(name: str, offset: int, tensor: str) -> None:
    payload = payload_of(name)
    payload[offset] = 1
    error = refusal(name, payload)
    assert error.reason is Reason.INVALID_STREAM
    assert error.message == f"{tensor} has padding that is not zero"
    assert "fednot/codecs" in error.remedy


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), float("-inf")])
def test_a_scale_must_be_finite(scale: float) -> None:
    payload = payload_of("int8")
    payload[:4] = struct.pack("<f", scale)
    error = refusal("int8", payload)
    assert error.reason is Reason.NOT_FINITE
    assert error.message == f"the scale of weight is {scale}"


def test_a_scale_must_not_be_negative() -> None:
    payload = payload_of("int8")
    payload[:4] = struct.pack("<f", -0.5)
    error = refusal("int8", payload)
    assert error.reason is Reason.INVALID_STREAM
    assert error.message == "the scale of weight is -0.5, below 0"


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ((-1, 1, 2), "a place in weight is not in 0 to 1024"),
        ((0, 1, 1025), "a place in weight is not in 0 to 1024"),
        ((0, 1, 2**31 - 1), "a place in weight is not in 0 to 1024"),
        ((-(2**31), 1, 2), "a place in weight is not in 0 to 1024"),
        ((0, 2000, 5), "the places in weight do not ascend, or one stands twice"),
        ((0, -7, 5), "the places in weight do not ascend, or one stands twice"),
        ((3, 3, 5), "the places in weight do not ascend, or one stands twice"),
        ((3, 5, 5), "the places in weight do not ascend, or one stands twice"),
    ],
)
def test_places_must_ascend_within_the_tensor(places: tuple[int, ...], message: str) -> None:
    payload = payload_of("topk")
    payload[:12] = struct.pack("<iii", *places)
    error = refusal("topk", payload)
    assert error.reason is Reason.INVALID_STREAM
    assert error.message == message


def test_places_are_checked_across_the_pieces_that_they_are_checked_in() -> None:
    """300,000 places of 1,000,000 are checked in two goes; the pair at the border is in neither."""
    spec = TensorSpec("weight", "F32", (1_000_000,), TensorKind.PARAMETER, "", 0)
    codec = codec_of("topk", 0.3)
    payload = torch.zeros(codec.size(Manifest((spec,))), dtype=torch.uint8)
    places = payload[:1_200_000].view(torch.int32)
    torch.arange(300_000, out=places)
    assert (
        sum(piece.values.numel() for piece in codec.pieces(payload, Manifest((spec,)))) == 1_000_000
    )
    places[PIECE_ELEMENTS + 1 :] -= 1
    with pytest.raises(FednotError, match="do not ascend"):
        next(codec.pieces(payload, Manifest((spec,))))


@pytest.mark.parametrize(("name", "first"), [("none", 0), ("bf16", 0), ("fp16", 0), ("topk", 16)])
def test_values_that_are_not_finite_are_left_to_the_receiver(name: str, first: int) -> None:
    """All ones are a NaN in each float; the receiver checks sums of whole pieces."""
    payload = payload_of(name)
    payload[first : first + 4] = b"\xff" * 4
    flat = codec_of(name, FRACTION).decode(torch.frombuffer(payload, dtype=torch.uint8), manifest())
    assert flat.view(torch.float32)[0].isnan()


@given(st.sampled_from(NAMES), st.data())
def test_any_bytes_are_refused_or_stay_in_place(name: str, data: st.DataObject) -> None:
    """Bytes of the right size, a few of them arbitrary: each element comes once, or none does."""
    payload = payload_of(name)
    changes = st.dictionaries(st.integers(0, len(payload) - 1), st.integers(0, 255), max_size=6)
    for offset, byte in data.draw(changes).items():
        payload[offset] = byte
    codec = codec_of(name, FRACTION)
    ends = [0]
    try:
        for piece in codec.pieces(torch.frombuffer(payload, dtype=torch.uint8), manifest()):
            assert piece.byte_offset - ends[-1] in (0, 4)
            ends.append(piece.byte_offset + piece.values.numel() * 4)
    except FednotError as error:
        assert error.reason in (Reason.INVALID_STREAM, Reason.NOT_FINITE)  # noqa: PT017
    else:
        assert ends[-1] == manifest().nbytes
