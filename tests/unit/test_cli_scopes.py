"""What is to be forgotten, on the command line and in what it prints; and verdicts."""

from __future__ import annotations

from typing import Any

import pytest
import typer
from rich.table import Table

from fednot import sentences
from fednot.cli import progress, tables, unlearning
from fednot.cli.output import Format, Output
from fednot.cli.views import PlainView
from fednot.v1 import deletion_pb2, operator_pb2

SCOPE, SAMPLES = deletion_pb2.Scope, deletion_pb2.SampleScope
DIGEST = deletion_pb2.SampleDigest(count=3, sha256="a" * 64)


@pytest.mark.parametrize(
    ("text", "scope"),
    [
        ("client:c1", SCOPE(client="c1")),
        ("class:7", SCOPE(class_label=7)),
        ("samples:c1:person", SCOPE(samples=SAMPLES(client="c1", subject="person"))),
        ("samples:c1:a:b", SCOPE(samples=SAMPLES(client="c1", subject="a:b"))),
    ],
)
def test_a_further_scope_is_written_in_one_word(text: str, scope: deletion_pb2.Scope) -> None:
    assert unlearning._scopes_in([text]) == [scope]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "c1",
        "client:",
        "class:",
        "class:x",
        "class:-1",
        "class:9" * 12,
        "samples:c1",
        "samples::k",
    ],
)
def test_what_is_no_scope_is_a_wrong_command_line(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="is no scope; write client:NAME"):
        unlearning._scopes_in([text])


@pytest.mark.parametrize(
    ("scope", "told"),
    [
        (SCOPE(client="c1"), "client c1"),
        (SCOPE(class_label=0), "class 0"),
        (SCOPE(samples=SAMPLES(client="c1", barred=DIGEST)), "3 samples of client c1"),
        (SCOPE(samples=SAMPLES(client="c1", subject="p")), "samples of client c1 (subject p)"),
        (SCOPE(samples=SAMPLES(client="c1")), "samples of client c1"),
        (SCOPE(), "unknown scope"),
    ],
)
def test_a_scope_in_words(scope: deletion_pb2.Scope, told: str) -> None:
    assert sentences.scope(scope) == told


def verified(behaviour: str, depth: str, **values: Any) -> deletion_pb2.Deletion:
    """Two attempts, of which the first was kept; the second failed both ways."""
    attempts = [
        deletion_pb2.Attempt(
            number=number,
            verification=deletion_pb2.Verification(
                behaviour=f"VERDICT_{first}",
                behaviour_reason="as unseen",
                depth=f"VERDICT_{second}",
                depth_reason="it comes back",
            ),
        )
        for number, first, second in ((1, behaviour, depth), (2, "FAIL", "FAIL"))
    ]
    job = deletion_pb2.Job(
        phase="JOB_PHASE_COMPLETED", released_version=4, attempts=attempts, chosen_attempt=1
    )
    return deletion_pb2.Deletion(
        request_id="r1", scope=SCOPE(client="c1"), more_scopes=[SCOPE(class_label=7)], job=job
    )


def styles(table: Table) -> set[str]:
    return {str(getattr(cell, "style", "")) for column in table.columns for cell in column._cells}


def test_a_failed_verdict_is_shouted(capsys: pytest.CaptureFixture[str]) -> None:
    found = verified("PASS", "FAIL")
    response = deletion_pb2.WatchDeletionResponse(deletion=found)
    shown = progress.of_deletion(response)
    assert shown.headline == (
        "deletion r1 of client c1, class 7: completed, version 4 is released; VERIFICATION FAILED"
    )
    alarms = [fact.text for fact in shown.facts if fact.alarm]
    assert alarms[0] == "VERIFICATION FAILED: attempt 1: depth FAIL: it comes back"
    PlainView(Output(Format.TABLE)).show(shown)
    assert "attempt 1: behaviour PASS: as unseen" in capsys.readouterr().out
    for table in (
        tables.deletions([found]),
        tables.status(operator_pb2.GetStatusResponse(), [deletion_pb2.Deletion(), found]),
    ):
        assert tables.ALARM in styles(table)
        Output(Format.TABLE).show(table)
        assert "behaviour PASS, depth FAIL" in capsys.readouterr().out


@pytest.mark.parametrize("depth", ["PASS", "NOT_POSSIBLE"])
def test_nothing_is_shouted_of_what_did_not_fail(depth: str) -> None:
    """The attempt that was not kept may have."""
    found = verified("PASS", depth)
    shown = progress.of_deletion(deletion_pb2.WatchDeletionResponse(deletion=found))
    assert "FAILED" not in shown.headline
    status = tables.status(operator_pb2.GetStatusResponse(), [found, verified("FAIL", "FAIL")])
    assert tables.ALARM not in styles(tables.deletions([found])) | styles(status)


def test_what_clients_have_barred_is_told() -> None:
    found = verified("PASS", "PASS")
    assert sentences.confirmations(found) == ""
    found.confirmations.add(client="c1", barred=DIGEST).confirmed_at.GetCurrentTime()
    found.confirmations.add(client="c2")
    found.confirmations.add(client="c3", refusal="no column names a person")
    assert sentences.confirmations(found) == (
        "1 of 3 clients have barred it (3 samples); not yet: c2; "
        "c3 cannot: no column names a person"
    )
