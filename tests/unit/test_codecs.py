"""Codecs: layouts, sizes and round trips, by numbers that are derived by hand."""

from __future__ import annotations

import struct

import pytest
import torch

from fednot.codecs import NAMES, Codec, codec_of
from fednot.manifest import Manifest, TensorKind, TensorSpec
from fednot.runs import PIECE_ELEMENTS
from fednot.tensors import as_bytes, empty, views


def manifest_of(*tensors: tuple[str, int], kind: TensorKind = TensorKind.PARAMETER) -> Manifest:
    specs, offset = [], 0
    for index, (dtype, numel) in enumerate(tensors):
        specs.append(TensorSpec(f"t{index}", dtype, (numel,), kind, "", offset))
        offset += -(-specs[-1].nbytes // 8) * 8
    return Manifest(tuple(specs))


def update_of(manifest: Manifest, values: list[float]) -> torch.Tensor:
    """An update whose first tensor starts with these values; all else is zero."""
    update = empty(manifest)
    views(update, manifest)["t0"][: len(values)] = torch.tensor(values, dtype=torch.float64)
    return update


def coded(name: str, values: list[float], numel: int = 1024, **options: float) -> bytes:
    manifest = manifest_of(("F32", numel))
    return bytes(as_bytes(codec_of(name, **options).encode(update_of(manifest, values), manifest)))


def returned(codec: Codec, values: list[float], dtype: str = "F32") -> list[float]:
    manifest = manifest_of((dtype, 1024))
    payload = codec.encode(update_of(manifest, values), manifest)
    return codec.decode(payload, manifest).view(manifest["t0"].torch_dtype)[: len(values)].tolist()


MIXED = Manifest(
    (
        TensorSpec("small", "F32", (1, 1000), TensorKind.PARAMETER, "", 0),
        TensorSpec("weight", "F32", (5, 205), TensorKind.PARAMETER, "", 4000),
        TensorSpec("mean", "F32", (2000,), TensorKind.BUFFER, "", 8104),
        TensorSpec("count", "I64", (2000,), TensorKind.PARAMETER, "", 16104),
        TensorSpec("half", "F16", (2048,), TensorKind.PARAMETER, "", 32104),
        TensorSpec("brain", "BF16", (2048,), TensorKind.PARAMETER, "", 36200),
        TensorSpec("double", "F64", (1024,), TensorKind.PARAMETER, "", 40296),
        TensorSpec("mask", "BOOL", (5,), TensorKind.BUFFER, "", 48488),
    )
)
CODED = {
    "none": [],
    "bf16": ["weight", "double"],
    "fp16": ["weight", "double"],
    "int8": ["weight", "half", "brain", "double"],
    "topk": ["weight", "half", "brain", "double"],
}


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("none", 48496),
        # weight: 1025 * 2 = 2050 and 6 of padding instead of 4104; double: 2048 instead of 8192.
        ("bf16", 48496 - 4104 + 2056 - 8192 + 2048),
        ("fp16", 48496 - 4104 + 2056 - 8192 + 2048),
        # 8 and 1025 and 7 of padding; 8 and 2048 instead of 4096, twice; 8 and 1024.
        ("int8", 48496 - 4104 + 1040 - 2 * 4096 + 2 * 2056 - 8192 + 1032),
        # k = ceil(10.25) = 11: 48 for places and 48 for values; ceil(20.48) = 21: 88 and 88, twice;
        # ceil(10.24) = 11.
        ("topk", 48496 - 4104 + 96 - 2 * 4096 + 2 * 176 - 8192 + 96),
    ],
)
def test_sizes_and_what_is_coded(name: str, size: int) -> None:
    codec = codec_of(name)
    assert codec.name == name
    assert MIXED.nbytes == 48496
    assert codec.size(MIXED) == codec.encode(empty(MIXED), MIXED).numel() == size
    assert [spec.name for spec in MIXED if codec.codes(spec)] == CODED[name]


@pytest.mark.parametrize("name", NAMES)
def test_raw_tensors_travel_exactly(name: str) -> None:
    update = empty(MIXED)
    sent = views(update, MIXED)
    for index, view in enumerate(sent.values()):
        view.copy_(torch.arange(view.numel()).view(view.shape) % 89 - index)
    sent["mask"].zero_()
    codec = codec_of(name)
    came = views(codec.decode(codec.encode(update, MIXED), MIXED), MIXED)
    for key in sent.keys() - set(CODED[name]):
        assert torch.equal(came[key], sent[key]), key
        assert key == "mask" or sent[key].any()


def test_none_copies_nothing() -> None:
    """48496 bytes in runs of F32, I64, F16, BF16 and F64; BOOL is no piece."""
    update, codec = empty(MIXED), codec_of("none")
    assert codec.encode(update, MIXED).data_ptr() == update.data_ptr()
    pieces = list(codec.pieces(update, MIXED))
    assert [piece.byte_offset for piece in pieces] == [0, 16104, 32104, 36200, 40296]
    assert [piece.values.data_ptr() - update.data_ptr() for piece in pieces] == [
        piece.byte_offset for piece in pieces
    ]
    # 1000, 1025 and one of padding, 2000.
    assert pieces[0].values.numel() == 4026


def test_none_is_cut_into_pieces_of_a_mebibyte() -> None:
    manifest = manifest_of(("F32", PIECE_ELEMENTS), ("F32", 7))
    pieces = list(codec_of("none").pieces(empty(manifest), manifest))
    assert [(piece.byte_offset, piece.values.numel()) for piece in pieces] == [
        (0, 1 << 18),
        (1 << 20, 8),
    ]


def test_bf16_by_hand() -> None:
    """1 is 3f80. Steps at 1 are 2^-7: 2^-8 is a tie that goes to even 1, 3 * 2^-8 to 1 + 2^-6.

    The largest is 7f7f; -1e39 does not exist in float32, and -3.4e38 rounds to infinity but for the
    clamp.
    """
    values = [1.0, 1 + 2**-8, 1 + 3 * 2**-8, -3.4e38]
    payload = coded("bf16", values)
    assert len(payload) == 2048
    assert payload[:8].hex() == "803f803f823f7fff"
    assert not any(payload[8:])
    assert returned(codec_of("bf16"), values) == [1.0, 1.0, 1 + 2**-6, -(2**128 - 2**120)]


def test_fp16_by_hand() -> None:
    """1 is 3c00, 70000 becomes 65504 (7bff), 2^-24 is the smallest (0001) and 2^-26 is zero."""
    values = [1.0, 70000.0, 2.0**-24, 2.0**-26]
    assert coded("fp16", values)[:8].hex() == "003cff7b01000000"
    assert returned(codec_of("fp16"), values) == [1.0, 65504.0, 2.0**-24, 0.0]


def test_int8_by_hand() -> None:
    """The largest magnitude is 127, so the scale is 1, and 2.5 and 3.5 are ties that go to even."""
    values = [-127.0, 2.5, 3.5, -0.4, 126.6]
    payload = coded("int8", values, 1025)
    assert len(payload) == 8 + 1025 + 7
    assert payload[:8] == struct.pack("<fi", 1.0, 0)
    assert struct.unpack("5b", payload[8:13]) == (-127, 2, 4, 0, 127)
    assert not any(payload[13:])
    assert returned(codec_of("int8"), values) == [-127.0, 2.0, 4.0, 0.0, 127.0]


def test_int8_of_zeros_and_of_next_to_nothing_is_zeros() -> None:
    """2^-120 / 127 is below 2^-126, and 2^-119 / 127 is not."""
    assert not any(coded("int8", []))
    assert not any(coded("int8", [2.0**-120]))
    assert struct.unpack("<f", coded("int8", [2.0**-119])[:4])[0] > 0


def test_topk_by_hand() -> None:
    """ceil(0.002 * 1024) = ceil(2.048) = 3: of 1, 3, -4 and -2 all but the 1.

    Places take 12 bytes and 4 of padding, values as much.
    """
    values = [0.0] * 1024
    values[5], values[700], values[1023], values[7] = 1.0, 3.0, -4.0, -2.0
    payload = coded("topk", values, top_k_fraction=0.002)
    assert payload == struct.pack("<iii4xfff4x", 7, 700, 1023, -2.0, 3.0, -4.0)
    values[5] = 0.0
    assert returned(codec_of("topk", 0.002), values) == values


def test_topk_sends_zeros_at_low_places_if_nothing_else_is_left() -> None:
    payload = coded("topk", [0.0, 5.0], top_k_fraction=0.002)
    assert payload == struct.pack("<iii4xfff4x", 0, 1, 2, 0.0, 5.0, 0.0)


def test_topk_that_saves_nothing_is_raw() -> None:
    """At one half, 4 bytes for a place and 4 for a value are the 8 of two elements."""
    spec = manifest_of(("F32", 1024))["t0"]
    assert codec_of("topk", 0.49).codes(spec)
    assert not codec_of("topk", 0.5).codes(spec)


def test_topk_of_many_pieces() -> None:
    """600,000 elements are 3 pieces; kept ones stand at both sides of each border.

    ceil(0.9e-5 * 600,000) = ceil(5.4) = 6; 1e-5 would make it 7, as that product is just over 6.
    """
    manifest, kept = manifest_of(("F32", 600_000)), [0, 262143, 262144, 524287, 524288, 599999]
    update = empty(manifest)
    views(update, manifest)["t0"][kept] = torch.arange(1.0, 7.0)
    codec = codec_of("topk", 0.9e-5)
    payload = codec.encode(update, manifest)
    assert payload.numel() == 2 * 24
    assert torch.equal(codec.decode(payload, manifest), update)
    pieces = list(codec.pieces(payload, manifest))
    assert [piece.byte_offset for piece in pieces] == [0, 1 << 20, 2 << 20]
    assert len({piece.values.data_ptr() for piece in pieces}) == 1


def test_places_are_int64_where_int32_is_too_narrow() -> None:
    """2^31 elements have places up to 2^31 - 1; one more has not. k = 1, so 8 and 8 bytes."""
    codec = codec_of("topk", 1e-12)
    assert codec.section_size(1 << 31) == codec.section_size((1 << 31) + 1) == 16
    codec = codec_of("topk", 2**-29)
    # k = 4: 4 * 4 + 4 * 4, and 5: 5 * 8 + 20 and 4 of padding.
    assert codec.section_size(1 << 31) == 32
    assert codec.section_size((1 << 31) + 1) == 64


@pytest.mark.parametrize("name", ["bf16", "fp16", "int8", "topk"])
def test_float64_is_coded_by_way_of_float32(name: str) -> None:
    """1e300 becomes the largest number that the codec has; 127 steps of int8 come next to it."""
    largest = {"bf16": torch.finfo(torch.bfloat16).max, "fp16": 65504.0}
    top = largest.get(name, torch.finfo(torch.float32).max)
    came = returned(codec_of(name), [1e300, -1e300], "F64")
    assert came == pytest.approx([top, -top], rel=2**-22)
    assert all(map(torch.isfinite, torch.tensor(came)))


@pytest.mark.parametrize("name", ["bf16", "fp16", "int8", "topk"])
@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_not_encoded(name: str, wrong: float) -> None:
    with pytest.raises(ValueError, match="the update of t0 holds NaN or Inf"):
        coded(name, [wrong])


@pytest.mark.parametrize("name", NAMES)
def test_updates_of_another_size_are_not_encoded(name: str) -> None:
    with pytest.raises(ValueError, match="has 8 bytes, not 48496"):
        codec_of(name).encode(torch.zeros(8, dtype=torch.uint8), MIXED)


def test_named_tensors_may_be_wider_than_the_model() -> None:
    """Float32 of an F16 tensor is coded as it is: 1 + 2^-20 is kept by topk."""
    manifest, codec = manifest_of(("F16", 1024)), codec_of("topk", 0.0005)
    values = torch.zeros(1024)
    values[3] = 1 + 2**-20
    payload = codec.encode_tensors({"t0": values}, manifest)
    (piece,) = codec.pieces(payload, manifest)
    assert piece.values[3] == 1 + 2**-20
    with pytest.raises(ValueError, match="t0 has 1 elements, not 1024"):
        codec.encode_tensors({"t0": values[:1]}, manifest)


def test_unknown_names_and_fractions_are_refused() -> None:
    with pytest.raises(ValueError, match="no codec 'zip'; use one of none, bf16, fp16, int8, topk"):
        codec_of("zip")
    for fraction in (0.0, -0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="topk keeps a fraction above 0 and at most 1"):
            codec_of("topk", fraction)
    assert codec_of("topk", 1).size(MIXED) == MIXED.nbytes
    assert codec_of("topk", 0.02) == codec_of("topk", 0.02) != codec_of("topk")
    assert {name for name in NAMES if codec_of(name).feeds_back} == {"int8", "topk"}
