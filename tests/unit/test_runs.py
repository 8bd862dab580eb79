"""Runs: their places by hand, and that they lie end to end for any manifest."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fednot.manifest import DTYPES, Manifest, TensorKind, TensorSpec
from fednot.runs import PIECE_ELEMENTS, Run, runs, tensor_at
from fednot.tensors import empty, views


def manifest_of(*tensors: tuple[str, int]) -> Manifest:
    specs, offset = [], 0
    for index, (dtype, numel) in enumerate(tensors):
        spec = TensorSpec(f"t{index}", dtype, (numel,), TensorKind.PARAMETER, "", offset)
        specs.append(spec)
        offset = -(-(offset + spec.nbytes) // 8) * 8
    return Manifest(tuple(specs))


def places(manifest: Manifest) -> list[tuple[str, int, int]]:
    return [(run.dtype, run.byte_offset, run.nbytes) for run in runs(manifest)]


manifests = st.lists(st.tuples(st.sampled_from(sorted(DTYPES)), st.integers(0, 20))).map(
    lambda tensors: manifest_of(*tensors)
)


def test_a_piece_is_one_mebibyte_of_float32() -> None:
    assert PIECE_ELEMENTS * torch.float32.itemsize == 1 << 20


def test_consecutive_tensors_of_one_dtype_are_one_run() -> None:
    """F32 of 3 elements takes 12 bytes and 4 of padding, F32 of 2 takes 8: one run of 24 bytes.

    I8 of 1 takes 1 byte and 7 of padding; F32 of 1 takes 4 and 4.
    """
    manifest = manifest_of(("F32", 3), ("F32", 2), ("I8", 1), ("F32", 1))
    assert places(manifest) == [("F32", 0, 24), ("I8", 24, 8), ("F32", 32, 8)]
    assert runs(manifest)[0] == Run("F32", torch.float32, 0, 24)


def test_tensors_without_elements_end_no_run() -> None:
    manifest = manifest_of(("I64", 0), ("F32", 2), ("F64", 0), ("F32", 2), ("I8", 0))
    assert places(manifest) == [("F32", 0, 16)]
    assert places(manifest_of()) == places(manifest_of(("F32", 0))) == []


def test_a_view_is_in_place_and_counts_padding() -> None:
    """3 elements, one of padding, then 2, which are at 4 and 5 of the run's 6."""
    manifest = manifest_of(("I64", 1), ("F32", 3), ("F32", 2))
    flat = empty(manifest)
    views(flat, manifest)["t2"].fill_(7)
    run = runs(manifest)[1]
    assert run.numel == 6
    assert run.view(flat).tolist() == [0, 0, 0, 0, 7, 7]
    run.view(flat)[0] = 5
    assert views(flat, manifest)["t1"].tolist() == [5, 0, 0]


def test_bool_and_uint8_are_not_averaged() -> None:
    averaged = {run.dtype: run.averaged for run in runs(manifest_of(*((d, 1) for d in DTYPES)))}
    assert [dtype for dtype, is_so in averaged.items() if not is_so] == ["U8", "BOOL"]


@given(manifests)
def test_runs_lie_end_to_end(manifest: Manifest) -> None:
    found = runs(manifest)
    assert sum(run.nbytes for run in found) == manifest.nbytes
    for run, following in pairwise(found):
        assert run.byte_offset + run.nbytes == following.byte_offset
        assert run.dtype != following.dtype
    for run in found:
        assert run.byte_offset % 8 == run.nbytes % 8 == 0
        assert run.view(empty(manifest)).numel() == run.numel > 0


@given(manifests)
def test_every_byte_has_a_tensor(manifest: Manifest) -> None:
    for offset in range(manifest.nbytes):
        spec = manifest[tensor_at(manifest, offset)]
        assert spec.numel
        assert spec.byte_offset <= offset < -(-(spec.byte_offset + spec.nbytes) // 8) * 8


@pytest.mark.parametrize("offset", [-1, 8])
def test_a_byte_outside_the_model_has_none(offset: int) -> None:
    with pytest.raises(ValueError, match=f"byte {offset} is not in a flat model of 8 bytes"):
        tensor_at(manifest_of(("F32", 1), ("F32", 0)), offset)
