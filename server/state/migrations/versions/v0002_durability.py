"""Holds, priorities, deadlines of requests, destruction by clients, and who has the state."""

from __future__ import annotations

import uuid
from typing import Any, Final

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_TEXT: Final[dict[str, Any]] = {"nullable": False, "server_default": ""}
_NUMBER: Final[dict[str, Any]] = {"nullable": False, "server_default": "0"}


def upgrade() -> None:
    """Every row is kept; a request's own job is the one that served it."""
    _with_defaults(
        "federation",
        sa.Column("state_id", sa.String(32), **_TEXT),
        sa.Column("ledger_sequence", sa.Integer, **_NUMBER),
        sa.Column("ledger_hash", sa.String(64), **_TEXT),
        sa.Column("opened_by", sa.String(32), **_TEXT),
    )
    with op.batch_alter_table("federation") as federation:
        federation.drop_column("schema_version")
    named = sa.text("UPDATE federation SET state_id = :id").bindparams(id=uuid.uuid4().hex)
    op.execute(named)
    _with_defaults("versions", sa.Column("held_by", sa.String(64), **_TEXT))
    _with_defaults(
        "jobs",
        sa.Column("priority", sa.Integer, **_NUMBER),
        sa.Column("retain", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("hold_lifted_at", sa.Double),
        sa.Column("merged_into", sa.String(64), **_TEXT),
    )
    _requests()
    _destructions()
    _widen("versions", "num_bytes")
    _widen("clients", "num_train_examples", "num_test_examples")


def _with_defaults(table: str, *columns: sa.Column[Any]) -> None:
    """Adds columns that are filled for the rows there are; later rows bring their own values."""
    with op.batch_alter_table(table) as batch:
        for column in columns:
            batch.add_column(column)
    with op.batch_alter_table(table) as batch:
        for column in columns:
            batch.alter_column(column.name, server_default=None)


def _requests() -> None:
    with op.batch_alter_table("requests") as batch:
        batch.add_column(sa.Column("own_job_id", sa.String(64)))
        batch.add_column(sa.Column("not_after", sa.Double))
        batch.add_column(sa.Column("overdue_noted_at", sa.Double))
    op.execute("UPDATE requests SET own_job_id = job_id")
    with op.batch_alter_table("requests") as batch:
        batch.alter_column("own_job_id", nullable=False)
        batch.create_foreign_key("requests_own_job_id_fkey", "jobs", ["own_job_id"], ["id"])
        batch.create_index("ix_requests_own_job_id", ["own_job_id"])


def _destructions() -> None:
    op.create_table(
        "destructions",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("job_id", sa.String(64), sa.ForeignKey("jobs.id"), nullable=False),
        sa.Column("client", sa.String(63), sa.ForeignKey("clients.name"), nullable=False),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("ordered_at", sa.Double, nullable=False),
        sa.Column("acknowledged_at", sa.Double),
        sa.Column("destroyed", sa.JSON, nullable=False),
        sa.UniqueConstraint("job_id", "client", name="one_destruction_per_job_and_client"),
    )
    op.create_index("ix_destructions_job_id", "destructions", ["job_id"])
    op.create_index("ix_destructions_client", "destructions", ["client"])


def _widen(table: str, *columns: str) -> None:
    """Of a model or a data set beyond 2^31."""
    with op.batch_alter_table(table) as batch:
        for column in columns:
            batch.alter_column(column, type_=sa.BigInteger)
