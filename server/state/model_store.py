"""Model versions on disk: safetensors files, named by the sha256 of the flat model they hold."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection
from pathlib import Path

import torch

from fednot import model_file
from fednot.manifest import Manifest
from fednot.tensors import as_bytes


class ModelStoreError(RuntimeError):
    """A stored version that is missing or is not what its name says."""


def sha256_of(flat: torch.Tensor) -> str:
    """The sha256 of a flat model's bytes, in hexadecimal."""
    return hashlib.sha256(as_bytes(flat)).hexdigest()


class ModelStore:
    """A directory of model files."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def path(self, sha256: str) -> Path:
        """Where the file of a version is."""
        return self._directory / f"{sha256}.safetensors"

    def write(self, flat: torch.Tensor, manifest: Manifest, layers: str) -> str:
        """Stores a flat model durably and returns its sha256; the same model is stored once."""
        sha256 = sha256_of(flat)
        path = self.path(sha256)
        if not path.exists():
            temporary = path.with_suffix(".partial")
            with temporary.open("wb") as file:
                file.write(model_file.serialise(flat, manifest, layers=layers))
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(path)
            self._sync_directory()
        return sha256

    def read(self, sha256: str, manifest: Manifest) -> torch.Tensor:
        """Reads a flat model back. Raises ModelStoreError if it is missing or was changed."""
        try:
            flat, _, _ = model_file.read(self.path(sha256))
        except model_file.ModelFileError as error:
            raise ModelStoreError(str(error)) from error
        if flat.numel() != manifest.nbytes or sha256_of(flat) != sha256:
            raise ModelStoreError(f"{self.path(sha256)} does not hold what its name says")
        return flat

    def delete_all_but(self, kept: Collection[str]) -> int:
        """Deletes every file but those of the named sha256, and returns how many there were.

        Raises OSError if one could not be deleted, after all others were.
        """
        names = {self.path(sha256).name for sha256 in kept}
        doomed = [path for path in self._directory.iterdir() if path.name not in names]
        failure: OSError | None = None
        for path in doomed:
            try:
                path.unlink()
            except OSError as error:
                failure = error
        if doomed:
            self._sync_directory()
        if failure is not None:
            raise failure
        return len(doomed)

    def _sync_directory(self) -> None:
        descriptor = os.open(self._directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
