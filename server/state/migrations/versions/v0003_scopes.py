"""Scopes of samples and classes, verification, receipts."""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_TEXT: Final[dict[str, Any]] = {"nullable": False, "server_default": ""}
_NUMBER: Final[dict[str, Any]] = {"nullable": False, "server_default": "0"}


def upgrade() -> None:
    """Every request so far forgets one client."""
    nothing: dict[str, Any] = {"nullable": False, "server_default": "{}"}
    _with_defaults(
        "clients",
        sa.Column("unsupported_scopes", sa.JSON, **nothing),
        sa.Column("instance", sa.String(64), **_TEXT),
    )
    _with_defaults(
        "jobs",
        sa.Column("assurance", sa.String(16), nullable=False, server_default="behaviour"),
        sa.Column("chosen_attempt", sa.Integer, **_NUMBER),
    )
    _with_defaults("attempts", sa.Column("rung", sa.Integer, **_NUMBER))
    with op.batch_alter_table("attempts") as attempts:
        attempts.add_column(sa.Column("verification", sa.JSON))
    _scopes()
    _forget_orders()
    _receipts()


def _with_defaults(table: str, *columns: sa.Column[Any]) -> None:
    """Adds columns that are filled for the rows there are; later rows bring their own values."""
    with op.batch_alter_table(table) as batch:
        for column in columns:
            batch.add_column(column)
    with op.batch_alter_table(table) as batch:
        for column in columns:
            batch.alter_column(column.name, server_default=None)


def _scopes() -> None:
    op.create_table(
        "scopes",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("request", sa.Integer, sa.ForeignKey("requests.sequence"), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("client", sa.String(63), nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("label", sa.BigInteger),
        sa.Column("count", sa.BigInteger),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("tombstone", sa.String(64), nullable=False),
        sa.Column("since", sa.Double, nullable=False),
        sa.Column("lifted_at", sa.Double),
    )
    op.create_index("ix_scopes_request", "scopes", ["request"])
    op.create_index("ix_scopes_client", "scopes", ["client"])
    op.execute(
        "INSERT INTO scopes (request, kind, client, subject, sha256, tombstone, since, lifted_at) "
        "SELECT sequence, 'client', client, '', '', '', accepted_at, "
        "(SELECT max(tombstones.lifted_at) FROM tombstones "
        "WHERE tombstones.request = requests.sequence) FROM requests ORDER BY sequence"
    )
    with op.batch_alter_table("requests") as requests:
        requests.drop_index("ix_requests_client")
        requests.drop_column("client")


def _forget_orders() -> None:
    op.create_table(
        "forget_orders",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("scope", sa.Integer, sa.ForeignKey("scopes.id"), nullable=False),
        sa.Column("client", sa.String(63), sa.ForeignKey("clients.name"), nullable=False),
        sa.Column("lift", sa.Boolean, nullable=False),
        sa.Column("ordered_at", sa.Double, nullable=False),
        sa.Column("confirmed_at", sa.Double),
        sa.Column("count", sa.BigInteger, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("refusal", sa.Text, nullable=False),
        sa.UniqueConstraint("scope", "client", name="one_order_per_scope_and_client"),
    )
    op.create_index("ix_forget_orders_scope", "forget_orders", ["scope"])
    op.create_index("ix_forget_orders_client", "forget_orders", ["client"])


def _receipts() -> None:
    op.create_table(
        "receipts",
        sa.Column("job_id", sa.String(64), sa.ForeignKey("jobs.id"), primary_key=True),
        sa.Column("jws", sa.Text, nullable=False),
        sa.Column("key_id", sa.String(64), nullable=False),
        sa.Column("issued_at", sa.Double, nullable=False),
    )
    op.create_table(
        "receipt_keys",
        sa.Column("sequence", sa.Integer, primary_key=True),
        sa.Column("id", sa.String(64), nullable=False, unique=True),
        sa.Column("pem", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("retired_at", sa.Double),
    )
