"""Model versions in a directory of the disk."""

from __future__ import annotations

import logging
import os
import re
import secrets
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import torch

from fednot import model_file
from fednot.manifest import Manifest
from fednot.model_file import Source
from server.blocks import Block, Trail
from server.state import durable, writeback
from server.state.model_store import (
    ModelStore,
    ModelStoreError,
    hash_in,
    name_of,
    sha256_of,
)

log = logging.getLogger("server.state.stores")

_PARTIAL: Final = re.compile(r"[0-9a-f]+\.partial")


class DirectoryStore(ModelStore):
    """A directory of model files."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._warned = False
        self.place = str(directory)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def path(self, sha256: str) -> Path:
        """Where the file of a version is."""
        return self._directory / name_of(sha256)

    def write(self, flat: torch.Tensor | Block, manifest: Manifest, layers: str) -> str:
        """Stores a version; after an error nothing of it is left."""
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

    def open(self, sha256: str) -> Source:
        """Opens a version's file, which can be read on even if it is deleted meanwhile."""
        path = self.path(sha256)
        try:
            return model_file.opened(path)
        except FileNotFoundError as error:
            raise ModelStoreError(f"{path} is missing") from error

    def hashes(self) -> frozenset[str]:
        """The versions in the directory."""
        found = (hash_in(path.name) for path in self._directory.iterdir())
        return frozenset(sha256 for sha256 in found if sha256)

    def delete_all_but(self, kept: Collection[str]) -> int:
        """Deletes versions and partial files."""
        doomed = self._doomed({name_of(sha256) for sha256 in kept})
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

    def _doomed(self, kept: Collection[str]) -> list[Path]:
        others = [path for path in self._directory.iterdir() if path.name not in kept]
        doomed = [path for path in others if hash_in(path.name) or _PARTIAL.fullmatch(path.name)]
        if len(doomed) < len(others) and not self._warned:
            self._warned = True
            log.warning("%s also holds files that are no versions; they stay", self.place)
        return doomed


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
