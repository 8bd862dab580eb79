"""The manifest, flat models and model files: layout, round trips, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save
from torch import nn

from fednot import model_file, tensors
from fednot.manifest import ALIGNMENT, DTYPES, Manifest, ManifestError, TensorKind, TensorSpec
from fednot.model_file import ModelFileError


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    """Any list of small tensors, laid out by hand: each at the next multiple of 8."""
    names = draw(st.lists(st.text(min_size=1, max_size=8), unique=True, max_size=6))
    specs, offset = [], 0
    for name in names:
        spec = TensorSpec(
            name=name,
            dtype=draw(st.sampled_from(sorted(DTYPES))),
            shape=tuple(draw(st.lists(st.integers(0, 3), max_size=3))),
            kind=draw(st.sampled_from(list(TensorKind))),
            module_type=draw(st.text(max_size=5)),
            byte_offset=offset,
            aliases=tuple(draw(st.lists(st.text(min_size=1, max_size=5), max_size=2))),
        )
        specs.append(spec)
        offset += -(-spec.nbytes // 8) * 8
    return Manifest(tuple(specs))


class Odd(nn.Module):
    """A parameter, a scalar, an empty, an integer and a boolean buffer, and a tied weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = nn.Linear(3, 3, bias=False)
        self.second.weight = self.first.weight
        self.scale = nn.Parameter(torch.tensor(2.0, dtype=torch.bfloat16))
        self.register_buffer("empty", torch.zeros(0, 4))
        self.register_buffer("steps", torch.tensor([1, 2, 3]))
        self.register_buffer("mask", torch.tensor([True, False, True]))
        self.register_buffer("passing", torch.zeros(2), persistent=False)


@given(manifests())
def test_json_round_trip(manifest: Manifest) -> None:
    again = Manifest.from_json(manifest.to_json())
    assert again == manifest
    assert again.digest == manifest.digest
    assert manifest.differences(again) == []


@given(manifests())
def test_layout_is_aligned_and_without_overlap(manifest: Manifest) -> None:
    end = 0
    for spec in manifest:
        assert spec.byte_offset % ALIGNMENT == 0
        assert 0 <= spec.byte_offset - end < ALIGNMENT
        end = spec.byte_offset + spec.nbytes
    assert manifest.nbytes % ALIGNMENT == 0
    assert 0 <= manifest.nbytes - end < ALIGNMENT


@given(manifests())
def test_views_write_through_and_flatten_gives_the_same(manifest: Manifest) -> None:
    flat = tensors.empty(manifest)
    for spec, view in zip(manifest, tensors.views(flat, manifest).values(), strict=True):
        assert view.dtype is spec.torch_dtype
        assert view.shape == spec.shape
        view.fill_(1)
    ones = {spec.name: torch.ones(spec.shape, dtype=spec.torch_dtype) for spec in manifest}
    assert torch.equal(tensors.flatten(ones, manifest), flat)


@given(manifest=manifests())
def test_model_file_round_trip(
    tmp_path_factory: pytest.TempPathFactory, manifest: Manifest
) -> None:
    flat = tensors.empty(manifest)
    for view in tensors.views(flat, manifest).values():
        view.copy_(torch.arange(view.numel()).view(view.shape))
    path = tmp_path_factory.getbasetemp() / "round_trip.safetensors"
    path.write_bytes(model_file.serialise(flat, manifest, layers='{"a":1}'))
    again, read, layers = model_file.read(path)
    assert torch.equal(again, flat)
    assert read == manifest
    assert layers == '{"a":1}'


def test_of_describes_every_kind_of_state() -> None:
    """Registration order with torch's own parameters first; 9 floats take 36 bytes, so 40."""
    specs = {spec.name: spec for spec in Manifest.of(Odd())}
    assert {name: (s.dtype, s.shape, s.kind.value, s.byte_offset) for name, s in specs.items()} == {
        "scale": ("BF16", (), "parameter", 0),
        "empty": ("F32", (0, 4), "buffer", 8),
        "steps": ("I64", (3,), "buffer", 8),
        "mask": ("BOOL", (3,), "buffer", 32),
        "first.weight": ("F32", (3, 3), "parameter", 40),
        "first.bias": ("F32", (3,), "parameter", 80),
    }
    assert specs["first.weight"].aliases == ("second.weight",)
    assert specs["first.weight"].module_type == "Linear"
    assert specs["scale"].module_type == "Odd"


def test_module_round_trip_keeps_ties_and_values() -> None:
    source, target = Odd(), Odd()
    with torch.no_grad():
        source.scale.fill_(5)
        source.steps.add_(7)
    manifest = Manifest.of(source)
    tensors.load_into(target, tensors.flatten_module(source, manifest), manifest)
    assert target.second.weight is target.first.weight
    for name, tensor in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], tensor)


def test_meta_tensors_are_not_taken_for_tied() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    assert len(tuple(Manifest.of(model))) == 4


def test_state_that_cannot_be_carried_is_refused() -> None:
    class Extra(nn.Linear):
        def get_extra_state(self) -> dict[str, int]:
            return {"a": 1}

    turned = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 3))
    turned[1].weight = nn.Parameter(turned[0].weight.data.T)
    with pytest.raises(ManifestError, match="not a tensor"):
        Manifest.of(Extra(2, 2))
    with pytest.raises(ManifestError, match="share memory"):
        Manifest.of(turned)
    with pytest.raises(ManifestError, match="complex64"):
        Manifest.of(nn.ParameterList([torch.zeros(1, dtype=torch.complex64)]))


def test_parameters_side_by_side_in_one_storage_are_no_overlap() -> None:
    block = torch.zeros(12)
    model = nn.ParameterList([block[:6].view(2, 3), block[6:].view(3, 2)])
    assert [spec.byte_offset for spec in Manifest.of(model)] == [0, 24]


@pytest.mark.parametrize(
    "text",
    [
        *("", "null", "3", "{", '{"a": 1}', "[1]", '["a"]', "[{}]"),
        *('[{"name": "a"}]', "[null]", "[[]]"),
    ],
)
def test_text_that_is_no_manifest_is_refused(text: str) -> None:
    with pytest.raises(ManifestError):
        Manifest.from_json(text)


@pytest.mark.parametrize(
    "change",
    [
        {"name": ""},
        {"dtype": "F8"},
        {"shape": [-1]},
        {"shape": ["x"]},
        {"shape": 3},
        {"kind": "other"},
        {"byte_offset": 8},
        {"byte_offset": float("inf")},
        {"aliases": None},
    ],
)
def test_row_that_describes_no_tensor_is_refused(change: dict[str, object]) -> None:
    row = json.loads(Manifest.of(nn.Linear(2, 2)).to_json())[0]
    Manifest.from_json(json.dumps([row]))
    with pytest.raises(ManifestError):
        Manifest.from_json(json.dumps([{**row, **change}]))


def test_name_that_stands_twice_is_refused() -> None:
    spec = TensorSpec("a", "F64", (1,), TensorKind.PARAMETER, "", 0)
    with pytest.raises(ManifestError, match="twice"):
        Manifest((spec, replace(spec, byte_offset=8)))


def test_differences_name_each_tensor() -> None:
    mine = Manifest.of(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, bias=False)))
    theirs = Manifest.of(nn.Sequential(nn.Linear(2, 3), nn.Identity(), nn.Linear(3, 2)))
    assert mine.differences(theirs) == [
        "0.bias is a parameter F32[3], not a parameter F32[2]",
        "0.weight is a parameter F32[3, 2], not a parameter F32[2, 2]",
        "1.weight is missing",
        "2.bias is unexpected",
        "2.weight is unexpected",
    ]


def test_digest_sees_order_but_not_module_types() -> None:
    one, two = (TensorSpec(n, "F64", (1,), TensorKind.PARAMETER, "A", 0) for n in "ab")
    plain = Manifest((one, replace(two, byte_offset=8)))
    swapped = Manifest((two, replace(one, byte_offset=8)))
    typed = Manifest((replace(one, module_type="B"), replace(two, byte_offset=8)))
    assert plain.digest == typed.digest
    assert plain.differences(swapped) == ["the tensors stand in another order"]


def test_flatten_does_not_spread_a_smaller_tensor() -> None:
    manifest = Manifest.of(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="weight has shape"):
        tensors.flatten({"weight": torch.zeros(1), "bias": torch.zeros(2)}, manifest)
    with pytest.raises(KeyError):
        tensors.flatten({"weight": torch.zeros(2, 2)}, manifest)
    with pytest.raises(ValueError, match="23 bytes, not 24"):
        tensors.views(torch.zeros(23, dtype=torch.uint8), manifest)


def test_difference_leaves_booleans_and_padding_zero() -> None:
    """Trained minus given: steps rise by 7, the mask flips but booleans have no difference."""
    model = Odd()
    manifest = Manifest.of(model)
    given_flat = tensors.flatten_module(model, manifest)
    with torch.no_grad():
        model.first.weight.add_(0.5)
        model.steps.add_(7)
        model.mask.logical_not_()
    update = tensors.difference(tensors.flatten_module(model, manifest), given_flat, manifest)
    found = tensors.views(update, manifest)
    torch.testing.assert_close(found["first.weight"], torch.full((3, 3), 0.5))
    assert found["steps"].tolist() == [7, 7, 7]
    assert not found["mask"].any()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_first_tensor_that_is_not_finite(bad: float) -> None:
    model = Odd()
    manifest = Manifest.of(model)
    flat = tensors.flatten_module(model, manifest)
    assert tensors.first_not_finite(flat, manifest) is None
    tensors.views(flat, manifest)["first.bias"][1] = bad
    assert tensors.first_not_finite(flat, manifest) == "first.bias"


def test_bytes_are_the_flat_model_itself() -> None:
    manifest = Manifest.of(Odd())
    flat = tensors.flatten_module(Odd(), manifest)
    seen = tensors.as_bytes(flat)
    flat[0] = 77
    assert (len(seen), seen[0]) == (manifest.nbytes, 77)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is not a model file"),
        (b"\x80\x02}q\x00.", "is not a model file"),
        (save({"a": torch.zeros(1)}), "no manifest"),
        (save({"a": torch.zeros(1)}, {"fednot.manifest": "[1]"}), "is not a model file"),
    ],
)
def test_file_that_is_no_model_file(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=said):
        model_file.read(path)


def test_file_that_does_not_fit_its_manifest(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    metadata = {model_file.MANIFEST_KEY: Manifest.of(nn.Linear(2, 2)).to_json()}
    for held, said in (
        ({"weight": torch.zeros(2, 2)}, "lacks the tensor bias"),
        ({"weight": torch.zeros(2, 2), "bias": torch.zeros(1)}, "bias is not as"),
        ({"weight": torch.zeros(2, 2).half(), "bias": torch.zeros(2)}, "weight is not as"),
    ):
        path.write_bytes(save(held, metadata))
        with pytest.raises(ModelFileError, match=said):
            model_file.read(path)
    with pytest.raises(ModelFileError):
        model_file.read(tmp_path / "none.safetensors")
