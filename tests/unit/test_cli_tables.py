"""Tables, and JSON documents whose shape does not change."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from rich.table import Table

from fednot import sentences
from fednot.cli import tables
from fednot.cli.documents import document
from fednot.cli.output import Format, Output
from fednot.v1 import (
    approval_pb2,
    audit_pb2,
    deletion_pb2,
    identity_pb2,
    model_pb2,
    operator_pb2,
)

DORA = identity_pb2.Caller(role=identity_pb2.ROLE_OFFICER, name="dora")


def printed(table: Table, capsys: pytest.CaptureFixture[str]) -> list[str]:
    Output(Format.TABLE).show(table)
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


def test_a_pipe_gets_no_blanks_at_the_ends_of_lines(capsys: pytest.CaptureFixture[str]) -> None:
    deletions = [deletion_pb2.Deletion(request_id="r1"), deletion_pb2.Deletion(request_id="r2")]
    deletions[0].job.waiting_for = "waiting for a second approval " * 9
    Output(Format.TABLE).show(tables.deletions(deletions))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert [line for line in lines if line != line.rstrip()] == []
    assert max(map(len, (lines[0], lines[2]))) < 150


def test_clients(capsys: pytest.CaptureFixture[str]) -> None:
    client = operator_pb2.ClientInfo(
        name="[red]c7", state="CLIENT_STATE_BARRED", device="cpu", degraded=True, barred_by="r1"
    )
    client.last_seen_at.FromSeconds(1000)
    now = datetime.fromtimestamp(1041, UTC)
    assert printed(tables.clients([client], now), capsys) == [
        "NAME STATE LAST SEEN TRAIN TEST DEVICE CERTIFICATE BARRED BY PRIVACY ODD UPDATES",
        "[red]c7 barred 41 s ago 0 0 cpu (degraded) - r1 - -",
    ]
    client.certificate_expires_at.FromSeconds(86_400)
    assert "until 1970-01-02 00:00:00Z r1" in printed(tables.clients([client], now), capsys)[1]
    client.privacy.epsilon, client.privacy.delta, client.privacy.steps = 2.3456, 1e-5, 40
    assert printed(tables.clients([client], now), capsys)[1].endswith(
        "epsilon 2.346 (delta 1e-05) -"
    )
    client.privacy.epsilon_limit = 8
    assert printed(tables.clients([client], now), capsys)[1].endswith(
        "epsilon 2.346 of 8 (delta 1e-05) -"
    )
    client.anomalies["clipped"], client.anomalies["outlier_norm"] = 1, 12
    assert printed(tables.clients([client], now), capsys)[1].endswith("outlier norm 12, clipped 1")


def test_a_long_row_is_not_cut_when_piped(capsys: pytest.CaptureFixture[str]) -> None:
    client = operator_pb2.ClientInfo(name="c" * 63, device="d" * 200)
    assert "d" * 200 in printed(tables.clients([client]), capsys)[1]


def test_rounds(capsys: pytest.CaptureFixture[str]) -> None:
    running = operator_pb2.Round(number=8, outcome="ROUND_OUTCOME_RUNNING", cohort=["a", "b"])
    failed = operator_pb2.Round(
        number=7,
        phase="ROUND_PHASE_RECOVERY",
        outcome="ROUND_OUTCOME_FAILED",
        cohort=["a", "b"],
        missing=[operator_pb2.MissingClient(client="b")],
    )
    assert printed(tables.rounds([running, failed]), capsys)[1:] == [
        "8 unspecified running 0 ? of 2 - -",
        "7 recovery failed 0 1 of 2 - b",
    ]


def test_versions(capsys: pytest.CaptureFixture[str]) -> None:
    version = model_pb2.Version(
        number=2,
        origin="VERSION_ORIGIN_TRAINING",
        num_bytes=3 << 20,
        sha256="ab" * 32,
        metrics={"accuracy": 0.5},
    )
    version.destroyed_at.GetCurrentTime()
    assert printed(tables.versions([version]), capsys)[1] == (
        "2 training destroyed 0 0 3.0 MiB abababababab accuracy 0.5000 -"
    )


def test_deletions(capsys: pytest.CaptureFixture[str]) -> None:
    attempts = [deletion_pb2.Attempt(method="retrain", rounds=[deletion_pb2.RecoveryRound()] * 2)]
    job = deletion_pb2.Job(
        id="j1", phase="JOB_PHASE_RECOVERING", attempts=attempts, waiting_for="waiting for c1"
    )
    job.call_id = "5f0c4c1a3f6b4a0e8a2f7f3d5f1f9b11"
    deletion = deletion_pb2.Deletion(
        request_id="r1", scope=deletion_pb2.Scope(client="c3"), job=job
    )
    assert printed(tables.deletions([deletion]), capsys)[1] == (
        "r1 client c3 recovering j1 5f0c4c1a3f6b retrain 2 - - waiting for c1"
    )
    deletion.requested_by.CopyFrom(DORA)
    assert "2 - officer/dora waiting for c1" in printed(tables.deletions([deletion]), capsys)[1]
    job.attempts[0].steps.append(4)
    deletion.job.CopyFrom(job)
    told = "1 step of its method taken; waiting for c1"
    assert told in printed(tables.deletions([deletion]), capsys)[1]


def test_approvals(capsys: pytest.CaptureFixture[str]) -> None:
    waiting = approval_pb2.Approval(
        id="a2", kind="APPROVAL_KIND_READMISSION", state="APPROVAL_STATE_WAITING", client="c3"
    )
    decided = approval_pb2.Approval(
        id="a1",
        kind="APPROVAL_KIND_DELETION",
        state="APPROVAL_STATE_REFUSED",
        client="c1",
        requested_by=identity_pb2.Caller(role=identity_pb2.ROLE_CLIENT, name="c1"),
        decided_by=DORA,
    )
    for approval in (waiting, decided):
        approval.requested_at.FromSeconds(1)
        approval.expires_at.FromSeconds(60)
    assert printed(tables.approvals([waiting, decided]), capsys) == [
        "APPROVAL FOR CLIENT STATE ASKED BY ASKED UNTIL DECIDED BY",
        "a2 readmission c3 waiting - 1970-01-01 00:00:01Z 1970-01-01 00:01:00Z -",
        "a1 deletion c1 refused client/c1 1970-01-01 00:00:01Z 1970-01-01 00:01:00Z officer/dora",
    ]
    assert sentences.approval(decided) == ("a1: refused by officer/dora, the deletion of client c1")
    assert sentences.approval(waiting) == (
        "a2: waiting, the readmission of client c3, until 1970-01-01 00:01:00Z; an officer "
        "approves it by `fednot approve a2`"
    )


def test_audit(capsys: pytest.CaptureFixture[str]) -> None:
    entry = audit_pb2.AuditEntry(
        sequence=7,
        actor="p-aa",
        action="DeletionService.Unlearn",
        subject="p-bb",
        outcome="AUDIT_OUTCOME_REFUSED",
        reason="WRONG_ROLE",
        version=4,
        count=3,
        actor_name="operator/olga",
    )
    entry.at.FromSeconds(1)
    assert printed(tables.audit([entry]), capsys) == [
        "ENTRY AT WHO WHAT ABOUT OUTCOME REASON OF TIMES",
        "7 1970-01-01 00:00:01Z operator/olga DeletionService.Unlearn p-bb refused WRONG_ROLE "
        "version 4 3",
    ]


def test_status_of_a_new_and_of_a_busy_server(capsys: pytest.CaptureFixture[str]) -> None:
    found = operator_pb2.GetStatusResponse(software_version="0.1.0")
    assert printed(tables.status(found), capsys) == [
        "server fednot 0.1.0, clock -",
        "clients 0 connected, 0 barred",
        "current no model",
        "released none",
        "run none so far",
        "open deletions 0",
    ]
    found.aggregation = "median"
    found.secure_aggregation = True
    shown = "updates masked by the clients; the server sees sums alone"
    assert shown in printed(tables.status(found), capsys)
    found.secure_aggregation = False
    found.run.failure, found.run.call_id = "no quorum", "5f0c4c1a3f6b4a0e8a2f7f3d5f1f9b11"
    found.deletion.request_id = "r1"
    found.waiting_for = "waiting for c7"
    text = printed(tables.status(found), capsys)
    assert "aggregation median" in text
    assert "run 0: unspecified, 0 of 0 rounds, call 5f0c4c1a3f6b: no quorum" in text
    assert "deletion r1 of unknown scope: unspecified" in text
    assert text[-1] == "waiting waiting for c7"
    found.privacy.epsilon, found.privacy.delta, found.privacy.epsilon_limit = 7.5, 1e-5, 8
    text = printed(tables.status(found), capsys)
    assert "privacy epsilon 7.500 of 8 (delta 1e-05), spent by the client that spent most" in text
    assert not [line for line in text if line.startswith("kept updates")]
    found.kept_updates.count, found.kept_updates.num_bytes = 6, 3_000_000
    assert "kept updates 6 of clients, 2.9 MiB" in printed(tables.status(found), capsys)


def test_a_document_has_every_field() -> None:
    assert document(operator_pb2.GetStatusResponse()) == {
        "software_version": "",
        "current": None,
        "released": None,
        "run": None,
        "round": None,
        "waiting_for": "",
        "clients_connected": 0,
        "clients_barred": 0,
        "deletion": None,
        "open_deletions": 0,
        "now": None,
        "aggregation": "",
        "secure_aggregation": False,
        "privacy": None,
        "kept_updates": None,
    }


def test_numbers_of_64_bits_are_numbers_and_enums_are_names() -> None:
    deletion = deletion_pb2.Deletion(aborted_rounds=[1, 2], scope=deletion_pb2.Scope(client="c3"))
    deletion.job.base_version = 5
    deletion.job.attempts.add(tensors=["w"]).rounds.add(round=7, metrics={"accuracy": 0.5})
    deletion.job.history.add(phase="JOB_PHASE_QUEUED").at.FromSeconds(0)
    found = document(deletion)
    assert found["aborted_rounds"] == [1, 2]
    assert found["scope"] == {"client": "c3"}
    assert found["job"]["base_version"] == 5
    assert found["job"]["target_accuracy"] is None
    assert found["job"]["attempts"][0]["rounds"] == [
        {"round": 7, "version": 0, "metrics": {"accuracy": 0.5}}
    ]
    assert found["job"]["history"] == [{"phase": "JOB_PHASE_QUEUED", "at": "1970-01-01T00:00:00Z"}]


def test_an_unset_alternative_is_left_out() -> None:
    assert document(deletion_pb2.Scope()) == {}


def test_a_value_of_a_newer_server_is_its_number() -> None:
    assert sentences.run_state(99) == "99"


@pytest.mark.parametrize(
    ("num_bytes", "text"), [(10, "10 B"), (1536, "1.5 KiB"), (3 << 30, "3.0 GiB")]
)
def test_sizes(num_bytes: int, text: str) -> None:
    assert sentences.size(num_bytes) == text


def test_many_names_are_cut() -> None:
    assert sentences.listed([f"c{i}" for i in range(10)]).endswith("c7 and 2 more")
