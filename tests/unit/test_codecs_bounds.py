"""For any manifest and any values: sizes, coverage, and how much each codec may lose."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fednot.codecs import NAMES, Codec, codec_of
from fednot.codecs.topk import largest
from fednot.manifest import DTYPES, Manifest, TensorKind, TensorSpec
from fednot.runs import PIECE_ELEMENTS, runs
from fednot.tensors import UNAVERAGED, empty, views

FRACTIONS = (0.001, 0.01, 0.3, 1.0)
LARGEST = {"bf16": torch.finfo(torch.bfloat16).max, "fp16": 65504.0}


@dataclass
class Case:
    manifest: Manifest
    update: torch.Tensor


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Up to 5 tensors around the size from which on they are coded, of any values."""
    specs, offset = [], 0
    for index in range(draw(st.integers(0, 5))):
        dtype = draw(st.sampled_from(sorted(DTYPES)))
        numel = draw(st.sampled_from((0, 1, 3, 1023, 1024, 1025, 1030, 3000)))
        kind = draw(st.sampled_from(TensorKind))
        specs.append(TensorSpec(f"t{index}", dtype, (numel,), kind, "", offset))
        offset += -(-specs[-1].nbytes // 8) * 8
    manifest = Manifest(tuple(specs))
    update = empty(manifest)
    for view in views(update, manifest).values():
        if view.dtype in UNAVERAGED or not view.numel():
            continue
        some = torch.tensor(draw(values_of(view.dtype)), dtype=view.dtype)
        view.copy_(some.repeat(-(-view.numel() // len(some)))[: view.numel()])
    return Case(manifest, update)


def values_of(dtype: torch.dtype) -> st.SearchStrategy[list[float]]:
    if not dtype.is_floating_point:
        return st.lists(st.integers(-128, 127), min_size=1, max_size=9)
    width = 16 if dtype is torch.float16 else 32
    limit = 3e38 if width == 32 else None
    within = {"min_value": -limit, "max_value": limit} if limit else {}
    floats = st.floats(width=width, allow_nan=False, allow_infinity=False, **rounded(within))
    return st.lists(floats, min_size=1, max_size=9)


def rounded(limits: dict[str, float]) -> dict[str, float]:
    return {key: float(torch.tensor(value)) for key, value in limits.items()}


codecs = st.builds(codec_of, st.sampled_from(NAMES), st.sampled_from(FRACTIONS))


def gathered(codec: Codec, case: Case) -> dict[str, torch.Tensor]:
    """All pieces in float64, by tensor; checks that they lie end to end in the averaged runs."""
    payload = codec.encode(case.update, case.manifest)
    assert payload.numel() == codec.size(case.manifest)
    wide = {
        spec.name: torch.full((spec.numel,), torch.nan, dtype=torch.float64)
        for spec in case.manifest
    }
    end = 0
    for piece in codec.pieces(payload, case.manifest):
        (run,) = (
            run
            for run in runs(case.manifest)
            if run.byte_offset <= piece.byte_offset < run.byte_offset + run.nbytes
        )
        assert run.averaged
        assert piece.values.dtype in (run.torch_dtype, torch.float32)
        assert 0 < piece.values.numel() <= PIECE_ELEMENTS
        assert end <= piece.byte_offset
        width = run.torch_dtype.itemsize
        end = piece.byte_offset + piece.values.numel() * width
        assert end <= run.byte_offset + run.nbytes
        for spec in case.manifest:
            first = (spec.byte_offset - piece.byte_offset) // width
            start, stop = max(first, 0), min(first + spec.numel, piece.values.numel())
            if spec.dtype == run.dtype and start < stop:
                wide[spec.name][start - first : stop - first] = piece.values[start:stop].double()
    return wide


def allowed(codec: Codec, sent: torch.Tensor) -> torch.Tensor:
    """The largest error of each element.

    Half a step of bf16 is 2^-8 of the number, or 2^-134 below the normal ones; of fp16 2^-11 or
    2^-25. int8: half a scale, the division and the product being off by 2^-24 of up to 127 each;
    below the smallest scale, all of it.
    """
    if codec.name == "bf16":
        return sent.abs() * 2**-8 + 2.0**-134
    if codec.name == "fp16":
        return sent.abs() * 2**-11 + 2.0**-25
    scale = (sent.abs().max() / 127).float().double()
    half = scale / 2 * (1 + 2**-14)
    return torch.full_like(sent, max(float(half), 127 * 2.0**-126 if scale < 2**-125 else 0.0))


@given(cases(), codecs)
def test_every_codec_keeps_its_bound(case: Case, codec: Codec) -> None:
    came = gathered(codec, case)
    for name, view in views(case.update, case.manifest).items():
        spec, sent, got = case.manifest[name], view.double(), came[name]
        if view.dtype in UNAVERAGED:
            assert got.isnan().all()
        elif not codec.codes(spec):
            assert torch.equal(got, sent)
        elif codec.name == "topk":
            kept = got != 0
            assert torch.equal(got[kept], sent.float().double()[kept])
            assert int(kept.sum()) <= codec.section_size(spec.numel) // 8
            assert (
                sent[~kept].abs().max() <= sent[kept].abs().min() if kept.any() else not sent.any()
            )
        else:
            top = LARGEST.get(codec.name, torch.inf)
            sent = sent.clamp(-top, top)
            assert ((got - sent).abs() <= allowed(codec, sent)).all()


@given(cases(), codecs)
def test_decoding_is_the_pieces_in_the_models_dtypes(case: Case, codec: Codec) -> None:
    came = gathered(codec, case)
    flat = codec.decode(codec.encode(case.update, case.manifest), case.manifest)
    for name, view in views(flat, case.manifest).items():
        if view.dtype in UNAVERAGED:
            assert not view.any()
        else:
            assert torch.equal(view, came[name].to(view.dtype))


@given(cases(), codecs)
def test_sizes_do_not_depend_on_values(case: Case, codec: Codec) -> None:
    zeros = codec.encode(empty(case.manifest), case.manifest)
    assert zeros.numel() == codec.size(case.manifest) <= case.manifest.nbytes
    assert not codec.decode(zeros, case.manifest).any()


def by_sorting(values: torch.Tensor, count: int) -> torch.Tensor:
    """The places of the largest magnitudes, the lower places first among equals."""
    order = values.abs().sort(descending=True, stable=True).indices
    return order[:count].sort().values


SPEC = TensorSpec("t", "F32", (1,), TensorKind.PARAMETER, "", 0)


SOME = st.lists(st.sampled_from((0.0, 0.5, -0.5, 1.0, -2.0, 3.0)), min_size=40, max_size=300)


@given(SOME, st.data())
def test_the_largest_are_found_exactly_from_a_small_sample(
    some: list[float], data: st.DataObject
) -> None:
    """Few different magnitudes make ties and zeros; a sample of 16 is often wrong."""
    values = torch.tensor(some)
    count = data.draw(st.integers(1, len(some)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fednot.codecs.topk.SAMPLE", 16)
        patch.setattr("fednot.codecs.topk.PIECE_ELEMENTS", 32)
        patch.setattr("fednot.codecs.codec.PIECE_ELEMENTS", 32)
        places, found = largest(values, count, SPEC)
    assert torch.equal(places, by_sorting(values, count))
    assert torch.equal(found, values[places])


def test_the_largest_of_a_sample_that_lies() -> None:
    """The sample takes every 3rd of 200,000 elements: here it sees only ones, then only zeros."""
    for seen, unseen in ((1.0, 0.0), (0.0, 1.0)):
        values = torch.full((200_000,), unseen)
        values[::3] = seen
        values[1::7] *= 2
        places, _ = largest(values, 1000, SPEC)
        assert torch.equal(places, by_sorting(values, 1000))


def test_the_largest_of_random_values() -> None:
    values = torch.randn(1 << 20, generator=torch.Generator().manual_seed(0))
    for count in (1, 100, 10_000, 400_000):
        assert torch.equal(largest(values, count, SPEC)[0], by_sorting(values, count))
