"""Model versions on disk: safetensors files, named by the sha256 of the flat model they hold."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from fednot import model_file
from fednot.manifest import Manifest
from fednot.model_file import PIECE
from fednot.tensors import as_bytes
from server.blocks import Block, Memory, Trail
from server.state import durable, writeback


class ModelStoreError(RuntimeError):
    """A stored version that is missing or is not what its name says."""


def sha256_of(flat: torch.Tensor | Block) -> str:
    """The sha256 of a flat model's bytes, in hexadecimal."""
    block = flat if isinstance(flat, Block) else Block.of(flat)
    digest, trail = hashlib.sha256(), Trail(block)
    content = as_bytes(block.tensor)
    for start in range(0, block.nbytes, PIECE):
        digest.update(content[start : start + PIECE])
        trail.passed(PIECE)
    trail.end()
    return digest.hexdigest()


class ModelStore:
    """A directory of model files."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def path(self, sha256: str) -> Path:
        """Where the file of a version is."""
        return self._directory / f"{sha256}.safetensors"

    def write(self, flat: torch.Tensor | Block, manifest: Manifest, layers: str) -> str:
        """Stores a flat model durably and returns its sha256; the same model is stored once.

        Raises OSError if the disk has no room for it; then nothing of it is left.
        """
        block = flat if isinstance(flat, Block) else Block.of(flat)
        # The file has its name when it is written, for it is hashed in the meantime.
        temporary = self._directory / f"{secrets.token_hex(8)}.partial"
        try:
            with ThreadPoolExecutor(1) as hasher:
                hashed = hasher.submit(sha256_of, block)
                _write_synced(temporary, block, manifest, layers)
            sha256 = hashed.result()
            path = self.path(sha256)
            if not path.exists():
                durable.rename(temporary, path, "version")
                durable.sync_directory(self._directory, "versions")
        finally:
            temporary.unlink(missing_ok=True)
        return sha256

    def read(self, sha256: str, manifest: Manifest, memory: Memory | None = None) -> Block:
        """Reads a flat model back into a block of `memory`, else of any.

        Raises ModelStoreError if it is missing or was changed, OSError if there is no room for it.
        """
        try:
            found = model_file.describe(self.path(sha256))
            if found.manifest.nbytes != manifest.nbytes:
                raise self._changed(sha256)
            block = (memory or Memory()).block(manifest.nbytes)
            trail, digest, hashed = Trail(block), hashlib.sha256(), 0
            content = as_bytes(block.tensor)
            for filled in model_file.fill(block.tensor, found):
                digest.update(content[hashed:filled])
                trail.passed(filled - hashed)
                hashed = filled
        except model_file.ModelFileError as error:
            raise ModelStoreError(str(error)) from error
        digest.update(content[hashed:])
        trail.end()
        if digest.hexdigest() != sha256:
            raise self._changed(sha256)
        return block

    def _changed(self, sha256: str) -> ModelStoreError:
        return ModelStoreError(f"{self.path(sha256)} does not hold what its name says")

    def delete_all_but(self, kept: Collection[str]) -> int:
        """Deletes every file but those of the named sha256, and returns how many there were.

        Raises OSError if one could not be deleted, after all others were.
        """
        names = {self.path(sha256).name for sha256 in kept}
        doomed = [path for path in self._directory.iterdir() if path.name not in names]
        failure: OSError | None = None
        for path in doomed:
            try:
                durable.remove(path, "version")
            except OSError as error:
                failure = error
        if doomed:
            durable.sync_directory(self._directory, "swept-versions")
        if failure is not None:
            raise failure
        return len(doomed)


def _write_synced(path: Path, block: Block, manifest: Manifest, layers: str) -> None:
    trail = Trail(block)
    with path.open("wb") as file:
        descriptor, written = file.fileno(), 0
        if block.nbytes:
            os.posix_fallocate(descriptor, 0, block.nbytes)
        for part in model_file.parts(block.tensor, manifest, layers=layers):
            file.write(part)
            writeback.begin(descriptor, written, len(part))
            written += len(part)
            trail.passed(len(part))
        file.truncate(written)
        file.flush()
        durable.sync(descriptor, "version")
    trail.end()
