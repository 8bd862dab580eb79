"""What every store of model versions promises: a directory, and a bucket that speaks S3."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
from abc import ABC, abstractmethod
from pathlib import Path
from tempfile import NamedTemporaryFile

import pytest
import torch
from safetensors import safe_open
from support.manifests import manifest_of, random_flat
from support.s3 import BucketAsSeen, S3Server

from fednot.manifest import Manifest, TensorKind, TensorSpec
from fednot.tensors import as_bytes
from server.blocks import Memory
from server.state.model_store import ModelStore, ModelStoreError, name_of, sha256_of
from server.state.stores import open_store

MANIFEST = Manifest(
    (
        TensorSpec("w", "F32", (3,), TensorKind.PARAMETER, "Linear", 0),
        TensorSpec("steps", "I64", (), TensorKind.BUFFER, "", 16),
    )
)
LARGE = manifest_of(a=("F32", (9 << 19,)), b=("I8", (3,)), c=("F64", (3 << 19,)))
"""30 MiB, in the file c before a before b: several parts of an upload, several windows of it."""
ABSENT = "0" * 64


class Place(ABC):
    """What is behind a store, by other means than the store."""

    store: ModelStore

    @abstractmethod
    def names(self) -> list[str]: ...

    @abstractmethod
    def content(self, name: str) -> bytes: ...

    @abstractmethod
    def put(self, name: str, content: bytes) -> None: ...

    @abstractmethod
    def identity(self, name: str) -> object:
        """What changes when a file or an object is written anew."""

    @abstractmethod
    def leave_half_written(self, sha256: str) -> None:
        """What a server leaves that is killed while it writes."""

    @abstractmethod
    def half_written(self) -> int: ...


class Folder(Place):
    def __init__(self, folder: Path) -> None:
        self.store = open_store(folder)
        self.folder = folder

    def names(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())

    def content(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def put(self, name: str, content: bytes) -> None:
        (self.folder / name).write_bytes(content)

    def identity(self, name: str) -> object:
        found = (self.folder / name).stat()
        return found.st_ino, found.st_mtime_ns

    def leave_half_written(self, sha256: str) -> None:
        self.put(f"{sha256[:16]}.partial", b"half")

    def half_written(self) -> int:
        return len([name for name in self.names() if name.endswith(".partial")])


class S3(Place):
    def __init__(self, bucket: BucketAsSeen) -> None:
        self.store = open_store(f"s3://{bucket.name}/of/one/")
        self.bucket = bucket

    def names(self) -> list[str]:
        return [key.removeprefix("of/one/") for key in self.bucket.names()]

    def content(self, name: str) -> bytes:
        return self.bucket.call("get_object", Key=f"of/one/{name}")["Body"].read()

    def put(self, name: str, content: bytes) -> None:
        self.bucket.call("put_object", Key=f"of/one/{name}", Body=content)

    def identity(self, name: str) -> object:
        found = self.bucket.call("head_object", Key=f"of/one/{name}")
        return found["LastModified"], found["ETag"]

    def leave_half_written(self, sha256: str) -> None:
        self.bucket.begin_upload(f"of/one/{name_of(sha256)}")

    def half_written(self) -> int:
        return len(self.bucket.uploads())


@pytest.fixture(params=["directory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "directory":
        return Folder(tmp_path / "state" / "versions")
    server: S3Server = request.getfixturevalue("s3_variables")
    return S3(server.new_bucket())


def model(first: float = 1.0) -> torch.Tensor:
    flat = torch.zeros(MANIFEST.nbytes, dtype=torch.uint8)
    flat[:4] = torch.tensor([first], dtype=torch.float32).view(torch.uint8)
    return flat


class TestModelStore:
    def test_a_model_comes_back_bit_for_bit(self, place: Place) -> None:
        sha256 = place.store.write(model(), MANIFEST, "")
        assert torch.equal(place.store.read(sha256, MANIFEST).tensor, model())

    def test_a_models_name_is_the_sha256_of_its_bytes(self, place: Place) -> None:
        sha256 = place.store.write(model(), MANIFEST, "")
        assert sha256 == sha256_of(model()) == hashlib.sha256(as_bytes(model())).hexdigest()
        assert place.names() == [f"{sha256}.safetensors"]
        assert place.store.hashes() == {sha256}
        assert place.half_written() == 0

    def test_what_is_kept_is_safetensors_with_manifest_and_layers(self, place: Place) -> None:
        sha256 = place.store.write(model(2.5), MANIFEST, '{"layers": 1}')
        with NamedTemporaryFile() as copy:
            copy.write(place.content(name_of(sha256)))
            copy.flush()
            with safe_open(copy.name, framework="pt") as file:
                assert file.get_tensor("w").tolist() == [2.5, 0, 0]
                metadata = file.metadata()
        assert Manifest.from_json(metadata["fednot.manifest"]) == MANIFEST
        assert metadata["fednot.layers"] == '{"layers": 1}'

    def test_the_same_model_is_stored_once(self, place: Place) -> None:
        sha256 = place.store.write(model(), MANIFEST, "")
        before = place.identity(name_of(sha256))
        assert place.store.write(model(), MANIFEST, "") == sha256
        assert place.identity(name_of(sha256)) == before
        assert len(place.names()) == 1

    def test_two_models_are_two(self, place: Place) -> None:
        first, second = (place.store.write(model(n), MANIFEST, "") for n in (1, -1))
        assert first != second
        assert place.store.hashes() == {first, second}

    @pytest.mark.parametrize("budget", [None, 0])
    def test_large_models_pass_in_pieces(
        self, place: Place, tmp_path: Path, budget: int | None
    ) -> None:
        """In memory and spilled: the same file, and the same bytes when it is read back."""
        memory = Memory(budget, tmp_path / "spill")
        flat = random_flat(LARGE, 3)
        block = memory.block(LARGE.nbytes)
        block.tensor.copy_(flat)
        sha256 = place.store.write(block, LARGE, "")
        assert sha256 == sha256_of(flat) == hashlib.sha256(as_bytes(flat)).hexdigest()
        again = place.store.read(sha256, LARGE, memory)
        assert again.spilled is (budget == 0)
        assert torch.equal(again.tensor, flat)
        place.store.verify(sha256)

    def test_a_file_is_read_piece_by_piece_at_any_place(self, place: Place) -> None:
        sha256 = place.store.write(random_flat(LARGE, 1), LARGE, "")
        content = place.content(name_of(sha256))
        with place.store.open(sha256) as source:
            assert source.size == len(content)
            assert source.name.endswith(f"/{sha256}.safetensors")
            read = [source.file.read(1 << 20)]
            while read[-1]:
                read.append(source.file.read(1 << 20))
            assert b"".join(read) == content
            for start in (len(content) - 5, 3, 20 << 20, 0):
                source.file.seek(start)
                assert source.file.read(9) == content[start : start + 9]
        assert source.file.closed

    def test_no_room_to_read_a_version_into_is_told(
        self, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sha256 = place.store.write(model(), MANIFEST, "")

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "posix_fallocate", full)
        with pytest.raises(OSError, match="No space left"):
            place.store.read(sha256, MANIFEST, Memory(0, tmp_path / "spill"))

    def test_a_missing_version_is_named(self, place: Place) -> None:
        for read in (place.store.open, place.store.verify):
            with pytest.raises(ModelStoreError, match=r"/0{64}\.safetensors is missing"):
                read(ABSENT)
        with pytest.raises(ModelStoreError, match="is missing"):
            place.store.read(ABSENT, MANIFEST)

    @pytest.mark.parametrize("at", ["start", "middle", "end"])
    def test_a_changed_bit_is_found(self, place: Place, at: str) -> None:
        sha256 = place.store.write(model(), MANIFEST, "")
        content = bytearray(place.content(name_of(sha256)))
        content[{"start": 0, "middle": len(content) - 20, "end": -1}[at]] ^= 1
        self._refused(place, sha256, bytes(content))

    def test_what_is_truncated_or_empty_is_found(self, place: Place) -> None:
        sha256 = place.store.write(model(), MANIFEST, "")
        content = place.content(name_of(sha256))
        for kept in (len(content) - 1, 8, 0):
            self._refused(place, sha256, content[:kept])

    def test_a_whole_model_under_anothers_name_is_found(self, place: Place) -> None:
        ours, other = (place.store.write(model(n), MANIFEST, "") for n in (1, 2))
        self._refused(place, ours, place.content(name_of(other)), "does not hold what its name")

    def test_a_model_of_another_size_is_found_before_memory_is_taken(self, place: Place) -> None:
        sha256 = place.store.write(random_flat(LARGE, 1), LARGE, "")
        memory = Memory()
        with pytest.raises(ModelStoreError, match="does not hold what its name"):
            place.store.read(sha256, MANIFEST, memory)
        assert memory.in_use == 0

    def test_all_but_the_named_are_deleted(self, place: Place) -> None:
        kept, first, second = (place.store.write(model(n), MANIFEST, "") for n in (1, 2, 3))
        assert first != second
        assert place.store.delete_all_but({kept}) == 2
        assert place.names() == [name_of(kept)]
        assert place.store.delete_all_but({kept}) == 0
        assert place.store.delete_all_but(()) == 1
        assert place.store.hashes() == frozenset()

    def test_what_was_written_after_a_sweep_is_deleted_by_the_next(self, place: Place) -> None:
        assert place.store.delete_all_but(()) == 0
        place.store.write(model(), MANIFEST, "")
        assert place.store.delete_all_but(()) == 1

    def test_what_a_crash_left_half_written_is_in_no_ones_way_and_deleted(
        self, place: Place
    ) -> None:
        """Its bytes may be those of a model from before a deletion."""
        sha256 = sha256_of(model())
        place.leave_half_written(sha256)
        place.leave_half_written(ABSENT)
        assert place.store.write(model(), MANIFEST, "") == sha256
        assert torch.equal(place.store.read(sha256, MANIFEST).tensor, model())
        assert place.half_written() == 2
        assert place.store.delete_all_but({sha256}) == 2
        assert place.half_written() == 0
        assert place.store.hashes() == {sha256}

    def test_what_the_store_did_not_name_is_left_alone(
        self, place: Place, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A path or prefix that people choose may hold something of theirs."""
        others = ["model.safetensors", "notes.txt", f"{ABSENT}.safetensors.bak", f"x{ABSENT}"]
        for name in others:
            place.put(name, b"mine")
        place.store.write(model(), MANIFEST, "")
        with caplog.at_level(logging.WARNING):
            assert place.store.delete_all_but(()) == 1
            assert place.store.delete_all_but({ABSENT}) == 0
        assert place.names() == sorted(others)
        assert len([row for row in caplog.messages if "they stay" in row]) == 1

    def _refused(self, place: Place, sha256: str, content: bytes, said: str = ".") -> None:
        place.put(name_of(sha256), content)
        with pytest.raises(ModelStoreError, match=said):
            place.store.read(sha256, MANIFEST)
        with pytest.raises(ModelStoreError, match=said):
            place.store.verify(sha256)
