"""The tables of the server's state; `migrations` bring older ones up to them.

Times are seconds since the epoch.
"""

from __future__ import annotations

from sqlalchemy import (
    DDL,
    JSON,
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    event,
)

from server.state.append_only import APPEND_ONLY

metadata = MetaData()

federation = Table(
    "federation",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("manifest", Text, nullable=False, default=""),
    Column("layers", Text, nullable=False, default=""),
    Column("current_version", Integer, nullable=False, default=0),
    Column("released_version", Integer, nullable=False, default=0),
    Column("state_id", String(32), nullable=False, default=""),
    Column("ledger_sequence", Integer, nullable=False, default=0),
    Column("ledger_hash", String(64), nullable=False, default=""),
    Column("opened_by", String(32), nullable=False, default=""),
)

versions = Table(
    "versions",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("sha256", String(64), nullable=False, index=True),
    Column("parent", Integer, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("lineage", Integer, nullable=False),
    Column("origin", String(16), nullable=False),
    Column("round", Integer, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("num_bytes", BigInteger, nullable=False),
    Column("metrics", JSON, nullable=False),
    Column("negated_tensors", JSON, nullable=False),
    Column("destroyed_at", Double),
    Column("destroyed_by", String(64), nullable=False, default=""),
    Column("held_by", String(64), nullable=False, default=""),
)

clients = Table(
    "clients",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("joined_at", Double, nullable=False),
    Column("last_seen_at", Double, nullable=False),
    Column("num_train_examples", BigInteger, nullable=False),
    Column("num_test_examples", BigInteger, nullable=False),
    Column("device", String(32), nullable=False),
    Column("unsupported_scopes", JSON, nullable=False, default=dict),
    Column("instance", String(64), nullable=False, default=""),
)

runs = Table(
    "runs",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("rounds", Integer, nullable=False),
    Column("rounds_done", Integer, nullable=False, default=0),
    Column("state", String(16), nullable=False),
    Column("started_at", Double, nullable=False),
    Column("policy", JSON, nullable=False),
    Column("config", JSON, nullable=False),
    Column("failure", Text, nullable=False, default=""),
    Column("call_id", String(64), nullable=False, default=""),
    Column("traceparent", String(64), nullable=False, default=""),
)

rounds = Table(
    "rounds",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("phase", String(16), nullable=False),
    Column("outcome", String(16), nullable=False, index=True),
    Column("base_version", Integer, nullable=False),
    Column("result_version", Integer, nullable=False, default=0),
    Column("run_id", Integer, nullable=False, default=0),
    Column("job_id", String(64), nullable=False, default=""),
    Column("attempt", Integer, nullable=False, default=0),
    Column("cohort", JSON, nullable=False),
    Column("missing", JSON, nullable=False),
    Column("metrics", JSON, nullable=False),
    Column("started_at", Double, nullable=False),
    Column("ended_at", Double),
)

jobs = Table(
    "jobs",
    metadata,
    Column("sequence", Integer, primary_key=True),
    Column("id", String(64), nullable=False, unique=True),
    Column("phase", String(16), nullable=False, index=True),
    Column("method", String(32), nullable=False),
    Column("layers", Text, nullable=False),
    Column("allow_unsafe_layers", Boolean, nullable=False),
    Column("policy", JSON, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("base_version", Integer, nullable=False, default=0),
    Column("target_accuracy", Double),
    Column("released_version", Integer, nullable=False, default=0),
    Column("failure", Text, nullable=False, default=""),
    Column("priority", Integer, nullable=False, default=0),
    Column("retain", Boolean, nullable=False, default=False),
    Column("hold_lifted_at", Double),
    Column("merged_into", String(64), nullable=False, default=""),
    Column("assurance", String(16), nullable=False, default="behaviour"),
    Column("chosen_attempt", Integer, nullable=False, default=0),
    Column("call_id", String(64), nullable=False, default=""),
    Column("traceparent", String(64), nullable=False, default=""),
)

phase_entries = Table(
    "phase_entries",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("job_id", String(64), ForeignKey("jobs.id"), nullable=False, index=True),
    Column("phase", String(16), nullable=False),
    Column("at", Double, nullable=False),
)

attempts = Table(
    "attempts",
    metadata,
    Column("job_id", String(64), ForeignKey("jobs.id"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("method", String(32), nullable=False),
    Column("tensors", JSON, nullable=False),
    Column("start_version", Integer, ForeignKey("versions.number"), nullable=False),
    Column("outcome", String(16), nullable=False),
    Column("stop_reason", String(16)),
    Column("stopped_at", Integer, nullable=False, default=0),
    Column("warnings", JSON, nullable=False),
    Column("explanation", Text, nullable=False),
    Column("rung", Integer, nullable=False, default=0),
    Column("verification", JSON),
    Column("steps", JSON, nullable=False, default=list),
    UniqueConstraint("start_version", name="one_attempt_per_starting_version"),
)

requests = Table(
    "requests",
    metadata,
    Column("sequence", Integer, primary_key=True),
    Column("caller", String(80), nullable=False, default=""),
    Column("request_id", String(128), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("job_id", String(64), ForeignKey("jobs.id"), nullable=False, index=True),
    Column("accepted_at", Double, nullable=False),
    Column("aborted_rounds", JSON, nullable=False),
    Column("own_job_id", String(64), ForeignKey("jobs.id"), nullable=False, index=True),
    Column("not_after", Double),
    Column("overdue_noted_at", Double),
    UniqueConstraint("caller", "request_id", name="one_request_per_caller_and_id"),
)

scopes = Table(
    "scopes",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("request", Integer, ForeignKey("requests.sequence"), nullable=False, index=True),
    Column("kind", String(16), nullable=False),
    Column("client", String(63), nullable=False, default="", index=True),
    Column("subject", Text, nullable=False, default=""),
    Column("label", BigInteger),
    Column("count", BigInteger),
    Column("sha256", String(64), nullable=False, default=""),
    Column("tombstone", String(64), nullable=False, default=""),
    Column("since", Double, nullable=False),
    Column("lifted_at", Double),
)

forget_orders = Table(
    "forget_orders",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("scope", Integer, ForeignKey("scopes.id"), nullable=False, index=True),
    Column("client", String(63), ForeignKey("clients.name"), nullable=False, index=True),
    Column("lift", Boolean, nullable=False, default=False),
    Column("ordered_at", Double, nullable=False),
    Column("confirmed_at", Double),
    Column("count", BigInteger, nullable=False, default=0),
    Column("sha256", String(64), nullable=False, default=""),
    Column("refusal", Text, nullable=False, default=""),
    UniqueConstraint("scope", "client", name="one_order_per_scope_and_client"),
)

tombstones = Table(
    "tombstones",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("client", String(63), nullable=False, index=True),
    Column("request", Integer, ForeignKey("requests.sequence"), nullable=False),
    Column("since", Double, nullable=False),
    Column("lifted_at", Double),
)

destructions = Table(
    "destructions",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("job_id", String(64), ForeignKey("jobs.id"), nullable=False, index=True),
    Column("client", String(63), ForeignKey("clients.name"), nullable=False, index=True),
    Column("generation", Integer, nullable=False),
    Column("ordered_at", Double, nullable=False),
    Column("acknowledged_at", Double),
    Column("destroyed", JSON, nullable=False),
    UniqueConstraint("job_id", "client", name="one_destruction_per_job_and_client"),
)

receipts = Table(
    "receipts",
    metadata,
    Column("job_id", String(64), ForeignKey("jobs.id"), primary_key=True),
    Column("jws", Text, nullable=False),
    Column("key_id", String(64), nullable=False),
    Column("issued_at", Double, nullable=False),
)

receipt_keys = Table(
    "receipt_keys",
    metadata,
    Column("sequence", Integer, primary_key=True),
    Column("id", String(64), nullable=False, unique=True),
    Column("pem", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("retired_at", Double),
)

anomalies = Table(
    "anomalies",
    metadata,
    Column("client", String(63), ForeignKey("clients.name"), primary_key=True),
    Column("kind", String(32), primary_key=True),
    Column("count", BigInteger, nullable=False),
    Column("last_at", Double, nullable=False),
)

kept_updates = Table(
    "kept_updates",
    metadata,
    Column("base_version", Integer, ForeignKey("versions.number"), primary_key=True),
    Column("client", String(63), ForeignKey("clients.name"), primary_key=True),
    Column("sha256", String(64), nullable=False, index=True),
    Column("num_examples", BigInteger, nullable=False),
    Column("num_bytes", BigInteger, nullable=False),
    Column("stride", Integer, nullable=False),
    Column("destroyed_by", String(64), nullable=False, default="", index=True),
)

approvals = Table(
    "approvals",
    metadata,
    Column("sequence", Integer, primary_key=True),
    Column("id", String(64), nullable=False, unique=True),
    Column("kind", String(16), nullable=False),
    Column("state", String(16), nullable=False, index=True),
    Column("client", String(63), nullable=False),
    Column("job_id", String(64), nullable=False, default="", index=True),
    Column("requested_by", String(80), nullable=False),
    Column("requested_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False),
    Column("decided_by", String(80), nullable=False, default=""),
    Column("decided_at", Double),
)

enrolment_tokens = Table(
    "enrolment_tokens",
    metadata,
    Column("secret_sha256", String(64), primary_key=True),
    Column("client", String(63), nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False),
    Column("used_at", Double),
    Column("used_key", String(64), nullable=False, default=""),
)

audit = Table(
    "audit",
    metadata,
    Column("sequence", Integer, primary_key=True, autoincrement=False),
    Column("at_microseconds", BigInteger, nullable=False),
    Column("actor", String(64), nullable=False),
    Column("role", String(16), nullable=False),
    Column("action", String(64), nullable=False),
    Column("subject", String(64), nullable=False),
    Column("outcome", String(16), nullable=False),
    Column("reason", String(64), nullable=False),
    Column("job_id", String(64), nullable=False),
    Column("version", Integer, nullable=False),
    Column("count", Integer, nullable=False),
    Column("previous_hash", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
)

pseudonyms = Table(
    "pseudonyms",
    metadata,
    Column("name", String(80), primary_key=True),
    Column("pseudonym", String(64), nullable=False, unique=True),
    Column("key", LargeBinary(32), nullable=False),
)

for _dialect, _statements in APPEND_ONLY.items():
    for _text in _statements:
        _statement = DDL(_text)  # type: ignore[no-untyped-call]
        event.listen(audit, "after_create", _statement.execute_if(dialect=_dialect))
