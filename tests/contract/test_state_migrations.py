"""States of other versions: older ones are migrated without a loss, newer ones are left alone."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text
from support.postgres import Postgres

from server.records import Scope, ScopeKind
from server.state import scope_rows, upgrading
from server.state.connecting import engine_for
from server.state.database import Database, StateError
from server.state.schema import federation, metadata

OLD_ROWS = (
    "INSERT INTO federation VALUES (1, 2, 'manifest', 'layers', 1, 0)",
    "INSERT INTO versions VALUES (1, 'sha', 0, 0, 1, 'initial', 0, 1.5, 8, '{}', '[]', NULL, '')",
    "INSERT INTO clients VALUES ('c1', 1.0, 2.0, 10, 2, 'cpu')",
    "INSERT INTO runs VALUES (1, 3, 1, 'active', 1.0, '{}', '{}', '')",
    "INSERT INTO rounds VALUES (1, 'training', 'failed', 1, 0, 1, '', 0, '[\"c1\"]', '{}', '{}',"
    " 1.0, 2.0)",
    "INSERT INTO jobs VALUES (1, 'job-1', 'recovering', 'not', 'first', false, '{}', 1.0, 1, 0.5,"
    " 0, '')",
    "INSERT INTO phase_entries VALUES (1, 'job-1', 'queued', 1.0)",
    "INSERT INTO attempts VALUES ('job-1', 1, 'not', '[\"w\"]', 1, 'open', NULL, 0, '[]', '')",
    "INSERT INTO requests VALUES (1, 'officer/dora', 'r1', 'd', 'c1', 'job-1', 1.0, '[1]')",
    "INSERT INTO tombstones VALUES (1, 'c1', 1, 1.0, NULL)",
    "INSERT INTO approvals VALUES (1, 'a-1', 'deletion', 'waiting', 'c1', 'job-1', 'officer/dora',"
    " 1.0, 2.0, '', NULL)",
    "INSERT INTO enrolment_tokens VALUES ('secret', 'c1', 1.0, 2.0, NULL, '')",
    "INSERT INTO audit VALUES (1, 5, 'p-1', 'officer', 'x', 'p-2', 'done', '', 'job-1', 0, 1, '0',"
    " 'h')",
    "INSERT INTO pseudonyms VALUES ('officer/dora', 'p-1', '\\x00')",
)
NEW_TABLES = {
    "alembic_version",
    "destructions",
    "scopes",
    "forget_orders",
    "receipts",
    "receipt_keys",
    "kept_updates",
}


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """A database without a table."""
    if request.param == "sqlite":
        return tmp_path / "state.sqlite3"
    server: Postgres = request.getfixturevalue("postgres")
    return server.url(server.new_database())


@contextmanager
def connected(place: Path | str) -> Iterator[Connection]:
    engine = engine_for(place)
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def made_old(place: Path | str, *, is_stamped: bool = True) -> dict[str, list[dict[str, Any]]]:
    """Makes a state of schema 2 with a row in each table, and returns its rows."""
    with connected(place) as connection:
        upgrading.migrate(connection, "0001")
        with connection.begin():
            for statement in OLD_ROWS:
                connection.exec_driver_sql(statement)
            if not is_stamped:
                connection.execute(text("DROP TABLE alembic_version"))
    return rows(place)


def rows(place: Path | str) -> dict[str, list[dict[str, Any]]]:
    with connected(place) as connection, connection.begin():
        names = set(inspect(connection).get_table_names()) - NEW_TABLES
        return {
            name: [dict(row._mapping) for row in connection.execute(text(f"SELECT * FROM {name}"))]
            for name in sorted(names)
        }


def described(place: Path | str) -> dict[str, Any]:
    """Tables, columns, keys, indices and triggers, as the database tells them."""
    with connected(place) as connection, connection.begin():
        found = inspect(connection)
        triggers = {
            "sqlite": "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'",
            "postgresql": "SELECT tgname, pg_get_triggerdef(oid) FROM pg_trigger"
            " WHERE NOT tgisinternal",
        }[connection.dialect.name]
        return {"triggers": sorted(map(tuple, connection.execute(text(triggers))))} | {
            name: (
                sorted((c["name"], str(c["type"]), c["nullable"]) for c in found.get_columns(name)),
                sorted(
                    (k["constrained_columns"], k["referred_table"], k["referred_columns"])
                    for k in found.get_foreign_keys(name)
                ),
                sorted((i["name"], i["column_names"]) for i in found.get_indexes(name)),
                sorted(u["column_names"] for u in found.get_unique_constraints(name)),
                found.get_pk_constraint(name)["constrained_columns"],
            )
            for name in found.get_table_names()
        }


def migrated(place: Path | str) -> None:
    with connected(place) as connection:
        for step in ("0001", "0002", "0003", "0004", "0005", "0006"):
            upgrading.migrate(connection, step)


def test_the_migrations_end_where_the_schema_is(empty: Path | str) -> None:
    migrated(empty)
    with connected(empty) as connection, connection.begin():
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
        assert not connection.execute(text("SELECT * FROM federation")).all()


def test_a_new_state_is_made_as_the_migrations_would_make_it(
    empty: Path | str, place: Path | str
) -> None:
    if type(empty) is not type(place):
        return
    migrated(empty)
    assert described(empty) == described(place)


def test_the_newest_revision_is_the_last_of_the_migrations() -> None:
    scripts = ScriptDirectory.from_config(upgrading.configuration())
    assert scripts.get_current_head() == upgrading.NEWEST


def test_a_new_state_gets_an_id_of_its_own(place: Path | str, tmp_path: Path) -> None:
    ids = [rows(each)["federation"][0]["state_id"] for each in (place, place)]
    other = tmp_path / "other.sqlite3"
    Database(other).close()
    ids.append(rows(other)["federation"][0]["state_id"])
    assert [len(found) for found in ids] == [32, 32, 32]
    assert ids[0] == ids[1] != ids[2]


@pytest.mark.parametrize("is_stamped", [True, False])
def test_an_older_state_keeps_every_row(empty: Path | str, is_stamped: bool) -> None:
    """Each column that there was has the value that it had; new ones have what nothing means."""
    before = made_old(empty, is_stamped=is_stamped)
    assert all(len(found) == 1 for found in before.values())
    Database(empty).close()
    after = rows(empty)
    del before["federation"][0]["schema_version"]
    del before["requests"][0]["client"]
    kept = {
        name: [{column: after[name][0][column] for column in found[0]}]
        for name, found in before.items()
    }
    assert kept == before
    (request,), (job,), (state,) = after["requests"], after["jobs"], after["federation"]
    assert (request["own_job_id"], request["not_after"]) == ("job-1", None)
    assert (job["priority"], bool(job["retain"]), job["merged_into"]) == (0, False, "")
    assert len(state["state_id"]) == 32
    (attempt,) = after["attempts"]
    assert attempt["steps"] in ([], "[]"), "an attempt of before had none"
    with connected(empty) as connection, connection.begin():
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_what_an_older_request_forgets_becomes_its_scope(empty: Path | str) -> None:
    """One that was lifted stays lifted."""
    made_old(empty)
    with connected(empty) as connection, connection.begin():
        connection.execute(text("UPDATE tombstones SET lifted_at = 3.0"))
        connection.commit()
    Database(empty).close()
    with connected(empty) as connection, connection.begin():
        assert scope_rows.of_request(connection, 1) == (Scope(ScopeKind.CLIENT, client="c1"),)
        (lifted,) = connection.execute(text("SELECT lifted_at FROM scopes")).scalars()
        assert lifted == 3.0


def test_a_migrated_state_works_and_is_not_migrated_again(empty: Path | str) -> None:
    made_old(empty)
    for _ in range(2):
        database = Database(empty)
        with pytest.raises(Exception, match="append-only"):
            database.write_now(
                upgrading.Commit.SCHEMA, lambda c: c.execute(text("DELETE FROM audit"))
            )
        database.close()
    assert len({rows(empty)["federation"][0]["state_id"]}) == 1


def test_a_state_of_a_newer_program_is_refused_and_not_touched(place: Path | str) -> None:
    with connected(place) as connection, connection.begin():
        connection.execute(text("UPDATE alembic_version SET version_num = '0999'"))
        connection.execute(text("DROP TABLE tombstones"))
        connection.commit()
    before = rows(place)
    with pytest.raises(StateError) as refusal:
        Database(place)
    assert str(refusal.value) == (
        f"the state has revision 0999 and this program knows none after {upgrading.NEWEST}; "
        "run the newer version of fednot that wrote it"
    )
    assert rows(place) == before


def test_a_schema_from_before_the_revisions_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite3"
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE federation (id INTEGER, schema_version INTEGER)")
        other.execute("INSERT INTO federation VALUES (1, 1)")
        other.commit()
    with pytest.raises(StateError, match="the state has schema 1, which this program cannot"):
        Database(path)


def test_a_migration_that_fails_leaves_the_state_as_it_was(empty: Path | str) -> None:
    """A row that cannot be: a request of a job that is not there, written without the check."""
    made_old(empty)
    with connected(empty) as connection:
        if connection.dialect.name == "sqlite":
            upgrading._follow_foreign_keys(connection, "OFF")
            statement = "UPDATE requests SET job_id = 'gone'"
        else:
            statement = "CREATE TABLE destructions (id INTEGER)"
        with connection.begin():
            connection.execute(text(statement))
    before = rows(empty)
    with pytest.raises(StateError, match=r"destructions|name nothing"):
        Database(empty)
    assert rows(empty) == before


def test_migrating_leaves_the_server_s_logging_alone(tmp_path: Path) -> None:
    root = logging.getLogger()
    before = (root.level, list(root.handlers), logging.getLogger("server.state").disabled)
    made_old(tmp_path / "state.sqlite3")
    Database(tmp_path / "state.sqlite3").close()
    assert (root.level, list(root.handlers), logging.getLogger("server.state").disabled) == before


def test_the_federation_has_one_row(place: Path | str) -> None:
    assert [row["id"] for row in rows(place)[federation.name]] == [1]
