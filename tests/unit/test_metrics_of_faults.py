"""Faults of database, disk and event loop are counted where they happen."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from prometheus_client import CollectorRegistry
from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError
from support.manifests import manifest_of, random_flat
from support.state import BY_TEST

from fednot.errors import FednotError, Reason
from server import failpoints, loop_lag
from server.blocks import Memory
from server.ledger.chain import Event, Note
from server.ledger.opening import open_ledger
from server.metrics import Metrics, new_registry
from server.receipts.desk import ReceiptDesk
from server.records import Caller
from server.state.database import Database, StateUnavailableError
from server.state.stores.directory import DirectoryStore
from server.state.stores.told import ToldStore

MANIFEST = manifest_of(weight=("F32", (4, 4)))
FLAT = random_flat(MANIFEST, 0)


@pytest.fixture
def registry() -> CollectorRegistry:
    return new_registry()


@pytest.fixture
def metrics(registry: CollectorRegistry) -> Metrics:
    return Metrics(registry, "test")


@pytest.fixture
def failing() -> Iterator[Callable[[str], None]]:
    yield lambda place: failpoints.enable({failpoints.ARMED: place})
    failpoints.enable({})


@pytest.fixture
def database(tmp_path: Path, metrics: Metrics) -> Iterator[Database]:
    made = Database(tmp_path / "state.sqlite3")
    made.when_failed(metrics.faults.of_database)
    yield made
    made.close()


def errors(registry: CollectorRegistry, what: str) -> dict[str, float]:
    """The operations that failed, and how often."""
    samples = next(
        family.samples for family in registry.collect() if family.name == f"fednot_{what}_errors"
    )
    return {each.labels["operation"]: each.value for each in samples if each.value}


def nonsense(connection: Connection) -> None:
    connection.execute(text("SELECT nothing FROM nowhere"))


def refusing(connection: Connection) -> None:
    raise FednotError(Reason.UNKNOWN_DELETION, "there is none")


class TestDatabase:
    def test_a_command_that_fails_of_the_database_is_counted(
        self, registry: CollectorRegistry, database: Database
    ) -> None:
        with pytest.raises(SQLAlchemyError):
            database.read_now(nonsense)
        with pytest.raises(SQLAlchemyError):
            database.write_now(BY_TEST, nonsense)
        assert errors(registry, "database") == {"read": 1, "write": 1}

    def test_a_commit_that_finds_no_room_is_counted_once(
        self, registry: CollectorRegistry, database: Database, failing: Callable[[str], None]
    ) -> None:
        failing(f"before commit.{BY_TEST} =ENOSPC")
        with pytest.raises(StateUnavailableError):
            database.write_now(BY_TEST, lambda connection: None)
        assert errors(registry, "database") == {"write": 1}

    def test_a_refusal_is_no_fault_of_the_database(
        self, registry: CollectorRegistry, database: Database
    ) -> None:
        with pytest.raises(FednotError):
            database.write_now(BY_TEST, refusing)
        with pytest.raises(FednotError):
            database.read_now(refusing)
        assert errors(registry, "database") == {}


class TestDisk:
    @pytest.mark.parametrize(
        ("place", "counted"),
        [("before sync.version =EIO", "write"), ("before rename.version =ENOSPC", "write")],
    )
    def test_a_version_that_cannot_be_stored_is_counted(
        self,
        registry: CollectorRegistry,
        metrics: Metrics,
        tmp_path: Path,
        failing: Callable[[str], None],
        place: str,
        counted: str,
    ) -> None:
        store = ToldStore(DirectoryStore(tmp_path), metrics.faults.of_disk)
        failing(place)
        with pytest.raises(OSError, match="failpoint"):
            store.write(FLAT, MANIFEST, "")
        assert errors(registry, "disk") == {counted: 1}

    def test_a_version_that_cannot_be_deleted_or_read_is_counted(
        self,
        registry: CollectorRegistry,
        metrics: Metrics,
        tmp_path: Path,
        failing: Callable[[str], None],
    ) -> None:
        folder = DirectoryStore(tmp_path)
        store = ToldStore(folder, metrics.faults.of_disk)
        sha256 = store.write(FLAT, MANIFEST, "")
        failing("before remove.version =EIO")
        with pytest.raises(OSError, match="failpoint"):
            store.delete_all_but([])
        folder.path(sha256).unlink()
        folder.path(sha256).mkdir()
        for read in (lambda: store.read(sha256, MANIFEST), lambda: store.verify(sha256)):
            with pytest.raises(IsADirectoryError):
                read()
        assert errors(registry, "disk") == {"delete": 1, "read": 2}

    def test_all_else_of_a_store_is_the_store_s(self, metrics: Metrics, tmp_path: Path) -> None:
        store = ToldStore(DirectoryStore(tmp_path), metrics.faults.of_disk)
        sha256 = store.write(FLAT, MANIFEST, "")
        store.verify(sha256)
        assert store.hashes() == {sha256}
        assert torch.equal(store.read(sha256, MANIFEST).tensor, FLAT)
        with store.open(sha256) as source:
            assert source.name
        assert store.delete_all_but([]) == 1
        assert store.place == str(tmp_path)

    def test_spill_files_that_cannot_be_made_or_read_are_counted(
        self, registry: CollectorRegistry, metrics: Metrics, tmp_path: Path
    ) -> None:
        memory = Memory(0, tmp_path / "spill", metrics.faults.of_disk)
        file = memory.spill_file(8)
        with pytest.raises(OSError, match="ends before"):
            file.read(0, torch.zeros(16, dtype=torch.uint8))
        file.close()
        (tmp_path / "spill").rmdir()
        with pytest.raises(FileNotFoundError):
            memory.block(8)
        with pytest.raises(FileNotFoundError):
            memory.spill_file(8)
        assert errors(registry, "disk") == {"read": 1, "write": 2}

    async def test_a_ledger_that_cannot_be_written_is_counted_with_its_transaction(
        self,
        registry: CollectorRegistry,
        metrics: Metrics,
        database: Database,
        tmp_path: Path,
        failing: Callable[[str], None],
    ) -> None:
        ledger = await open_ledger(tmp_path / "ledger.jsonl", database)
        ledger.when_failed(metrics.faults.of_disk)
        failing("before append.ledger =ENOSPC")
        note = Note(Event.COMPLETED, {"caller": "officer:dora", "request_id": "r1"})
        with pytest.raises(StateUnavailableError):
            await database.write(BY_TEST, lambda c: ledger.append(c, [note], 1.0))
        ledger.close()
        assert errors(registry, "disk") == {"write": 1}
        assert errors(registry, "database") == {"write": 1}


@pytest.mark.parametrize("place", ["append.receipt-key", "rename.receipt-key"])
async def test_a_key_of_receipts_that_cannot_be_replaced_is_counted(
    registry: CollectorRegistry,
    metrics: Metrics,
    database: Database,
    tmp_path: Path,
    failing: Callable[[str], None],
    place: str,
) -> None:
    desk = await ReceiptDesk.open(database, tmp_path)
    desk.when_failed(metrics.faults.of_disk)
    failing(f"before {place} =ENOSPC")
    with pytest.raises(OSError, match="failpoint"):
        await desk.rotate(Caller())
    assert errors(registry, "disk") == {"write": 1}
    assert errors(registry, "database") == {}


async def test_what_keeps_the_event_loop_busy_is_seen_as_lag(
    registry: CollectorRegistry, metrics: Metrics
) -> None:
    watching = asyncio.create_task(loop_lag.watch(metrics.faults.lagged, every=0.01))
    await asyncio.sleep(0.05)
    time.sleep(0.3)  # noqa: ASYNC251 - this is the fault
    await asyncio.sleep(0.05)
    watching.cancel()

    def sample(suffix: str, **labels: str) -> float:
        return registry.get_sample_value(f"fednot_event_loop_lag_seconds_{suffix}", labels) or 0.0

    assert sample("count") > sample("bucket", le="0.25") >= 1
    assert 0.25 < sample("sum") < 10
