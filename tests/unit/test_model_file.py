"""Model files are safetensors: any model comes back bit for bit, by us and by the library."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save
from support.manifests import manifests, random_flat

from fednot import model_file
from fednot.manifest import Manifest, TensorKind, TensorSpec
from fednot.model_file import PIECE, ModelFileError
from fednot.tensors import views

LARGE = Manifest(
    (
        TensorSpec("a", "I8", (2 * PIECE + 3,), TensorKind.PARAMETER, "", 0),
        TensorSpec("b", "F64", (2,), TensorKind.PARAMETER, "", 2 * PIECE + 8),
    )
)


@settings(deadline=None)
@given(manifest=manifests(), seed=st.integers(0, 9))
def test_any_model_comes_back_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, manifest: Manifest, seed: int
) -> None:
    flat = random_flat(manifest, seed)
    path = tmp_path_factory.getbasetemp() / "model.safetensors"
    path.write_bytes(model_file.serialise(flat, manifest, layers='{"a":1}'))
    again, found, layers = model_file.read(path)
    assert (found, layers) == (manifest, '{"a":1}')
    assert torch.equal(again, flat)


@settings(deadline=None)
@given(manifest=manifests(), seed=st.integers(0, 9))
def test_the_library_reads_the_same_tensors(manifest: Manifest, seed: int) -> None:
    flat = random_flat(manifest, seed)
    found = load(model_file.serialise(flat, manifest))
    expected = views(flat, manifest)
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert (tensor.dtype, tensor.shape) == (expected[name].dtype, expected[name].shape)
        assert bytes_of(tensor) == bytes_of(expected[name]), name


def bytes_of(tensor: torch.Tensor) -> list[int]:
    return tensor.contiguous().reshape(-1).view(torch.uint8).tolist()


@settings(deadline=None)
@given(manifest=manifests(), seed=st.integers(0, 9))
def test_what_the_library_wrote_is_read(
    tmp_path_factory: pytest.TempPathFactory, manifest: Manifest, seed: int
) -> None:
    """A model file of another tool, or of an older fednot, which had the library write it."""
    flat = random_flat(manifest, seed)
    path = tmp_path_factory.getbasetemp() / "theirs.safetensors"
    metadata = {model_file.MANIFEST_KEY: manifest.to_json()}
    path.write_bytes(save(views(flat, manifest), metadata))
    assert torch.equal(model_file.read(path)[0], flat)


def test_a_large_tensor_is_written_and_read_in_pieces(tmp_path: Path) -> None:
    """In ascending order; the file has the larger items of b first."""
    flat = random_flat(LARGE, 1)
    pieces = list(model_file.parts(flat, LARGE))
    assert [len(piece) for piece in pieces[1:]] == [16, PIECE, PIECE, 3]
    assert len(pieces[0]) % 8 == 0
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"".join(pieces))
    again = torch.zeros_like(flat)
    ends = list(model_file.fill(again, model_file.describe(path)))
    assert ends == [PIECE, 2 * PIECE, 2 * PIECE + 3, LARGE.nbytes]
    assert torch.equal(again, flat)


def test_a_flat_model_of_another_size_is_not_written() -> None:
    with pytest.raises(ValueError, match="the flat model has 8 bytes"):
        model_file.serialise(torch.zeros(8, dtype=torch.uint8), LARGE)


def test_a_file_that_is_cut_while_it_is_read_is_told(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(model_file.serialise(random_flat(LARGE, 1), LARGE))
    found = model_file.describe(path)
    path.write_bytes(path.read_bytes()[:-1])
    flat = torch.zeros(LARGE.nbytes, dtype=torch.uint8)
    with pytest.raises(ModelFileError, match="ends within a"):
        list(model_file.fill(flat, found))
    path.unlink()
    with pytest.raises(ModelFileError, match="cannot be read"):
        list(model_file.fill(flat, found))


def test_a_manifest_that_names_the_metadata_a_tensor_is_refused(tmp_path: Path) -> None:
    """The file's maker chooses both: the header's own entry must not pass for a tensor's."""
    spec = TensorSpec("__metadata__", "I8", (), TensorKind.PARAMETER, "", 0)
    metadata = {"dtype": "I8", "shape": "", model_file.MANIFEST_KEY: Manifest((spec,)).to_json()}
    header = json.dumps({"__metadata__": metadata}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ModelFileError, match="lacks the tensor __metadata__"):
        model_file.read(path)
