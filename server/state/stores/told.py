"""A store that tells of what it could not do."""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch

from fednot.manifest import Manifest
from fednot.model_file import Source
from server.blocks import Block, Memory
from server.disk_faults import telling
from server.state.model_store import ModelStore


class ToldStore(ModelStore):
    """Another store; `failed` is called with "read", "write" or "delete" for each OSError."""

    def __init__(self, store: ModelStore, failed: Callable[[str], object]) -> None:
        self._store = store
        self._failed = failed
        self.place = store.place

    def write(self, flat: torch.Tensor | Block, manifest: Manifest, layers: str) -> str:
        """As the store's."""
        with telling(self._failed, "write"):
            return self._store.write(flat, manifest, layers)

    def open(self, sha256: str) -> Source:
        """As the store's."""
        with telling(self._failed, "read"):
            return self._store.open(sha256)

    def hashes(self) -> frozenset[str]:
        """As the store's."""
        with telling(self._failed, "read"):
            return self._store.hashes()

    def delete_all_but(self, kept: Collection[str]) -> int:
        """As the store's."""
        with telling(self._failed, "delete"):
            return self._store.delete_all_but(kept)

    def read(self, sha256: str, manifest: Manifest, memory: Memory | None = None) -> Block:
        """As the store's."""
        with telling(self._failed, "read"):
            return self._store.read(sha256, manifest, memory)

    def verify(self, sha256: str) -> None:
        """As the store's."""
        with telling(self._failed, "read"):
            self._store.verify(sha256)
