"""All rows of a state, from one database to another, of whatever kind the two are."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from sqlalchemy import Connection, create_engine, delete, func, insert, select, text
from sqlalchemy.exc import DatabaseError

from server.state.schema import federation, metadata

BATCH: Final = 500


def copy_rows(source: Connection, target: Connection) -> dict[str, int]:
    """Copies every row into tables that are empty, and returns how many there were in each.

    The row that a new state has of its federation gives way to the source's.
    """
    target.execute(delete(federation))
    counts = {}
    for table in metadata.sorted_tables:
        counts[table.name] = 0
        ordered = select(table).order_by(*table.primary_key.columns)
        found = source.execute(ordered.execution_options(yield_per=BATCH))
        for part in found.mappings().partitions():
            target.execute(insert(table), [dict(row) for row in part])
            counts[table.name] += len(part)
    return counts


def write_file(source: Connection, path: Path) -> dict[str, int]:
    """Writes all rows into a new SQLite file with the same tables; returns as `copy_rows` does.

    Raises OSError if they cannot be copied, for want of room for instance.
    """
    engine = create_engine(f"sqlite:///{path}")
    try:
        with engine.begin() as target:
            metadata.create_all(target)
            return copy_rows(source, target)
    except DatabaseError as error:
        raise OSError(f"the rows cannot be copied into {path}: {error.orig}") from error
    finally:
        engine.dispose()


def go_on_numbering(target: Connection) -> None:
    """Has new rows numbered after those that are there.

    PostgreSQL numbers by sequences, which rows that bring their numbers do not move.
    """
    if target.dialect.name != "postgresql":
        return
    for table in metadata.sorted_tables:
        column = table.autoincrement_column
        highest = None if column is None else target.scalar(select(func.max(column)))
        if column is not None and highest is not None:
            name = target.scalar(
                text("SELECT pg_get_serial_sequence(:table, :column)"),
                {"table": table.name, "column": column.name},
            )
            if name is not None:
                target.execute(text("SELECT setval(:name, :to)"), {"name": name, "to": highest})
