"""Where model versions are kept: safetensors files, named by the sha256 of the flat model."""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import Final

import torch

from fednot import model_file
from fednot.manifest import Manifest
from fednot.model_file import PIECE, ModelFileError, Source
from fednot.tensors import as_bytes
from server.blocks import Block, Memory, Trail

SUFFIX: Final = ".safetensors"
_NAME: Final = re.compile(r"(?P<sha256>[0-9a-f]{64})\.safetensors")


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


def name_of(sha256: str) -> str:
    """The name of a version's file or object."""
    return f"{sha256}{SUFFIX}"


def hash_in(name: str) -> str | None:
    """The sha256 in the name of a version's file or object; None for any other name."""
    found = _NAME.fullmatch(name)
    return found["sha256"] if found else None


class ModelStore(ABC):
    """The versions of one server, which nobody else writes or deletes.

    What a store cannot do just now, for want of room or of a network, is an OSError: it may be
    tried again. ModelStoreError is for what is stored and will stay wrong.
    """

    place: str
    """Where the versions are, for people to read."""

    @abstractmethod
    def write(self, flat: torch.Tensor | Block, manifest: Manifest, layers: str) -> str:
        """Stores a flat model durably and returns its sha256; the same model is stored once.

        It is there as a whole or not at all. Raises OSError if it cannot be stored.
        """

    @abstractmethod
    def open(self, sha256: str) -> Source:
        """A version's model file, to be read piece by piece and closed.

        Raises ModelStoreError if there is none, OSError if the store cannot tell.
        """

    @abstractmethod
    def hashes(self) -> frozenset[str]:
        """The sha256 of all versions that are there, whether anything names them or not."""

    @abstractmethod
    def delete_all_but(self, kept: Collection[str]) -> int:
        """Deletes every version but those of the named sha256, and what a crash left half written.

        Returns how many files or objects there were. What has a name that the store never gives is
        left alone. Raises OSError if one could not be deleted, after all others were.
        """

    def read(self, sha256: str, manifest: Manifest, memory: Memory | None = None) -> Block:
        """Reads a flat model back into a block of `memory`, else of any.

        Raises ModelStoreError if it is missing or was changed, OSError if there is no room for it
        or it cannot be reached.
        """
        try:
            with self.open(sha256) as source:
                return _read(source, sha256, manifest, memory or Memory())
        except ModelFileError as error:
            raise ModelStoreError(str(error)) from error

    def verify(self, sha256: str) -> None:
        """Reads a version to its end, in little memory; raises as `read` does."""
        digest = hashlib.sha256()
        try:
            with self.open(sha256) as source:
                for piece in model_file.flat_bytes(model_file.describe(source), source):
                    digest.update(piece)
        except ModelFileError as error:
            raise ModelStoreError(str(error)) from error
        if digest.hexdigest() != sha256:
            raise _changed(source)


def _read(source: Source, sha256: str, manifest: Manifest, memory: Memory) -> Block:
    found = model_file.describe(source)
    if found.manifest.nbytes != manifest.nbytes:
        raise _changed(source)
    block = memory.block(manifest.nbytes)
    trail, digest, hashed = Trail(block), hashlib.sha256(), 0
    content = as_bytes(block.tensor)
    for filled in model_file.fill(block.tensor, found, source):
        digest.update(content[hashed:filled])
        trail.passed(filled - hashed)
        hashed = filled
    digest.update(content[hashed:])
    trail.end()
    if digest.hexdigest() != sha256:
        raise _changed(source)
    return block


def _changed(source: Source) -> ModelStoreError:
    return ModelStoreError(f"{source.name} does not hold what its name says")
