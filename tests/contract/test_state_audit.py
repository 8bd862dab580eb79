"""What the server's state promises of the audit: a chain that only grows, and names that can go."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, delete, insert, select, text, update
from sqlalchemy.exc import DatabaseError
from support.state import (
    AWAITING,
    BY_TEST,
    COMPLETED,
    DORA,
    EMIL,
    FAILED,
    QUEUED,
    RECOVERING,
    accepted,
    begun,
    driven,
    refusal_of,
)

from fednot.audit_chain import BrokenChainError, Entry, Head, check
from fednot.errors import Reason
from server.audit import destroy_pseudonym, note_job_end
from server.records import NOBODY, AuditEvent, AuditOutcome, JobPhase
from server.state import audit_rows, pseudonym_rows, schema
from server.state.database import Database

UNLEARN = "DeletionService.Unlearn"
PSEUDONYM = re.compile(r"p-[0-9a-f]{32}")


def note(c: Connection, subject: str = "client/c1", at: float = 10.25, **values: Any) -> None:
    audit_rows.append(
        c, AuditEvent(**({"caller": DORA, "action": UNLEARN} | values), subject=subject), at
    )


def entries(run: Any) -> list[Entry]:
    return list(run(lambda c: audit_rows.list_entries(c, 0, 999)))


class TestAudit:
    """One state; `run` is a fixture of conftest.py, once for each database."""

    def test_an_entry_comes_back_whole_with_pseudonyms_for_names(self, run: Any) -> None:
        refused = {"outcome": AuditOutcome.REFUSED, "reason": "UNKNOWN_CLIENT", "count": 7}
        run(lambda c: note(c, job_id="job-1", **refused))
        (found,) = entries(run)
        assert PSEUDONYM.fullmatch(found.actor)
        assert PSEUDONYM.fullmatch(found.subject)
        assert found.actor != found.subject
        assert (found.sequence, found.at_microseconds) == (1, 10_250_000)
        assert (found.role, found.action) == ("officer", UNLEARN)
        assert (found.outcome, found.reason, found.count) == ("refused", "UNKNOWN_CLIENT", 7)
        assert (found.job_id, found.previous_hash) == ("job-1", "0" * 64)

    def test_entries_form_a_chain_without_a_gap(self, run: Any) -> None:
        assert run(audit_rows.head) == Head()
        for number in range(5):
            run(lambda c, n=number: note(c, f"client/c{n}"))
        found = entries(run)
        assert [entry.sequence for entry in found] == [1, 2, 3, 4, 5]
        assert check(found) == run(audit_rows.head) == Head(5, found[-1].hash)

    def test_several_entries_of_one_transaction_are_written_or_undone_together(
        self, run: Any
    ) -> None:
        def command(c: Connection) -> None:
            note(c)
            note(c, "client/c2")
            raise RuntimeError("a crash")

        with pytest.raises(RuntimeError):
            run(command)
        assert entries(run) == []
        assert run(lambda c: pseudonym_rows.names_of(c, ["p-x"])) == {}
        run(note)
        assert check(entries(run)).entries == 1

    def test_a_name_keeps_its_pseudonym_and_nobody_has_none(self, run: Any) -> None:
        run(note)
        run(lambda c: note(c, "officer/dora", caller=EMIL))
        run(lambda c: note(c, "", caller=NOBODY, action="job.completed"))
        first, second, third = entries(run)
        assert second.subject == first.actor
        assert second.actor not in (first.actor, first.subject)
        assert (third.actor, third.role, third.subject) == ("", "", "")
        shown = [first.actor, first.subject, second.actor, "p-unknown", ""]
        assert run(lambda c: pseudonym_rows.names_of(c, shown)) == {
            first.actor: "officer/dora",
            first.subject: "client/c1",
            second.actor: "officer/emil",
        }

    def test_another_federation_gives_a_name_another_pseudonym(
        self, run: Any, tmp_path: Path
    ) -> None:
        """The key is random: nobody can try out names against a pseudonym."""
        other = Database(tmp_path / "other.sqlite3")
        of_other = other.write_now(BY_TEST, lambda c: pseudonym_rows.pseudonym_of(c, "client/c1"))
        other.close()
        assert run(lambda c: pseudonym_rows.pseudonym_of(c, "client/c1")) != of_other

    def test_they_are_listed_oldest_first_in_pages(self, run: Any) -> None:
        for _ in range(5):
            run(note)
        pages = [run(lambda c, at=at: audit_rows.list_entries(c, at, 2)) for at in (0, 2, 4, 5)]
        assert [[entry.sequence for entry in page] for page in pages] == [[1, 2], [3, 4], [5], []]

    def test_they_are_listed_newest_first_in_pages(self, run: Any) -> None:
        for _ in range(5):
            run(note)
        pages = [run(lambda c, at=at: audit_rows.list_newest(c, at, 2)) for at in (0, 4, 2, 1)]
        assert [[entry.sequence for entry in page] for page in pages] == [[5, 4], [3, 2], [1], []]

    def test_a_job_that_ends_is_noted_by_nobody_with_its_client(self, run: Any) -> None:
        run(begun)
        job = run(accepted).job
        run(lambda c: driven(c, "r1", JobPhase.FAILED))
        run(lambda c: note_job_end(c, job.id, JobPhase.FAILED, 20.0))
        (found,) = entries(run)
        assert (found.actor, found.action, found.job_id) == ("", "job.failed", job.id)
        assert run(lambda c: pseudonym_rows.names_of(c, [found.subject])) == {
            found.subject: "client/c1"
        }


IN_ONE_DIALECT = {
    "INSERT OR REPLACE INTO audit SELECT * FROM audit WHERE sequence = 2": "sqlite",
    "UPDATE OR REPLACE audit SET sequence = 1 WHERE sequence = 2": "sqlite",
    "INSERT INTO audit SELECT * FROM audit WHERE sequence = 2"
    " ON CONFLICT (sequence) DO UPDATE SET actor = 'p-x'": "postgresql",
    "TRUNCATE audit": "postgresql",
}
"""Statements that one dialect alone has."""


class TestAppendOnly:
    """The database itself refuses whatever is no appending."""

    @pytest.fixture
    def full(self, run: Any) -> Any:
        for number in range(3):
            run(lambda c, n=number: note(c, f"client/c{n}"))
        return run

    @pytest.mark.parametrize(
        "statement",
        [
            update(schema.audit).values(actor="p-x"),
            update(schema.audit).where(schema.audit.c.sequence == 2).values(reason="x"),
            delete(schema.audit),
            delete(schema.audit).where(schema.audit.c.sequence == 3),
            text("INSERT INTO audit SELECT * FROM audit WHERE sequence = 2"),
            *(text(statement) for statement in IN_ONE_DIALECT),
        ],
    )
    def test_no_entry_is_changed_replaced_or_removed(self, full: Any, statement: Any) -> None:
        before = entries(full)
        dialect = IN_ONE_DIALECT.get(str(statement))
        if dialect and dialect != full(lambda c: c.dialect.name):
            return
        with pytest.raises(DatabaseError, match="append-only"):
            full(lambda c: c.execute(statement))
        assert entries(full) == before

    @pytest.mark.parametrize("sequence", [0, 2, 5])
    def test_an_entry_is_added_at_the_end_alone(self, full: Any, sequence: int) -> None:
        def command(c: Connection) -> None:
            row = c.execute(select(schema.audit).where(schema.audit.c.sequence == 3)).one()
            c.execute(insert(schema.audit).values(**(row._asdict() | {"sequence": sequence})))

        with pytest.raises(DatabaseError, match="append-only"):
            full(command)


def _of_table(connection: Connection) -> str:
    return " ON audit" if connection.dialect.name == "postgresql" else ""


class TestTampering:
    """Whoever owns the file can drop the triggers; the chain tells."""

    @pytest.fixture
    def tampered(self, run: Any, open_database: Any) -> Any:
        """A state of its own, whose triggers are gone."""
        for number in range(4):
            run(lambda c, n=number: note(c, f"client/c{n}"))
        names = ("audit_is_appended_to", "audit_is_not_changed", "audit_is_not_shortened")
        for name in names:
            run(lambda c, name=name: c.execute(text(f"DROP TRIGGER {name}{_of_table(c)}")))
        return run

    @pytest.mark.parametrize(
        ("statements", "told"),
        [
            (("UPDATE audit SET reason = 'x' WHERE sequence = 2",), "entry 2 was changed"),
            (("DELETE FROM audit WHERE sequence = 2",), "entry 3 stands where entry 2 belongs"),
            (("DELETE FROM audit WHERE sequence = 1",), "entry 2 stands where entry 1 belongs"),
            (
                (
                    "UPDATE audit SET sequence = 9 WHERE sequence = 2",
                    "UPDATE audit SET sequence = 2 WHERE sequence = 3",
                    "UPDATE audit SET sequence = 3 WHERE sequence = 9",
                ),
                "entry 2 does not follow",
            ),
            (
                (
                    "DELETE FROM audit WHERE sequence = 2",
                    "UPDATE audit SET sequence = sequence - 1 WHERE sequence > 2",
                ),
                "entry 2 does not follow",
            ),
        ],
    )
    def test_a_changed_removed_or_moved_row_is_found(
        self, tampered: Any, statements: tuple[str, ...], told: str
    ) -> None:
        assert check(entries(tampered)).entries == 4
        for statement in statements:
            tampered(lambda c, statement=statement: c.execute(text(statement)))
        with pytest.raises(BrokenChainError, match=told):
            check(entries(tampered))

    def test_a_chain_that_was_cut_is_found_by_a_head_that_was_noted(self, tampered: Any) -> None:
        noted = tampered(audit_rows.head)
        tampered(lambda c: c.execute(text("DELETE FROM audit WHERE sequence > 2")))
        assert check(entries(tampered)).entries == 2
        with pytest.raises(BrokenChainError, match="no entry has the hash"):
            check(entries(tampered), known=noted.hash)


class TestPseudonyms:
    """A name whose key is destroyed."""

    def test_its_entries_stay_and_name_nobody(self, run: Any) -> None:
        run(note)
        before = entries(run)
        pseudonym = run(lambda c: destroy_pseudonym(c, "client/c1", EMIL, 20.0))
        assert pseudonym == before[0].subject
        after = entries(run)
        assert after[:1] == before
        assert (after[1].action, after[1].subject) == ("AuditService.DestroyPseudonym", pseudonym)
        shown = {entry.subject for entry in after} | {entry.actor for entry in after}
        names = run(lambda c: pseudonym_rows.names_of(c, shown))
        assert sorted(names.values()) == ["officer/dora", "officer/emil"]
        assert check(after).entries == 2

    def test_the_name_gets_another_pseudonym_when_it_comes_again(self, run: Any) -> None:
        run(note)
        run(lambda c: destroy_pseudonym(c, "client/c1", EMIL, 20.0))
        run(note)
        first, _, third = entries(run)
        assert third.subject != first.subject
        assert third.actor == first.actor

    def test_an_officer_may_destroy_the_own_one(self, run: Any) -> None:
        run(note)
        pseudonym = run(lambda c: destroy_pseudonym(c, "officer/dora", DORA, 20.0))
        last = entries(run)[-1]
        assert last.actor == last.subject == pseudonym
        assert run(lambda c: pseudonym_rows.names_of(c, [pseudonym])) == {}

    @pytest.mark.parametrize("name", ["client/c2", "c1", "", "p-0123"])
    def test_a_name_that_the_audit_does_not_know_is_refused(self, run: Any, name: str) -> None:
        run(note)
        refusal = refusal_of(lambda: run(lambda c: destroy_pseudonym(c, name, EMIL, 20.0)))
        assert refusal == (Reason.UNKNOWN_NAME, {})
        assert len(entries(run)) == 1

    @pytest.mark.parametrize("phase", [AWAITING, QUEUED, RECOVERING])
    def test_a_client_that_is_being_forgotten_keeps_its_name_until_then(
        self, run: Any, phase: JobPhase
    ) -> None:
        """Else the entry of the job's end would bring it back."""
        run(begun)
        job = run(lambda c: accepted(c, until=99.0 if phase is AWAITING else None)).job
        if phase is not AWAITING:
            run(lambda c: driven(c, "r1", phase))
        run(note)
        refusal = refusal_of(lambda: run(lambda c: destroy_pseudonym(c, "client/c1", EMIL, 20.0)))
        about = {"request_id": "r1", "job_id": job.id, "client": "c1"}
        assert refusal == (Reason.DELETION_IN_PROGRESS, about)
        assert [entry.action for entry in entries(run) if entry.actor] == [UNLEARN]
        run(lambda c: destroy_pseudonym(c, "officer/dora", EMIL, 20.0))

    @pytest.mark.parametrize("end", [COMPLETED, FAILED])
    def test_once_the_deletion_has_ended_the_name_may_go(self, run: Any, end: JobPhase) -> None:
        run(begun)
        run(accepted)
        run(note)
        run(lambda c: driven(c, "r1", end))
        run(lambda c: destroy_pseudonym(c, "client/c1", EMIL, 20.0))
        subject = entries(run)[0].subject
        assert run(lambda c: pseudonym_rows.names_of(c, [subject])) == {}

    @pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
    async def test_no_byte_of_the_key_is_left_in_a_file(
        self, open_database: Callable[[], Database], tmp_path: Path
    ) -> None:
        """Nor the name beside its pseudonym; other keys, and later restarts, stay whole."""
        database = open_database()
        for name in ("officer/zacharias", "client/c1"):
            await database.write(BY_TEST, lambda c, name=name: note(c, name))
        rows = await database.read(lambda c: c.execute(select(schema.pseudonyms)).all())
        keys = {row.name: row.key for row in rows}
        assert found_in_files(tmp_path, keys["officer/zacharias"]), "else this test sees nothing"
        assert found_in_files(tmp_path, b"officer/zacharias")

        await database.write(
            BY_TEST, lambda c: destroy_pseudonym(c, "officer/zacharias", DORA, 20.0)
        )
        assert await database.scrub()

        assert not found_in_files(tmp_path, keys["officer/zacharias"])
        assert not found_in_files(tmp_path, b"officer/zacharias")
        assert found_in_files(tmp_path, keys["client/c1"])
        database.close()
        assert not found_in_files(tmp_path, keys["officer/zacharias"])

    @pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
    async def test_a_log_that_somebody_reads_is_not_emptied_and_says_so(
        self, open_database: Callable[[], Database], tmp_path: Path
    ) -> None:
        database = open_database()
        await database.write(BY_TEST, lambda c: c.execute(text("PRAGMA busy_timeout=50")))
        await database.write(BY_TEST, note)
        with closing(sqlite3.connect(tmp_path / "state.sqlite3")) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM audit").fetchall()
            await database.write(BY_TEST, note)
            assert not await database.scrub()
        assert await database.scrub()
        database.close()


def found_in_files(folder: Path, needle: bytes) -> bool:
    return any(needle in path.read_bytes() for path in folder.glob("state.sqlite3*"))
