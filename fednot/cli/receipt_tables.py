"""A receipt, and the keys of receipts, for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp
from rich.table import Table
from rich.text import Text

from fednot import sentences
from fednot.cli.output import printable
from fednot.receipt import Receipt
from fednot.receipt.payload import ForgottenScope, Judgement, Model, Try
from fednot.v1 import receipt_pb2

VERDICTS: Final = {
    "pass": ("PASS", "bold green"),
    "fail": ("FAIL", "bold red"),
    "not-possible": ("NOT POSSIBLE", "bold yellow"),
}


def keys_table(found: Sequence[receipt_pb2.ReceiptKey]) -> Table:
    """The keys, newest first."""
    table = Table("KEY", "SINCE", "UNTIL", box=None, pad_edge=False, header_style="bold")
    for key in found:
        until = _stamp(key.retired_at) if key.HasField("retired_at") else "signs now"
        table.add_row(key.id, _stamp(key.created_at), until)
    return table


def receipt_table(receipt: Receipt) -> Table:
    """What a receipt states, a line for each thing; the verdicts come first."""
    table = Table.grid(padding=(0, 2))
    for name, judged in (("behaviour", receipt.behaviour), ("depth", receipt.depth)):
        table.add_row(Text(name, "bold"), _verdict(judged))
    for name, value in _rows(receipt):
        table.add_row(Text(name, "bold"), Text(printable(value)))
    return table


def _verdict(judged: Judgement) -> Text:
    word, style = VERDICTS[judged.verdict]
    return Text.assemble((word, style), ": ", printable(judged.reason))


def _rows(receipt: Receipt) -> Iterator[tuple[str, str]]:
    yield "job", receipt.job_id
    yield "requests", ", ".join(receipt.request_ids)
    for scope in receipt.scopes:
        yield "forgotten", _scope(scope)
    yield "asked", f"{receipt.method_asked}, layers {receipt.layers_asked}, {receipt.assurance}"
    for attempt in receipt.attempts:
        kept = " (kept)" if attempt.number == receipt.chosen_attempt else ""
        yield f"attempt {attempt.number}", _attempt(attempt) + kept
    yield "initial version", _model(receipt.initial)
    yield "version before", _model(receipt.base)
    yield "version after", _model(receipt.result) + ("" if receipt.released else ", not released")
    yield "recovery", f"{receipt.recovery_rounds} rounds with {receipt.participants} clients"
    if receipt.chosen.verification is not None:
        for finding in receipt.chosen.verification.findings:
            figures = ", ".join(f"{name} {value:.3f}" for name, value in finding.figures.items())
            rounds = f" after {finding.rounds} rounds" if finding.rounds else ""
            yield "found", f"{finding.model}{rounds}: {figures}"
    destroyed = ", ".join(str(each.number) for each in receipt.destroyed)
    yield "destroyed", f"versions {destroyed}" if destroyed else "no version"
    if receipt.kept_updates:
        gone = receipt.kept_updates
        yield "kept updates", f"{gone.count} of clients destroyed, {gone.num_bytes} bytes"
    if receipt.held:
        yield "held", "versions " + ", ".join(str(each.number) for each in receipt.held)
    yield "at clients", _at_clients(receipt)
    yield "ledger", f"{receipt.ledger.entries} entries, head {receipt.ledger.sha256}"
    yield "audit", f"{receipt.audit.entries} entries, head {receipt.audit.sha256}"
    yield "issued", f"{_moment(receipt.issued_at)} by {receipt.software}"
    yield "worth", receipt.statement


def _scope(scope: ForgottenScope) -> str:
    confirmed = f", {scope.clients_confirmed} of {scope.clients_told} clients confirmed"
    more = confirmed if scope.clients_told else ""
    if scope.kind == "client":
        return f"everything of client {scope.client}{more}"
    if scope.kind == "class":
        return f"class {scope.label}{more}"
    count = "some" if scope.count is None else str(scope.count)
    digest = f", digest {scope.sha256}" if scope.sha256 else ""
    return f"{count} samples of client {scope.client}{digest}{more}"


def _attempt(attempt: Try) -> str:
    on = f" on {', '.join(attempt.tensors)}" if attempt.tensors else ""
    found = attempt.verification
    judged = ""
    if found is not None:
        words = (VERDICTS[each.verdict][0] for each in (found.behaviour, found.depth))
        judged = "; behaviour {}, depth {}".format(*words)
    why = f", {attempt.explanation}" if attempt.explanation else ""
    steps = f", {sentences.steps(attempt.steps)}" if attempt.steps else ""
    return f"{attempt.method}{on}{steps}: {attempt.outcome}{why}{judged}"


def _at_clients(receipt: Receipt) -> str:
    caches = sum(len(each.destroyed) for each in receipt.client_caches)
    said = f"{len(receipt.client_caches)} destroyed {caches} caches"
    return f"{said}, {receipt.clients_unacknowledged} had not answered"


def _model(found: Model) -> str:
    return f"{found.number}, generation {found.generation}, sha256 {found.sha256}"


def _moment(at: datetime) -> str:
    return at.strftime("%Y-%m-%d %H:%M:%SZ")


def _stamp(at: Timestamp) -> str:
    return _moment(at.ToDatetime())
