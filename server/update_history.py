"""The updates that the server keeps, if it is told to, for methods that need the history.

Each is a file of the decoded update in a store of its own, named by content. A file is written as
the update comes, its row in the transaction that makes the round's version; what no row names is
swept at the start and before the next round that keeps some.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from functools import partial

import torch
from sqlalchemy import Connection

from fednot.manifest import Manifest
from server.methods.method import PastRound, PastUpdate
from server.records import KeptUpdate, StoredUpdates
from server.state import kept_update_rows, version_rows
from server.state.commits import Commit
from server.state.database import Database
from server.state.model_store import ModelStore

log = logging.getLogger("server.update_history")


class UpdateHistory:
    """Keeps the updates of every `interval`-th round of a lineage; 0 keeps none."""

    def __init__(
        self, database: Database, store: ModelStore | None = None, interval: int = 0
    ) -> None:
        """Raises ValueError if updates are to be kept and there is no store for them."""
        if interval and store is None:
            raise ValueError("updates can only be kept in a store")
        self.interval = interval
        self._database = database
        self._store = store

    async def open(self) -> None:
        """Drops the rows of rounds whose files are gone, as after a loss, and sweeps."""
        present: frozenset[str] = frozenset()
        if self._store is not None:
            present = await asyncio.to_thread(self._store.hashes)
        if await self._database.read(kept_update_rows.hashes) - present:
            missed = await self._database.write(
                Commit.UPDATES_MISSED, lambda c: kept_update_rows.forget_missing(c, present)
            )
            log.warning("%d kept updates are gone; methods that need them will be refused", missed)
        await self.sweep()

    async def keeps(self, base_version: int) -> bool:
        """Whether the updates to a version are kept, which it sweeps for.

        None are where no method could use them, since what came before is not kept.
        """
        if not self.interval:
            return False

        def is_due(connection: Connection) -> bool:
            trained = version_rows.rounds_trained(connection, base_version)
            due = trained % self.interval == 0
            return due and kept_update_rows.may_go_on(connection, base_version)

        if not await self._database.read(is_due):
            return False
        await self.sweep()
        return True

    def keep(
        self,
        flat: torch.Tensor,
        *,
        base_version: int,
        client: str,
        num_examples: int,
        manifest: Manifest,
    ) -> KeptUpdate:
        """Writes the file of an update, uint8 of shape [nbytes], and gives its row; it blocks.

        Raises OSError if the disk has no room, ValueError if this server keeps none.
        """
        return KeptUpdate(
            base_version=base_version,
            client=client,
            sha256=self._opened().write(flat, manifest, ""),
            num_examples=num_examples,
            num_bytes=manifest.nbytes,
            stride=max(1, self.interval),
        )

    async def rounds_of(self, version: int, manifest: Manifest) -> Sequence[PastRound]:
        """The kept rounds that made a version, oldest first; none if they do not tell how."""
        found = await self._database.read(lambda c: kept_update_rows.of_line(c, version))
        return [past_round(updates, self._opened(), manifest) for updates in found or ()]

    def is_complete(self, connection: Connection, version: int) -> bool:
        """Whether the kept updates tell how a version was made."""
        if self._store is None:
            return False
        return kept_update_rows.of_line(connection, version) is not None

    async def stored(self) -> StoredUpdates:
        """How much is kept now."""
        return await self._database.read(kept_update_rows.stored)

    async def sweep(self) -> None:
        """Deletes the files that no row names. Nothing may be kept meanwhile."""
        if self._store is not None:
            kept = await self._database.read(kept_update_rows.hashes)
            await asyncio.to_thread(self._store.delete_all_but, kept)

    def _opened(self) -> ModelStore:
        if self._store is None:
            raise ValueError("this server keeps no updates")
        return self._store


def past_round(updates: Sequence[KeptUpdate], store: ModelStore, manifest: Manifest) -> PastRound:
    """A kept round whose updates are read when they are asked for."""

    def read(sha256: str) -> torch.Tensor:
        return store.read(sha256, manifest).tensor

    past = [
        PastUpdate(each.client, each.num_examples, partial(read, each.sha256)) for each in updates
    ]
    return PastRound(past, updates[0].stride)
