"""How often something was wrong with a client's updates."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Counting begins now."""
    op.create_table(
        "anomalies",
        sa.Column("client", sa.String(63), sa.ForeignKey("clients.name"), primary_key=True),
        sa.Column("kind", sa.String(32), primary_key=True),
        sa.Column("count", sa.BigInteger, nullable=False),
        sa.Column("last_at", sa.Double, nullable=False),
    )
