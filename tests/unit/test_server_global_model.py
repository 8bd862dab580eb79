"""The global model in a block: within the budget, and readable for as long as somebody reads it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from sqlalchemy import Connection
from support.manifests import random_flat

from fednot.layers import layer_map
from fednot.manifest import Manifest
from fednot.zoo.mlp import Mlp
from server.blocks import Memory
from server.global_model import Draft, GlobalModel, InitialModel
from server.records import Version, VersionOrigin
from server.state.commits import Commit
from server.state.database import Database
from server.state.stores.directory import DirectoryStore

MANIFEST = Manifest.of(Mlp(in_features=2, hidden=(2,), num_classes=2))


@pytest.fixture(params=[None, 0], ids=["in memory", "spilled"])
def memory(request: pytest.FixtureRequest, tmp_path: Path) -> Memory:
    return Memory(request.param, tmp_path / "spill")


async def opened(folder: Path, memory: Memory) -> tuple[GlobalModel, Database]:
    database = Database(folder / "state.sqlite3")
    initial = InitialModel(random_flat(MANIFEST, 1), MANIFEST, lambda: layer_map(MANIFEST))
    store = DirectoryStore(folder / "versions")
    return await GlobalModel.open(database, store, initial, memory), database


def no_step(_: Connection, __: Version) -> None:
    return None


def draft(memory: Memory, seed: int, parent: int) -> Draft:
    block = memory.block(MANIFEST.nbytes)
    block.tensor.copy_(random_flat(MANIFEST, seed))
    return Draft(block, VersionOrigin.TRAINING, parent=parent, generation=0, lineage=1)


async def test_the_model_lies_where_the_budget_says_from_the_start(
    tmp_path: Path, memory: Memory
) -> None:
    """Begun, committed and read back after a restart."""
    model, database = await opened(tmp_path, memory)
    spilled = memory.block(1).spilled
    assert model.block.spilled is spilled
    assert torch.equal(model.flat, random_flat(MANIFEST, 1))
    version = await model.commit(Commit.ROUND_COMPLETED, draft(memory, 2, 1), no_step)
    assert version.num_bytes == MANIFEST.nbytes
    assert torch.equal(model.flat, random_flat(MANIFEST, 2))
    database.close()
    again, database = await opened(tmp_path, memory)
    assert again.block.spilled is spilled
    assert again.current == version
    assert torch.equal(again.flat, random_flat(MANIFEST, 2))
    database.close()


async def test_older_versions_are_read_from_the_store(tmp_path: Path, memory: Memory) -> None:
    model, database = await opened(tmp_path, memory)
    await model.commit(Commit.ROUND_COMPLETED, draft(memory, 2, 1), no_step)
    for number in (1, 2):
        version, flat = await model.read(number)
        assert version.number == number
        assert torch.equal(flat, random_flat(MANIFEST, number))
    database.close()


async def test_a_replaced_model_is_there_until_its_last_reader_is_gone(tmp_path: Path) -> None:
    """A plan of the round before, and then nothing: one model is left in memory."""
    memory = Memory(None, tmp_path / "spill")
    model, database = await opened(tmp_path, memory)
    reader = model.flat[8:]
    await model.commit(Commit.ROUND_COMPLETED, draft(memory, 2, 1), no_step)
    assert torch.equal(reader, random_flat(MANIFEST, 1)[8:])
    assert memory.in_use == 2 * MANIFEST.nbytes
    del reader
    assert memory.in_use == MANIFEST.nbytes
    database.close()


async def test_a_draft_whose_step_fails_leaves_the_model_as_it_was(
    tmp_path: Path, memory: Memory
) -> None:
    model, database = await opened(tmp_path, memory)

    def fails(_: Connection, __: Version) -> None:
        raise KeyError("no such job")

    with pytest.raises(KeyError):
        await model.commit(Commit.ROUND_COMPLETED, draft(memory, 2, 1), fails)
    assert model.current.number == 1
    assert torch.equal(model.flat, random_flat(MANIFEST, 1))
    database.close()


async def test_a_sweep_beside_a_commit_leaves_the_new_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is there before its row is; a sweep in between would take it for a left-over."""
    memory = Memory()
    model, database = await opened(tmp_path, memory)
    real = Database.write
    written = asyncio.Event()

    async def slowly(
        self: Database, commit: Commit, command: Callable[[Connection], object]
    ) -> object:
        written.set()
        await asyncio.sleep(0.1)
        return await real(self, commit, command)

    monkeypatch.setattr(Database, "write", slowly)
    committing = asyncio.create_task(
        model.commit(Commit.ROUND_COMPLETED, draft(memory, 2, 1), no_step)
    )
    await written.wait()
    assert await model.sweep() == 0
    version = await committing
    assert torch.equal((await model.read_back(version.number))[1], random_flat(MANIFEST, 2))
    database.close()
