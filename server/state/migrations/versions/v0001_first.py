"""The tables of the development versions, which called them schema 2."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from server.state.append_only import APPEND_ONLY

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Makes the tables of a new state."""
    _models_and_rounds()
    _jobs_and_requests()
    _approvals_and_tokens()
    _audit()


def _models_and_rounds() -> None:
    op.create_table(
        "federation",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("schema_version", sa.Integer, nullable=False),
        sa.Column("manifest", sa.Text, nullable=False),
        sa.Column("layers", sa.Text, nullable=False),
        sa.Column("current_version", sa.Integer, nullable=False),
        sa.Column("released_version", sa.Integer, nullable=False),
    )
    op.create_table(
        "versions",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("parent", sa.Integer, nullable=False),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("lineage", sa.Integer, nullable=False),
        sa.Column("origin", sa.String(16), nullable=False),
        sa.Column("round", sa.Integer, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("num_bytes", sa.Integer, nullable=False),
        sa.Column("metrics", sa.JSON, nullable=False),
        sa.Column("negated_tensors", sa.JSON, nullable=False),
        sa.Column("destroyed_at", sa.Double),
        sa.Column("destroyed_by", sa.String(64), nullable=False),
    )
    op.create_index("ix_versions_sha256", "versions", ["sha256"])
    op.create_table(
        "clients",
        sa.Column("name", sa.String(63), primary_key=True),
        sa.Column("joined_at", sa.Double, nullable=False),
        sa.Column("last_seen_at", sa.Double, nullable=False),
        sa.Column("num_train_examples", sa.Integer, nullable=False),
        sa.Column("num_test_examples", sa.Integer, nullable=False),
        sa.Column("device", sa.String(32), nullable=False),
    )
    op.create_table(
        "runs",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("rounds", sa.Integer, nullable=False),
        sa.Column("rounds_done", sa.Integer, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("started_at", sa.Double, nullable=False),
        sa.Column("policy", sa.JSON, nullable=False),
        sa.Column("config", sa.JSON, nullable=False),
        sa.Column("failure", sa.Text, nullable=False),
    )
    op.create_table(
        "rounds",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("phase", sa.String(16), nullable=False),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("base_version", sa.Integer, nullable=False),
        sa.Column("result_version", sa.Integer, nullable=False),
        sa.Column("run_id", sa.Integer, nullable=False),
        sa.Column("job_id", sa.String(64), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("cohort", sa.JSON, nullable=False),
        sa.Column("missing", sa.JSON, nullable=False),
        sa.Column("metrics", sa.JSON, nullable=False),
        sa.Column("started_at", sa.Double, nullable=False),
        sa.Column("ended_at", sa.Double),
    )
    op.create_index("ix_rounds_outcome", "rounds", ["outcome"])


def _jobs_and_requests() -> None:
    op.create_table(
        "jobs",
        sa.Column("sequence", sa.Integer, primary_key=True),
        sa.Column("id", sa.String(64), nullable=False, unique=True),
        sa.Column("phase", sa.String(16), nullable=False),
        sa.Column("method", sa.String(32), nullable=False),
        sa.Column("layers", sa.Text, nullable=False),
        sa.Column("allow_unsafe_layers", sa.Boolean, nullable=False),
        sa.Column("policy", sa.JSON, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("base_version", sa.Integer, nullable=False),
        sa.Column("target_accuracy", sa.Double),
        sa.Column("released_version", sa.Integer, nullable=False),
        sa.Column("failure", sa.Text, nullable=False),
    )
    op.create_index("ix_jobs_phase", "jobs", ["phase"])
    op.create_table(
        "phase_entries",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("job_id", sa.String(64), sa.ForeignKey("jobs.id"), nullable=False),
        sa.Column("phase", sa.String(16), nullable=False),
        sa.Column("at", sa.Double, nullable=False),
    )
    op.create_index("ix_phase_entries_job_id", "phase_entries", ["job_id"])
    op.create_table(
        "attempts",
        sa.Column("job_id", sa.String(64), sa.ForeignKey("jobs.id"), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("method", sa.String(32), nullable=False),
        sa.Column("tensors", sa.JSON, nullable=False),
        sa.Column("start_version", sa.Integer, sa.ForeignKey("versions.number"), nullable=False),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("stop_reason", sa.String(16)),
        sa.Column("stopped_at", sa.Integer, nullable=False),
        sa.Column("warnings", sa.JSON, nullable=False),
        sa.Column("explanation", sa.Text, nullable=False),
        sa.UniqueConstraint("start_version", name="one_attempt_per_starting_version"),
    )
    op.create_table(
        "requests",
        sa.Column("sequence", sa.Integer, primary_key=True),
        sa.Column("caller", sa.String(80), nullable=False),
        sa.Column("request_id", sa.String(128), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("client", sa.String(63), sa.ForeignKey("clients.name"), nullable=False),
        sa.Column("job_id", sa.String(64), sa.ForeignKey("jobs.id"), nullable=False),
        sa.Column("accepted_at", sa.Double, nullable=False),
        sa.Column("aborted_rounds", sa.JSON, nullable=False),
        sa.UniqueConstraint("caller", "request_id", name="one_request_per_caller_and_id"),
    )
    op.create_index("ix_requests_client", "requests", ["client"])
    op.create_index("ix_requests_job_id", "requests", ["job_id"])
    op.create_table(
        "tombstones",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("client", sa.String(63), nullable=False),
        sa.Column("request", sa.Integer, sa.ForeignKey("requests.sequence"), nullable=False),
        sa.Column("since", sa.Double, nullable=False),
        sa.Column("lifted_at", sa.Double),
    )
    op.create_index("ix_tombstones_client", "tombstones", ["client"])


def _approvals_and_tokens() -> None:
    op.create_table(
        "approvals",
        sa.Column("sequence", sa.Integer, primary_key=True),
        sa.Column("id", sa.String(64), nullable=False, unique=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("client", sa.String(63), nullable=False),
        sa.Column("job_id", sa.String(64), nullable=False),
        sa.Column("requested_by", sa.String(80), nullable=False),
        sa.Column("requested_at", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
        sa.Column("decided_by", sa.String(80), nullable=False),
        sa.Column("decided_at", sa.Double),
    )
    op.create_index("ix_approvals_state", "approvals", ["state"])
    op.create_index("ix_approvals_job_id", "approvals", ["job_id"])
    op.create_table(
        "enrolment_tokens",
        sa.Column("secret_sha256", sa.String(64), primary_key=True),
        sa.Column("client", sa.String(63), nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
        sa.Column("used_at", sa.Double),
        sa.Column("used_key", sa.String(64), nullable=False),
    )


def _audit() -> None:
    op.create_table(
        "audit",
        sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("at_microseconds", sa.BigInteger, nullable=False),
        sa.Column("actor", sa.String(64), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("action", sa.String(64), nullable=False),
        sa.Column("subject", sa.String(64), nullable=False),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("reason", sa.String(64), nullable=False),
        sa.Column("job_id", sa.String(64), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("count", sa.Integer, nullable=False),
        sa.Column("previous_hash", sa.String(64), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
    )
    op.create_table(
        "pseudonyms",
        sa.Column("name", sa.String(80), primary_key=True),
        sa.Column("pseudonym", sa.String(64), nullable=False, unique=True),
        sa.Column("key", sa.LargeBinary(32), nullable=False),
    )
    for statement in APPEND_ONLY[op.get_context().dialect.name]:
        op.execute(statement)
