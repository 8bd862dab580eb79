"""The directory of model versions: what is on the disk when, and what faults of a disk leave."""

from __future__ import annotations

import errno
import os
import resource
import stat
from pathlib import Path

import pytest
import torch
from support.manifests import manifest_of, random_flat

from fednot.manifest import Manifest, TensorKind, TensorSpec
from server.state.database import StateError
from server.state.stores import open_store
from server.state.stores.directory import DirectoryStore

MANIFEST = Manifest(
    (
        TensorSpec("w", "F32", (3,), TensorKind.PARAMETER, "Linear", 0),
        TensorSpec("steps", "I64", (), TensorKind.BUFFER, "", 16),
    )
)
LARGE = manifest_of(a=("F32", (9 << 18,)), b=("I8", (3,)))


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path / "state" / "versions")


def model(first: float = 1.0) -> torch.Tensor:
    flat = torch.zeros(MANIFEST.nbytes, dtype=torch.uint8)
    flat[:4] = torch.tensor([first], dtype=torch.float32).view(torch.uint8)
    return flat


def files(store: DirectoryStore) -> list[str]:
    return sorted(path.name for path in store.path("x").parent.iterdir())


def test_only_the_owner_may_look_into_the_store(store: DirectoryStore) -> None:
    """A freshly negated model is as confidential as the old one."""
    assert stat.S_IMODE(store.path("x").parent.stat().st_mode) == 0o700


def test_a_file_is_on_disk_before_it_has_its_name_and_then_the_name_is(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
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
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What Python still buffers would not be synced: the size at fsync is the size at the end."""
    sizes: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: sizes.append(os.fstat(descriptor).st_size))
    sha256 = store.write(model(), MANIFEST, "")
    assert sizes[0] == store.path(sha256).stat().st_size


def test_a_full_disk_leaves_nothing_behind(store: DirectoryStore) -> None:
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
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    def fails(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(*((os, "fsync") if at == "fsync" else (Path, "replace")), fails)
    with pytest.raises(OSError, match="Input/output error"):
        store.write(model(), MANIFEST, "")
    assert files(store) == []


def test_what_cannot_be_deleted_is_told_after_all_else_was_deleted(store: DirectoryStore) -> None:
    """A folder, which no unlink removes, whatever the rights of the test's user."""
    for number in (1, 2, 3):
        store.write(model(number), MANIFEST, "")
    stubborn = store.path("f" * 64)
    stubborn.mkdir()
    with pytest.raises(OSError, match="ffff"):
        store.delete_all_but(())
    assert files(store) == [stubborn.name]


def test_a_place_that_is_no_directory_is_told(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(StateError, match=f"versions cannot be kept in {file}"):
        open_store(file)
