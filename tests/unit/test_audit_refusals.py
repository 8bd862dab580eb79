"""The log of refusals: what is written at once, what is counted, and how much of it at the most."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import Connection, select
from support.served import eventually
from support.state import BY_TEST, DORA, EMIL, client

from fednot.audit_chain import Entry, check
from fednot.errors import FednotError, Reason
from fednot.identity.subject import Role
from fednot.v1 import audit_pb2
from server.audit import MOST_KINDS, SEVERAL, RefusalLog, destroy_pseudonym
from server.records import NOBODY, AuditEvent, Caller
from server.services.audit import AuditServicer
from server.state import audit_rows, client_rows, pseudonym_rows, schema
from server.state.database import Database

UNLEARN = "DeletionService.Unlearn"
JOB = "job-0123456789ab"
WINDOW = 60.0
BY_EMIL = AuditEvent(EMIL, "OperatorService.StopTraining")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    made = Database(tmp_path / "state.sqlite3")
    yield made
    made.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log(database: Database, clock: Clock) -> RefusalLog:
    return RefusalLog(database, window=WINDOW, clock=clock)


async def entries(database: Database) -> list[Entry]:
    return list(await database.read(lambda c: audit_rows.list_entries(c, 0, 999)))


async def names_in(database: Database) -> set[str]:
    rows = await database.read(lambda c: c.execute(select(schema.pseudonyms.c.name)).all())
    return {row.name for row in rows}


async def joined(database: Database, name: str) -> None:
    await database.write(BY_TEST, lambda c: client_rows.record_join(c, client(name)))


def forgetting(name: str) -> Callable[[Connection], str]:
    return lambda c: destroy_pseudonym(c, name, EMIL, 20.0)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds SQLite's write lock, so that the server's writer thread waits inside its command."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.execute("COMMIT")
        other.close()


async def test_the_first_of_a_kind_is_written_at_once(database: Database, log: RefusalLog) -> None:
    await joined(database, "c9")
    await log.note(DORA, UNLEARN, Reason.UNKNOWN_CLIENT, "client/c9")
    (found,) = await entries(database)
    assert (found.action, found.reason, found.outcome) == (UNLEARN, "UNKNOWN_CLIENT", "refused")
    assert (found.role, found.count) == ("officer", 1)
    names = await database.read(lambda c: pseudonym_rows.names_of(c, [found.actor, found.subject]))
    assert names == {found.actor: "officer/dora", found.subject: "client/c9"}


async def test_repeats_share_an_entry_once_their_time_is_over(
    database: Database, log: RefusalLog, clock: Clock
) -> None:
    for _ in range(5):
        await log.note(DORA, UNLEARN, Reason.WRONG_ROLE)
    clock.now = WINDOW - 1
    await log._close(clock.now)
    assert [entry.count for entry in await entries(database)] == [1]
    clock.now = WINDOW
    await log._close(clock.now)
    assert [entry.count for entry in await entries(database)] == [1, 4]
    await log._close(clock.now + 2 * WINDOW)
    await log.note(DORA, UNLEARN, Reason.WRONG_ROLE)
    found = await entries(database)
    assert [entry.count for entry in found] == [1, 4, 1]
    assert check(found).entries == 3


async def test_a_renewed_certificate_is_the_same_caller(
    database: Database, log: RefusalLog
) -> None:
    for expires_at in (1.0, 2.0):
        await log.note(Caller(Role.CLIENT, "c1", expires_at), UNLEARN, Reason.WRONG_ROLE)
    assert len(await entries(database)) == 1


async def test_kinds_are_told_apart(database: Database, log: RefusalLog) -> None:
    kinds = [
        (DORA, UNLEARN, Reason.WRONG_ROLE, ""),
        (EMIL, UNLEARN, Reason.WRONG_ROLE, ""),
        (DORA, "AuditService.ListAuditEntries", Reason.WRONG_ROLE, ""),
        (DORA, UNLEARN, Reason.UNKNOWN_CLIENT, ""),
        (DORA, UNLEARN, Reason.WRONG_ROLE, "client/c1"),
        (DORA, UNLEARN, Reason.WRONG_ROLE, "client/c1", JOB),
        (NOBODY, UNLEARN, Reason.NO_CERTIFICATE, ""),
    ]
    for kind in kinds * 2:
        await log.note(*kind)
    assert [entry.job_id for entry in await entries(database)] == ["", "", "", "", "", JOB, ""]
    await log.flush()
    assert sum(entry.count for entry in await entries(database)) == 2 * len(kinds)


async def test_stopping_loses_no_count(database: Database, log: RefusalLog) -> None:
    for _ in range(3):
        await log.note(DORA, UNLEARN, Reason.WRONG_ROLE)
    await log.flush()
    await log.flush()
    assert [entry.count for entry in await entries(database)] == [1, 2]


async def test_run_writes_what_is_due(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.audit.TICK", 0.02)
    log = RefusalLog(database, window=0.05)
    running = asyncio.create_task(log.run())
    for _ in range(3):
        await log.note(DORA, UNLEARN, Reason.WRONG_ROLE)
    for _ in range(100):
        await asyncio.sleep(0.02)
        if sum(entry.count for entry in await entries(database)) == 3:
            break
    running.cancel()
    assert sum(entry.count for entry in await entries(database)) == 3


@pytest.mark.parametrize(
    "subject", ["client/", "client/ü", "nobody/c1", "c1", "client/" + "x" * 64, "client/a/b"]
)
async def test_what_is_no_name_makes_no_pseudonym(
    database: Database, log: RefusalLog, subject: str
) -> None:
    """A caller writes it, and it may be of any length."""
    await log.note(DORA, UNLEARN, Reason.NOT_YOUR_DELETION, subject)
    assert [entry.subject for entry in await entries(database)] == [""]


async def test_what_is_no_job_is_left_out(database: Database, log: RefusalLog) -> None:
    await log.note(DORA, UNLEARN, Reason.NOT_CANCELLABLE, job_id='job-"')
    assert [entry.job_id for entry in await entries(database)] == [""]


async def test_a_name_that_nobody_bears_is_left_out(database: Database, log: RefusalLog) -> None:
    """A caller may make it up, and it would stand among the pseudonyms for ever."""
    await joined(database, "c1")
    await database.write(BY_TEST, lambda c: pseudonym_rows.pseudonym_of(c, "client/enrolled"))
    for subject in ("client/invented", "client/c1", "client/enrolled", "officer/c1"):
        await log.note(EMIL, UNLEARN, Reason.UNKNOWN_CLIENT, subject)
    found = await entries(database)
    names = await names_in(database)
    assert names == {"officer/emil", "client/c1", "client/enrolled"}
    assert [bool(entry.subject) for entry in found] == [False, True, True, False]


async def test_one_caller_cannot_fill_the_audit(database: Database, log: RefusalLog) -> None:
    """A thousand names: sixteen entries, one for the rest, and then their count."""
    c1 = Caller(Role.CLIENT, "c1")
    for number in range(1000):
        await log.note(c1, UNLEARN, Reason.NOT_YOUR_DELETION, f"client/x{number}")
    found = await entries(database)
    assert len(found) == MOST_KINDS + 1
    assert (found[-1].action, found[-1].subject) == (SEVERAL, "")
    assert (found[-1].reason, found[-1].actor) == ("NOT_YOUR_DELETION", found[0].actor)
    await log.note(DORA, UNLEARN, Reason.WRONG_ROLE)
    assert (await entries(database))[-1].action == UNLEARN, "others are told as before"
    await log.flush()
    assert sum(entry.count for entry in await entries(database)) == 1001


async def test_a_fault_changes_nothing_and_is_made_good(
    database: Database, log: RefusalLog, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await database.write(BY_TEST, lambda c: c.exec_driver_sql("PRAGMA busy_timeout=10"))
    with locked(tmp_path / "state.sqlite3"):
        await log.note(DORA, UNLEARN, Reason.WRONG_ROLE)
        await log.note(DORA, UNLEARN, Reason.WRONG_ROLE)
        await log.flush()
    assert "could not be written to the audit" in caplog.text
    assert await entries(database) == []
    await log.flush()
    assert [entry.count for entry in await entries(database)] == [2]


async def test_a_caller_that_hangs_up_is_noted_all_the_same(
    database: Database, log: RefusalLog, tmp_path: Path
) -> None:
    with locked(tmp_path / "state.sqlite3"):
        noting = asyncio.create_task(log.note(DORA, UNLEARN, Reason.WRONG_ROLE))
        await asyncio.sleep(0.05)
        noting.cancel()
        await asyncio.gather(noting, return_exceptions=True)
    await log.flush()
    assert [entry.count for entry in await entries(database)] == [1]


async def test_what_cannot_be_written_is_counted_though_its_caller_hung_up(
    database: Database, log: RefusalLog, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await database.write(BY_TEST, lambda c: c.exec_driver_sql("PRAGMA busy_timeout=200"))
    with locked(tmp_path / "state.sqlite3"):
        noting = asyncio.create_task(log.note(DORA, UNLEARN, Reason.WRONG_ROLE))
        await asyncio.sleep(0)
        noting.cancel()
        await asyncio.gather(noting, return_exceptions=True)
        await asyncio.gather(*log._writes)
    assert "could not be written to the audit" in caplog.text
    await log.flush()
    assert [entry.count for entry in await entries(database)] == [1]


async def test_a_count_that_cannot_be_written_at_the_stop_is_kept(
    database: Database, log: RefusalLog, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(4):
        await log.note(DORA, UNLEARN, Reason.WRONG_ROLE)
    await database.write(BY_TEST, lambda c: c.exec_driver_sql("PRAGMA busy_timeout=200"))
    with locked(tmp_path / "state.sqlite3"):
        closing = asyncio.create_task(log._close(WINDOW))
        await asyncio.sleep(0)
        closing.cancel()
        await asyncio.gather(closing, return_exceptions=True)
        await asyncio.gather(*log._writes)
    assert "could not be written to the audit" in caplog.text
    await log.flush()
    assert [entry.count for entry in await entries(database)] == [1, 3]


async def test_a_count_that_is_being_written_when_the_server_stops_is_not_lost(
    database: Database, log: RefusalLog, tmp_path: Path
) -> None:
    for _ in range(4):
        await log.note(DORA, UNLEARN, Reason.WRONG_ROLE)
    with locked(tmp_path / "state.sqlite3"):
        busy = asyncio.create_task(database.read(lambda c: audit_rows.head(c)))
        closing = asyncio.create_task(log._close(WINDOW))
        await asyncio.sleep(0.05)
        closing.cancel()
        await asyncio.gather(closing, busy, return_exceptions=True)
    await log.flush()
    assert [entry.count for entry in await entries(database)] == [1, 3]


@pytest.mark.parametrize("name", ["officer/dora", "client/c1"])
async def test_a_destroyed_name_does_not_come_back_with_what_was_counted_before(
    database: Database, log: RefusalLog, name: str
) -> None:
    await joined(database, "c1")
    for _ in range(5):
        await log.note(DORA, UNLEARN, Reason.WRONG_ROLE, "client/c1")
    await log.note(Caller(Role.CLIENT, "c2"), UNLEARN, Reason.WRONG_ROLE)

    await log.forget(name, forgetting(name))

    found = await entries(database)
    assert [entry.count for entry in found] == [1, 1, 4, 1]
    assert (found[2].actor, found[2].subject) == (found[0].actor, found[0].subject)
    assert found[3].action == "AuditService.DestroyPseudonym"
    await log.flush()
    assert name not in await names_in(database)
    assert len(await entries(database)) == 4
    await log.note(DORA, UNLEARN, Reason.WRONG_ROLE, "client/c1")
    assert name in await names_in(database), "what happens later is another matter"


async def test_a_name_that_is_destroyed_while_counts_are_written_is_counted_once(
    database: Database, log: RefusalLog
) -> None:
    others = (Caller(Role.CLIENT, "c1"), Caller(Role.CLIENT, "c2"))
    for caller in (*others, DORA):
        for _ in range(3):
            await log.note(caller, UNLEARN, Reason.WRONG_ROLE)

    closing = asyncio.create_task(log.flush())
    await asyncio.sleep(0)
    await log.forget("officer/dora", forgetting("officer/dora"))
    await closing

    assert sorted(entry.count for entry in await entries(database)) == [1, 1, 1, 1, 2, 2, 2]
    assert "officer/dora" not in await names_in(database)


async def test_what_was_counted_is_kept_if_a_name_is_not_destroyed(
    database: Database, log: RefusalLog
) -> None:
    for _ in range(3):
        await log.note(DORA, UNLEARN, Reason.WRONG_ROLE)
    with pytest.raises(FednotError):
        await log.forget("officer/dora", forgetting("officer/nobody"))
    await log.note(DORA, UNLEARN, Reason.WRONG_ROLE)
    await log.flush()
    assert [entry.count for entry in await entries(database)] == [1, 3]


async def test_a_name_is_destroyed_though_its_caller_hung_up(
    database: Database, log: RefusalLog, tmp_path: Path
) -> None:
    for _ in range(3):
        await log.note(DORA, UNLEARN, Reason.WRONG_ROLE)
    with locked(tmp_path / "state.sqlite3"):
        busy = asyncio.create_task(
            database.write(BY_TEST, lambda c: audit_rows.append(c, BY_EMIL, 1.0))
        )
        await asyncio.sleep(0.05)
        calling = asyncio.create_task(log.forget("officer/dora", forgetting("officer/dora")))
        await asyncio.sleep(0.05)
        calling.cancel()
        await asyncio.gather(calling, return_exceptions=True)
    await busy
    await log.flush()
    assert await names_in(database) == {"officer/emil"}
    assert [entry.count for entry in await entries(database)] == [1, 1, 2, 1]


async def test_the_log_is_emptied_after_a_name_is_destroyed_though_its_caller_hung_up(
    database: Database, log: RefusalLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refusal that is being written is waited for before the name is destroyed."""
    await database.write(
        BY_TEST, lambda c: audit_rows.append(c, replace(BY_EMIL, caller=DORA), 1.0)
    )
    order: list[str] = []
    scrub = database._scrub

    def destroys(*told: Any) -> str:
        order.append("destroyed")
        return destroy_pseudonym(*told)

    def scrubs() -> bool:
        order.append("emptied")
        return scrub()

    monkeypatch.setattr("server.services.audit.destroy_pseudonym", destroys)
    monkeypatch.setattr(database, "_scrub", scrubs)
    servicer = AuditServicer(SimpleNamespace(database=database), log)  # type: ignore[arg-type]
    request = audit_pb2.DestroyPseudonymRequest(name="officer/dora")
    with locked(tmp_path / "state.sqlite3"):
        noting = asyncio.create_task(
            log.note(Caller(Role.CLIENT, "c1"), UNLEARN, Reason.WRONG_ROLE)
        )
        await asyncio.sleep(0.05)
        calling = asyncio.create_task(servicer.DestroyPseudonym(request, None))  # type: ignore[arg-type]
        await asyncio.sleep(0.05)
        calling.cancel()
        await asyncio.wait([calling], timeout=0.2)
    await noting
    await eventually("both are done", lambda: len(order) == 2)
    assert order == ["destroyed", "emptied"]
