"""The only writer of the global model: a version's bytes and its row become current together."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from sqlalchemy import Connection, select, update

from fednot.errors import FednotError, Reason
from fednot.layer_map import LayerMap
from fednot.manifest import Manifest
from fednot.model_file import Source
from server.blocks import Block, Memory
from server.records import Scores, Version, VersionOrigin
from server.state import schema, version_rows
from server.state.commits import Commit
from server.state.database import CommitUnknownError, Database, StateError
from server.state.model_store import ModelStore

log = logging.getLogger("server.global_model")

Step = Callable[[Connection, Version], None]


@dataclass(frozen=True)
class Draft:
    """A version that is about to be committed."""

    flat: torch.Tensor | Block
    origin: VersionOrigin
    parent: int
    generation: int
    lineage: int
    round: int = 0
    negated_tensors: tuple[str, ...] = ()
    metrics: Scores = field(default_factory=dict)

    @property
    def block(self) -> Block:
        """The flat model as a block."""
        return self.flat if isinstance(self.flat, Block) else Block.of(self.flat)


@dataclass(frozen=True)
class InitialModel:
    """What a federation starts from, if its state is new; `trace` finds its layers."""

    flat: torch.Tensor
    manifest: Manifest
    trace: Callable[[], LayerMap]


class GlobalModel:
    """The current version with its bytes in a block, and the older ones in the store.

    A block that is replaced is not closed: a plan or a download of the round before may read it on,
    and its memory is free when the last of them is gone.
    """

    def __init__(
        self,
        database: Database,
        store: ModelStore,
        manifest: Manifest,
        layers: LayerMap,
        current: tuple[Version, Block],
        memory: Memory | None = None,
    ) -> None:
        self._database = database
        self._store = store
        self._memory = memory
        self.manifest = manifest
        self.layers = layers
        self.current, self.block = current
        self._files = asyncio.Lock()
        self._unsettled: tuple[Draft, str] | None = None

    @property
    def flat(self) -> torch.Tensor:
        """The current version's flat model."""
        return self.block.tensor

    @classmethod
    async def open(
        cls,
        database: Database,
        store: ModelStore,
        initial: InitialModel,
        memory: Memory | None = None,
    ) -> GlobalModel:
        """Continues from the state, or begins with the initial model if the state is new.

        The model is in a block of `memory`, if given, and versions are read into such. Raises
        StateError if the state belongs to another model, OSError if the disk has no room.
        """
        row = await database.read(lambda c: c.execute(select(schema.federation)).one())
        if not row.current_version:
            return await cls._begin(database, store, initial, memory)
        found = Manifest.from_json(row.manifest)
        differences = initial.manifest.differences(found)
        if differences:
            raise StateError(
                "the state belongs to another model than the Task or file given: "
                + "; ".join(differences[:5])
                + ". Serve it by the Task that made it, or begin anew with another state directory."
            )
        version, _ = await database.read(version_rows.current_and_released)
        if version is None:
            raise StateError("the state names a current version that it does not hold")
        block = store.read(version.sha256, found, memory)
        layers = LayerMap.from_json(row.layers)
        return cls(database, store, found, layers, (version, block), memory)

    @classmethod
    async def _begin(
        cls,
        database: Database,
        store: ModelStore,
        initial: InitialModel,
        memory: Memory | None,
    ) -> GlobalModel:
        draft = Draft(initial.flat, VersionOrigin.INITIAL, parent=0, generation=0, lineage=1)
        layers = initial.trace()
        sha256 = store.write(initial.flat, initial.manifest, layers.to_json())

        def command(connection: Connection) -> Version:
            values = {"manifest": initial.manifest.to_json(), "layers": layers.to_json()}
            connection.execute(update(schema.federation).values(**values))
            version = _version(draft, 1, sha256)
            version_rows.insert_version(connection, version)
            return version

        version = await database.write(Commit.INITIAL_VERSION, command)
        block = draft.block
        if memory is not None:
            block = memory.block(initial.manifest.nbytes)
            block.tensor.copy_(initial.flat)
            block.release()
        return cls(database, store, initial.manifest, layers, (version, block), memory)

    async def commit(self, commit: Commit, draft: Draft, step: Step) -> Version:
        """Makes a new version current; `step` writes what belongs to it in the same transaction.

        If `step` raises, nothing is committed and the exception is passed on. A commit whose answer
        was lost has its version adopted if it is found; else CommitUnknownError is raised, and
        nothing may be committed before `catch_up` has returned.
        """
        async with self._files:
            await self._adopted()
            return await self._commit(commit, draft, step)

    async def _commit(self, commit: Commit, draft: Draft, step: Step) -> Version:
        layers = self.layers.to_json()
        sha256 = await asyncio.to_thread(self._store.write, draft.flat, self.manifest, layers)

        def command(connection: Connection) -> Version:
            version = _version(draft, version_rows.next_number(connection), sha256)
            version_rows.insert_version(connection, version)
            step(connection, version)
            return version

        try:
            version = await self._database.write(commit, command)
        except CommitUnknownError:
            self._unsettled = draft, sha256
            if not await self._adopted():
                raise
            return self.current
        self.current, self.block = version, draft.block
        return version

    async def catch_up(self) -> None:
        """Finds out whether a version became current by a commit whose answer was lost.

        Raises StateUnavailableError as long as the state cannot be read.
        """
        async with self._files:
            await self._adopted()

    async def _adopted(self) -> bool:
        if self._unsettled is None:
            return False
        draft, sha256 = self._unsettled
        found, _ = await self._database.read(version_rows.current_and_released)
        self._unsettled = None
        if found is None or found.number == self.current.number:
            return False
        if (found.sha256, found.parent, found.round) != (sha256, draft.parent, draft.round):
            raise StateError(f"version {found.number} became current and is not this server's")
        self.current, self.block = found, draft.block
        return True

    async def read(self, number: int) -> tuple[Version, torch.Tensor]:
        """A version and its bytes. Raises FednotError (UNKNOWN_VERSION, VERSION_DESTROYED)."""
        if number == self.current.number:
            return self.current, self.flat
        return await self.read_back(number)

    async def read_back(self, number: int) -> tuple[Version, torch.Tensor]:
        """As `read`, but always from the store."""
        version = await self._kept(number)
        block = await asyncio.to_thread(
            self._store.read, version.sha256, self.manifest, self._memory
        )
        return version, block.tensor

    async def file_of(self, number: int) -> Source:
        """A version's model file, opened; who asks for it closes it. Raises as `read` does."""
        version = await self._kept(number)
        return await asyncio.to_thread(self._store.open, version.sha256)

    async def sweep(self) -> int:
        """Deletes the bytes that no kept version names, and returns how many files there were.

        It is cheap when there is nothing to do: call it until it has done its work. It may run
        beside a round; a commit waits for it, since a file has no row before its version has.
        """
        async with self._files:
            kept = await self._database.read(version_rows.kept_hashes)
            count = await asyncio.to_thread(self._store.delete_all_but, kept)
        if count:
            log.info("%d model files were destroyed", count)
        return count

    async def _kept(self, number: int) -> Version:
        version = await self._database.read(lambda c: version_rows.get_version(c, number))
        if version is None:
            raise FednotError(Reason.UNKNOWN_VERSION, f"there is no version {number}")
        if version.destroyed_at is not None:
            raise FednotError(
                Reason.VERSION_DESTROYED, f"the bytes of version {number} were destroyed"
            )
        return version


def _version(draft: Draft, number: int, sha256: str) -> Version:
    return Version(
        number=number,
        sha256=sha256,
        parent=draft.parent,
        generation=draft.generation,
        lineage=draft.lineage,
        origin=draft.origin,
        round=draft.round,
        created_at=time.time(),
        num_bytes=draft.block.nbytes,
        metrics=draft.metrics,
        negated_tensors=draft.negated_tensors,
    )
