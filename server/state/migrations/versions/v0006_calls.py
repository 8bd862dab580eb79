"""The call that a job or a training run goes back to, and its trace."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Of jobs and runs that there are it is not known."""
    columns = ("call_id", "traceparent")
    for table in ("jobs", "runs"):
        with op.batch_alter_table(table) as changed:
            for name in columns:
                changed.add_column(
                    sa.Column(name, sa.String(64), nullable=False, server_default="")
                )
        with op.batch_alter_table(table) as changed:
            for name in columns:
                changed.alter_column(name, server_default=None)
