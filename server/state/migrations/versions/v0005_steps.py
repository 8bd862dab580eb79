"""Steps of attempts between start and recovery, and the updates that are kept for them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Attempts that were made before had no steps; updates are kept from now on."""
    with op.batch_alter_table("attempts") as attempts:
        attempts.add_column(sa.Column("steps", sa.JSON, nullable=False, server_default="[]"))
    with op.batch_alter_table("attempts") as attempts:
        attempts.alter_column("steps", server_default=None)
    op.create_table(
        "kept_updates",
        sa.Column("base_version", sa.Integer, sa.ForeignKey("versions.number"), primary_key=True),
        sa.Column("client", sa.String(63), sa.ForeignKey("clients.name"), primary_key=True),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("num_examples", sa.BigInteger, nullable=False),
        sa.Column("num_bytes", sa.BigInteger, nullable=False),
        sa.Column("stride", sa.Integer, nullable=False),
        sa.Column("destroyed_by", sa.String(64), nullable=False),
    )
    for column in ("sha256", "destroyed_by"):
        op.create_index(f"ix_kept_updates_{column}", "kept_updates", [column])
