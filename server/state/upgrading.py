"""Brings the tables of a state to what this program needs, or refuses a state that it cannot use.

A new state gets the tables as `schema` has them, which takes a few milliseconds; an older one goes
through the migrations, each in a transaction of its own. A test holds that both end alike.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import Column, Connection, MetaData, String, Table, inspect, select, text
from sqlalchemy.sql import insert

from server.failpoints import around
from server.state.commits import Commit
from server.state.connecting import will_write
from server.state.faults import StateError
from server.state.schema import federation, metadata

if TYPE_CHECKING:
    from alembic.config import Config

log = logging.getLogger("server.state")

NEWEST: Final = "0006"
"""The revision that `schema` describes; a test compares it with the migrations."""

FIRST: Final = "0001"
_BEFORE_REVISIONS: Final = {2: FIRST}
"""Schema numbers of states that were written before there were revisions."""

_revisions: Final = Table(
    "alembic_version",
    MetaData(),
    Column("version_num", String(32), primary_key=True),
)
MIGRATIONS: Final = Path(__file__).parent / "migrations"


def bring_up_to_date(connection: Connection) -> None:
    """Makes the tables, or migrates them. Raises StateError for a state of a newer program."""
    will_write(connection, False)
    with connection.begin():
        found = revision_of(connection)
    if found == NEWEST:
        return
    if not found:
        _commit(connection, _create)
        return
    steps = _steps_from(found)
    for step in steps:
        log.info("migrating the state from revision %s to %s", found, step)
        migrate(connection, step)
        found = step


def revision_of(connection: Connection) -> str:
    """The revision of a state; "" if it is new. Raises StateError for one of an odd schema."""
    tables = inspect(connection)
    if tables.has_table(_revisions.name):
        return str(connection.execute(select(_revisions.c.version_num)).scalar() or "")
    if not tables.has_table(federation.name):
        return ""
    number = connection.execute(text("SELECT schema_version FROM federation")).scalar()
    if number not in _BEFORE_REVISIONS:
        raise StateError(
            f"the state has schema {number}, which this program cannot migrate; "
            "run the version of fednot that wrote it"
        )
    return _BEFORE_REVISIONS[number]


def migrate(connection: Connection, to: str) -> None:
    """Runs the migrations up to a revision in one transaction.

    SQLite cannot change a table, only replace it, for which it must not follow foreign keys
    meanwhile; they are checked before the commit.
    """
    from alembic import command

    is_sqlite = connection.dialect.name == "sqlite"
    config = configuration()
    config.attributes["connection"] = connection

    def upgrade(connection: Connection) -> None:
        if revision_of(connection) and not inspect(connection).has_table(_revisions.name):
            command.stamp(config, FIRST)
        command.upgrade(config, to)
        if is_sqlite and (broken := connection.exec_driver_sql("PRAGMA foreign_key_check").all()):
            raise StateError(f"rows of the state name nothing: {broken[:5]}")

    if is_sqlite:
        _follow_foreign_keys(connection, "OFF")
    try:
        _commit(connection, upgrade)
    finally:
        if is_sqlite:
            _follow_foreign_keys(connection, "ON")


def configuration() -> Config:
    """Alembic's configuration, which needs no file."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _steps_from(found: str) -> list[str]:
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory.from_config(configuration())
    known = [script.revision for script in scripts.walk_revisions()]
    if found not in known:
        raise StateError(
            f"the state has revision {found} and this program knows none after {NEWEST}; "
            "run the newer version of fednot that wrote it"
        )
    return list(reversed(known[: known.index(found)]))


def _create(connection: Connection) -> None:
    metadata.create_all(connection)
    connection.execute(insert(federation).values(id=1, state_id=uuid.uuid4().hex))
    _revisions.create(connection)
    connection.execute(insert(_revisions).values(version_num=NEWEST))


def _commit(connection: Connection, work: Callable[[Connection], None]) -> None:
    will_write(connection, True)
    with connection.begin() as transaction:
        work(connection)
        with around(f"commit.{Commit.SCHEMA}"):
            transaction.commit()


def _follow_foreign_keys(connection: Connection, how: str) -> None:
    cursor = connection.connection.cursor()  # has no effect in a transaction
    cursor.execute(f"PRAGMA foreign_keys={how}")
    cursor.close()
