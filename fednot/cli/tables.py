"""Lists of the server as tables for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp
from rich.table import Table
from rich.text import Text

from fednot import sentences
from fednot.cli.output import printable
from fednot.v1 import approval_pb2, audit_pb2, deletion_pb2, model_pb2, operator_pb2

DASH: Final = "-"
ALARM: Final = "bold red"
_SHA: Final = 12
_CALL: Final = 12
"""Characters of a call id, which begin it: enough to find its lines in a log."""


def status(
    found: operator_pb2.GetStatusResponse, deletions: Iterable[deletion_pb2.Deletion] = ()
) -> Table:
    """Where the federation stands, a line for each thing.

    Of the deletions, newest first, the last one whose job was verified is shown if that failed.
    """
    table = Table.grid(padding=(0, 2))
    for name, value in _status_rows(found):
        table.add_row(Text(name, "bold"), Text(printable(value)))
    for each in deletions:
        verified = sentences.chosen_verification(each.job)
        if sentences.has_failed(verified):
            what = f"FAILED for {each.request_id} of {sentences.scopes(each)}: "
            table.add_row(Text("verification", ALARM), _alarm(what + sentences.verdicts(each)))
        if verified is not None:
            break
    return table


def _alarm(text: str) -> Text:
    return Text(printable(text), ALARM)


def clients(found: Sequence[operator_pb2.ClientInfo], now: datetime | None = None) -> Table:
    """The clients by name."""
    table = _table(
        *("NAME", "STATE", "LAST SEEN", "TRAIN", "TEST", "DEVICE"),
        *("CERTIFICATE", "BARRED BY", "PRIVACY", "ODD UPDATES"),
    )
    for client in found:
        device = f"{client.device} (degraded)" if client.degraded else client.device
        _add(
            table,
            client.name,
            sentences.client_state(client.state),
            _ago(client.last_seen_at, now or datetime.now(UTC)),
            client.num_train_examples,
            client.num_test_examples,
            device,
            _until(client.certificate_expires_at),
            client.barred_by,
            sentences.privacy(client.privacy) if client.HasField("privacy") else DASH,
            sentences.anomalies(client.anomalies),
        )
    return table


def rounds(found: Iterable[operator_pb2.Round]) -> Table:
    """The rounds, newest first."""
    table = _table("ROUND", "PHASE", "OUTCOME", "VERSION", "UPDATES", "METRICS", "MISSING")
    for each in found:
        _add(
            table,
            each.number,
            sentences.round_phase(each.phase),
            sentences.round_outcome(each.outcome),
            each.result_version,
            _updates(each),
            sentences.metrics(each.metrics),
            sentences.listed(item.client for item in each.missing),
        )
    return table


def versions(found: Iterable[model_pb2.Version]) -> Table:
    """The versions, newest first."""
    table = _table(
        "VERSION", "ORIGIN", "STATE", "GEN", "LINEAGE", "SIZE", "SHA256", "METRICS", "CREATED"
    )
    for each in found:
        _add(
            table,
            each.number,
            sentences.origin(each.origin),
            _version_state(each),
            each.generation,
            each.lineage,
            sentences.size(each.num_bytes),
            each.sha256[:_SHA],
            sentences.metrics(each.metrics),
            sentences.moment(each.created_at),
        )
    return table


def deletions(found: Iterable[deletion_pb2.Deletion]) -> Table:
    """The deletions, newest first."""
    table = _table(
        *("REQUEST", "SCOPE", "PHASE", "JOB", "CALL", "METHOD"),
        *("ROUNDS", "ACCEPTED", "BY", "NOTE"),
    )
    for each in found:
        job = each.job
        verdicts = sentences.verdicts(each)
        failed = sentences.has_failed(sentences.chosen_verification(job))
        steps = len(job.attempts[-1].steps) if job.attempts else 0
        notes = (
            f"VERIFICATION FAILED: {verdicts}" if failed else verdicts,
            sentences.lateness(each),
            sentences.steps(steps) if steps else "",
            job.failure or job.waiting_for,
            "" if job.waiting_for else sentences.confirmations(each),
        )
        _add(
            table,
            each.request_id,
            sentences.scopes(each),
            sentences.job_phase(job.phase),
            job.id,
            job.call_id[:_CALL],
            job.attempts[-1].method if job.attempts else each.method,
            sum(len(attempt.rounds) for attempt in job.attempts),
            sentences.moment(each.accepted_at),
            sentences.caller(each.requested_by),
            Text(printable("; ".join(filter(None, notes))), style=ALARM if failed else ""),
        )
    return table


def approvals(found: Iterable[approval_pb2.Approval]) -> Table:
    """The approvals, newest first."""
    table = _table("APPROVAL", "FOR", "CLIENT", "STATE", "ASKED BY", "ASKED", "UNTIL", "DECIDED BY")
    for each in found:
        _add(
            table,
            each.id,
            sentences.approval_kind(each.kind),
            each.client,
            sentences.approval_state(each.state),
            sentences.caller(each.requested_by),
            sentences.moment(each.requested_at),
            sentences.moment(each.expires_at),
            sentences.caller(each.decided_by),
        )
    return table


def audit(found: Iterable[audit_pb2.AuditEntry]) -> Table:
    """The entries of the audit as they come; a pseudonym where no name is known any more."""
    table = _table("ENTRY", "AT", "WHO", "WHAT", "ABOUT", "OUTCOME", "REASON", "OF", "TIMES")
    for each in found:
        _add(
            table,
            each.sequence,
            sentences.moment(each.at),
            each.actor_name or each.actor,
            each.action,
            each.subject_name or each.subject,
            sentences.audit_outcome(each.outcome),
            each.reason,
            each.job_id or (f"version {each.version}" if each.version else ""),
            each.count,
        )
    return table


def _status_rows(found: operator_pb2.GetStatusResponse) -> Iterable[tuple[str, str]]:
    yield "server", f"fednot {found.software_version}, clock {sentences.moment(found.now)}"
    yield "clients", f"{found.clients_connected} connected, {found.clients_barred} barred"
    yield "current", _version(found.current) if found.HasField("current") else "no model"
    yield "released", _version(found.released) if found.HasField("released") else "none"
    if found.aggregation:
        yield "aggregation", found.aggregation
    yield "run", _run(found.run) if found.HasField("run") else "none so far"
    if found.HasField("round"):
        yield (
            "round",
            f"{sentences.round_progress(found.round)} ({sentences.round_phase(found.round.phase)})",
        )
    if found.HasField("deletion"):
        job = found.deletion.job
        scope = sentences.scopes(found.deletion)
        yield (
            "deletion",
            f"{found.deletion.request_id} of {scope}: {sentences.job_phase(job.phase)}"
            + (f"; {job.waiting_for}" if job.phase == deletion_pb2.JOB_PHASE_AWAITING else ""),
        )
    if found.secure_aggregation:
        yield "updates", "masked by the clients; the server sees sums alone"
    if found.HasField("kept_updates"):
        kept = found.kept_updates
        yield "kept updates", f"{kept.count} of clients, {sentences.size(kept.num_bytes)}"
    yield "open deletions", str(found.open_deletions)
    if found.HasField("privacy"):
        yield "privacy", f"{sentences.privacy(found.privacy)}, spent by the client that spent most"
    if found.waiting_for:
        yield "waiting", found.waiting_for


def _run(run: operator_pb2.TrainingRun) -> str:
    text = f"{run.id}: {sentences.run_state(run.state)}, {run.rounds_done} of {run.rounds} rounds"
    text += f", call {run.call_id[:_CALL]}" if run.call_id else ""
    return f"{text}: {run.failure}" if run.failure else text


def _version(version: model_pb2.Version) -> str:
    scores = sentences.metrics(version.metrics)
    text = f"version {version.number} ({sentences.origin(version.origin)})"
    return f"{text}, {scores}" if scores else text


def _version_state(version: model_pb2.Version) -> str:
    if version.HasField("destroyed_at"):
        return "destroyed"
    if version.held_by:
        return f"held by {version.held_by}"
    return "released" if version.released else "kept"


def _updates(found: operator_pb2.Round) -> str:
    if found.outcome == operator_pb2.ROUND_OUTCOME_RUNNING:
        return f"? of {len(found.cohort)}"
    return f"{len(found.cohort) - len(found.missing)} of {len(found.cohort)}"


def _until(stamp: Timestamp) -> str:
    return f"until {sentences.moment(stamp)}" if stamp.ByteSize() else DASH


def _ago(stamp: Timestamp, now: datetime) -> str:
    if not stamp.ByteSize():
        return DASH
    seconds = max(0, int(now.timestamp()) - stamp.seconds)
    if seconds < 120:
        return f"{seconds} s ago"
    return f"{seconds // 60} min ago" if seconds < 7200 else sentences.moment(stamp)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _add(table: Table, *cells: str | int | Text) -> None:
    table.add_row(*(_cell(cell) for cell in cells))


def _cell(cell: str | int | Text) -> Text:
    if isinstance(cell, Text):
        return cell if cell.plain else Text(DASH)
    return Text(printable(str(cell)) or DASH)
