"""The model store: durable, named by content, and nothing is read back that was changed."""

from __future__ import annotations

import errno
import hashlib
import os
import resource
import stat
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from support.manifests import manifest_of, random_flat

from fednot.manifest import Manifest, TensorKind, TensorSpec
from fednot.tensors import as_bytes
from server.blocks import Memory
from server.state.model_store import ModelStore, ModelStoreError, sha256_of

MANIFEST = Manifest(
    (
        TensorSpec("w", "F32", (3,), TensorKind.PARAMETER, "Linear", 0),
        TensorSpec("steps", "I64", (), TensorKind.BUFFER, "", 16),
    )
)
LARGE = manifest_of(a=("F32", (9 << 18,)), b=("I8", (3,)))


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "state" / "versions")


def model(first: float = 1.0) -> torch.Tensor:
    flat = torch.zeros(MANIFEST.nbytes, dtype=torch.uint8)
    flat[:4] = torch.tensor([first], dtype=torch.float32).view(torch.uint8)
    return flat


def files(store: ModelStore) -> list[str]:
    return sorted(path.name for path in store.path("x").parent.iterdir())


def test_a_model_comes_back_bit_for_bit(store: ModelStore) -> None:
    sha256 = store.write(model(), MANIFEST, "")
    assert torch.equal(store.read(sha256, MANIFEST).tensor, model())


def test_a_models_name_is_the_sha256_of_its_bytes(store: ModelStore) -> None:
    sha256 = store.write(model(), MANIFEST, "")
    assert sha256 == sha256_of(model()) == hashlib.sha256(as_bytes(model())).hexdigest()
    assert files(store) == [f"{sha256}.safetensors"]


def test_the_file_is_safetensors_with_manifest_and_layers(store: ModelStore) -> None:
    sha256 = store.write(model(2.5), MANIFEST, '{"layers": 1}')
    with safe_open(store.path(sha256), framework="pt") as file:
        assert file.get_tensor("w").tolist() == [2.5, 0, 0]
        metadata = file.metadata()
    assert Manifest.from_json(metadata["fednot.manifest"]) == MANIFEST
    assert metadata["fednot.layers"] == '{"layers": 1}'


def test_the_same_model_is_stored_once(store: ModelStore) -> None:
    sha256 = store.write(model(), MANIFEST, "")
    before = store.path(sha256).stat()
    assert store.write(model(), MANIFEST, "") == sha256
    after = store.path(sha256).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert len(files(store)) == 1


def test_two_models_are_two_files(store: ModelStore) -> None:
    assert store.write(model(1), MANIFEST, "") != store.write(model(-1), MANIFEST, "")
    assert len(files(store)) == 2


def test_only_the_owner_may_look_into_the_store(store: ModelStore) -> None:
    """A freshly negated model is as confidential as the old one."""
    assert stat.S_IMODE(store.path("x").parent.stat().st_mode) == 0o700


def test_a_file_is_on_disk_before_it_has_its_name_and_then_the_name_is(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First the bytes under another name, then the folder that holds the final name."""
    synced: list[tuple[str, list[str]]] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        kind = "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"
        synced.append((kind, files(store)))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    sha256 = store.write(model(), MANIFEST, "")
    assert [kind for kind, _ in synced] == ["file", "folder"]
    [partial] = synced[0][1]
    assert partial.endswith(".partial")
    assert synced[1][1] == [f"{sha256}.safetensors"]


def test_the_end_of_a_file_is_on_disk_too(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What Python still buffers would not be synced: the size at fsync is the size at the end."""
    sizes: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: sizes.append(os.fstat(descriptor).st_size))
    sha256 = store.write(model(), MANIFEST, "")
    assert sizes[0] == store.path(sha256).stat().st_size


def test_a_partial_file_of_a_crash_is_in_no_ones_way(store: ModelStore) -> None:
    sha256 = sha256_of(model())
    store.path(sha256).with_suffix(".partial").write_bytes(b"half")
    assert store.write(model(), MANIFEST, "") == sha256
    assert torch.equal(store.read(sha256, MANIFEST).tensor, model())
    assert files(store) == [f"{sha256}.partial", f"{sha256}.safetensors"]


def test_a_full_disk_leaves_nothing_behind(store: ModelStore) -> None:
    """A real limit on the size of files, as ENOSPC at the same places: 4 MiB and a bit of 9 MiB."""
    kept = store.write(model(), MANIFEST, "")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5 << 20, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            store.write(random_flat(LARGE, 1), LARGE, "")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert files(store) == [f"{kept}.safetensors"]


@pytest.mark.parametrize("at", ["fsync", "rename"])
def test_a_fault_at_the_end_leaves_nothing_behind(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    def fails(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(*((os, "fsync") if at == "fsync" else (Path, "replace")), fails)
    with pytest.raises(OSError, match="Input/output error"):
        store.write(model(), MANIFEST, "")
    assert files(store) == []


@pytest.mark.parametrize("budget", [None, 0])
def test_large_models_pass_in_pieces(store: ModelStore, tmp_path: Path, budget: int | None) -> None:
    """9 MiB, in memory and spilled: the same file, and the same bytes when it is read back."""
    memory = Memory(budget, tmp_path / "spill")
    flat = random_flat(LARGE, 3)
    block = memory.block(LARGE.nbytes)
    block.tensor.copy_(flat)
    sha256 = store.write(block, LARGE, "")
    assert sha256 == sha256_of(flat) == hashlib.sha256(as_bytes(flat)).hexdigest()
    again = store.read(sha256, LARGE, memory)
    assert again.spilled is (budget == 0)
    assert torch.equal(again.tensor, flat)
    assert load_file(store.path(sha256)).keys() == {"a", "b"}


def test_no_room_to_read_a_version_into_is_told(
    store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha256 = store.write(model(), MANIFEST, "")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        store.read(sha256, MANIFEST, Memory(0, tmp_path / "spill"))


def test_a_missing_file_is_named(store: ModelStore) -> None:
    with pytest.raises(ModelStoreError, match=r"abc\.safetensors is not a model file"):
        store.read("abc", MANIFEST)


@pytest.mark.parametrize("at", ["start", "middle", "end"])
def test_a_changed_bit_is_found(store: ModelStore, at: str) -> None:
    sha256 = store.write(model(), MANIFEST, "")
    content = bytearray(store.path(sha256).read_bytes())
    content[{"start": 0, "middle": len(content) - 20, "end": -1}[at]] ^= 1
    store.path(sha256).write_bytes(content)
    with pytest.raises(ModelStoreError):
        store.read(sha256, MANIFEST)


def test_a_truncated_or_empty_file_is_found(store: ModelStore) -> None:
    sha256 = store.write(model(), MANIFEST, "")
    content = store.path(sha256).read_bytes()
    for kept in (len(content) - 1, 8, 0):
        store.path(sha256).write_bytes(content[:kept])
        with pytest.raises(ModelStoreError):
            store.read(sha256, MANIFEST)


def test_a_whole_model_under_anothers_name_is_found(store: ModelStore) -> None:
    ours, other = store.write(model(1), MANIFEST, ""), store.write(model(2), MANIFEST, "")
    store.path(ours).write_bytes(store.path(other).read_bytes())
    with pytest.raises(ModelStoreError, match="does not hold what its name says"):
        store.read(ours, MANIFEST)


def test_all_but_the_named_are_deleted(store: ModelStore) -> None:
    kept, first, second = (store.write(model(n), MANIFEST, "") for n in (1, 2, 3))
    assert store.delete_all_but({kept}) == 2
    assert files(store) == [f"{kept}.safetensors"]
    assert first != second
    assert store.delete_all_but({kept}) == 0


def test_what_a_crash_left_half_written_is_deleted_too(store: ModelStore) -> None:
    """Its bytes may be those of a model from before a deletion."""
    kept = store.write(model(), MANIFEST, "")
    for sha256 in ("0" * 64, kept):
        store.path(sha256).with_suffix(".partial").write_bytes(b"half")
    assert store.delete_all_but({kept}) == 2
    assert files(store) == [f"{kept}.safetensors"]


def test_what_cannot_be_deleted_is_told_after_all_else_was_deleted(store: ModelStore) -> None:
    """A folder, which no unlink removes, whatever the rights of the test's user."""
    for number in (1, 2, 3):
        store.write(model(number), MANIFEST, "")
    stubborn = store.path("stubborn")
    stubborn.mkdir()
    with pytest.raises(OSError, match="stubborn"):
        store.delete_all_but(())
    assert files(store) == [stubborn.name]
