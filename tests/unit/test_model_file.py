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
    with model_file.opened(path) as source:
        found = model_file.describe(source)
        ends = list(model_file.fill(again, found, source))
    assert ends == [PIECE, 2 * PIECE, 2 * PIECE + 3, LARGE.nbytes]
    assert torch.equal(again, flat)


def test_a_flat_model_of_another_size_is_not_written() -> None:
    with pytest.raises(ValueError, match="the flat model has 8 bytes"):
        model_file.serialise(torch.zeros(8, dtype=torch.uint8), LARGE)


def test_a_file_that_is_cut_while_it_is_read_is_told(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(model_file.serialise(random_flat(LARGE, 1), LARGE))
    flat = torch.zeros(LARGE.nbytes, dtype=torch.uint8)
    with model_file.opened(path) as source:
        found = model_file.describe(source)
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(ModelFileError, match="ends within a"):
            list(model_file.fill(flat, found, source))
        with pytest.raises(ModelFileError, match="ends within a"):
            list(model_file.flat_bytes(found, source))


@settings(deadline=None)
@given(manifest=manifests(), seed=st.integers(0, 9))
def test_a_files_size_and_its_flat_bytes_are_known_without_a_model_in_memory(
    tmp_path_factory: pytest.TempPathFactory, manifest: Manifest, seed: int
) -> None:
    """Padding too: what is hashed is what a version is named by."""
    flat = random_flat(manifest, seed)
    path = tmp_path_factory.getbasetemp() / "sized.safetensors"
    path.write_bytes(model_file.serialise(flat, manifest, layers="{}"))
    with model_file.opened(path) as source:
        assert source.size == model_file.size_of(manifest, layers="{}")
        found = model_file.describe(source)
        pieces = [bytes(piece) for piece in model_file.flat_bytes(found, source)]
    assert max(len(piece) for piece in pieces) <= PIECE
    assert b"".join(pieces) == flat.numpy().tobytes()


def with_header(header: object, content: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xff" * 8, "a header of 18446744073709551615 bytes does not fit"),
        ((1 << 30).to_bytes(8, "little") + b"{}", "a header of 1073741824 bytes"),
        (with_header([]), "no object"),
        (with_header({"a": 1}), "not a model file"),
        (with_header({"a": {"data_offsets": [0]}}), "not a model file"),
        (with_header({"a": {"data_offsets": ["0", "1"]}}), "not a model file"),
        (with_header({"a": {"data_offsets": [4, 8]}}, b"12345678"), "do not follow each other"),
        (with_header({"a": {"data_offsets": [0, -4]}}), "do not follow each other"),
        (with_header({"a": {"data_offsets": [0.0, 4.0]}}, b"1234"), "do not follow each other"),
        (with_header({"a": {"data_offsets": [0, 8]}}, b"1234"), "take 8 bytes and 4 are there"),
        (with_header({"a": {"data_offsets": [0, 4]}}, b"12345"), "take 4 bytes and 5 are there"),
        (with_header({"__metadata__": 3}), "not a model file"),
        (b"\x08" + b"\0" * 7 + b"[[[[[[[[", "not a model file"),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=said):
        model_file.read(path)


def test_a_manifest_that_names_the_metadata_a_tensor_is_refused(tmp_path: Path) -> None:
    """The file's maker chooses both: the header's own entry must not pass for a tensor's."""
    spec = TensorSpec("__metadata__", "I8", (), TensorKind.PARAMETER, "", 0)
    metadata = {"dtype": "I8", "shape": "", model_file.MANIFEST_KEY: Manifest((spec,)).to_json()}
    header = json.dumps({"__metadata__": metadata}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ModelFileError, match="lacks the tensor __metadata__"):
        model_file.read(path)
