"""Runs migrations on the connection and in the transaction of whoever calls Alembic."""

from __future__ import annotations

from alembic import context

from server.state.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
