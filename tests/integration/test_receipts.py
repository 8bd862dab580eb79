"""A deletion over sockets, its receipt, and whoever checks that without the server."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import update
from support.federation import CALL, OFFICER, OPERATOR, LocalFederation, refusal

from fednot.audit_chain import check
from fednot.cli.auditing import entry_of
from fednot.errors import Reason
from fednot.identity.subject import Role
from fednot.receipt import Receipt, page_of, verified
from fednot.v1 import audit_pb2, deletion_pb2, receipt_pb2
from server.receipts.key_files import KEY_FILE
from server.state.commits import Commit
from server.state.database import Database
from server.state.schema import receipts

FEDNOT = (sys.executable, "-c", "from fednot.cli.main import main; main()")
FLAGS = (
    *("--task-arg", "trace=no", "--min-clients", "2", "--destruction-wait", "5"),
    *("--verification-wait", "60"),
)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    """Three clients that have trained one round, and forgotten c0."""
    folder = tmp_path_factory.mktemp("receipts")
    with LocalFederation(folder, server_flags=FLAGS) as found:
        found.start_server()
        for index in range(3):
            found.start_client(index, "client_test=50")
        found.await_connected(3)
        found.train(1)
        found.unlearn("c0", "forget-c0", max_rounds=2, min_rounds=1)
        ended = found.await_job("forget-c0")
        assert ended.job.phase == deletion_pb2.JOB_PHASE_COMPLETED, found.log("server")
        assert ended.job.has_receipt
        yield found


def received(
    federation: LocalFederation, role: Role = Role.AUDITOR, name: str = "anna", **key: str
) -> receipt_pb2.GetReceiptResponse:
    request = receipt_pb2.GetReceiptRequest(**(key or {"request_id": "forget-c0"}))
    stub = federation.stubs_for(role, name).receipts
    return stub.GetReceipt(request, timeout=CALL)


def audited(federation: LocalFederation) -> list[audit_pb2.AuditEntry]:
    stub = federation.stubs_for(*OFFICER).audit
    request = audit_pb2.ListAuditEntriesRequest(page_size=1000)
    return list(stub.ListAuditEntries(request, timeout=CALL).entries)


def fednot(*words: str) -> subprocess.CompletedProcess[str]:
    """A fresh process, with no address and no identity to go to."""
    return subprocess.run([*FEDNOT, *words], capture_output=True, text=True, timeout=90)


def checked(federation: LocalFederation) -> Receipt:
    found = received(federation)
    return verified(found.jws, found.key.pem)


def test_it_states_what_the_server_did(federation: LocalFederation) -> None:
    receipt, job = checked(federation), federation.deletion("forget-c0").job
    versions = federation.versions()
    assert (receipt.job_id, receipt.request_ids) == (job.id, ("forget-c0",))
    assert (receipt.method_asked, receipt.layers_asked) == ("not", "first")
    assert (receipt.method_done, receipt.tensors) == ("not", tuple(job.attempts[-1].tensors))
    for stated in (receipt.initial, receipt.base, receipt.result, *map(_start, receipt.attempts)):
        assert stated.sha256 == versions[stated.number].sha256
        assert stated.generation == versions[stated.number].generation
    assert receipt.base.number == job.base_version
    assert receipt.result.number == job.released_version
    assert receipt.released
    assert receipt.initial.number == 1
    assert [(v.number, v.sha256) for v in receipt.destroyed] == [
        (v.number, v.sha256) for v in job.destroyed
    ]
    assert receipt.held == ()
    assert receipt.participants == 2
    assert [entry.phase for entry in receipt.history] == [
        deletion_pb2.JobPhase.Name(entry.phase).removeprefix("JOB_PHASE_").lower()
        for entry in job.history
    ]
    assert len(receipt.client_caches) + receipt.clients_unacknowledged == 3
    curve = [(point.round, point.version) for point in receipt.chosen.rounds]
    assert curve == [(each.round, each.version) for each in job.attempts[-1].rounds]


def test_it_states_the_verdicts_with_what_they_rest_on(federation: LocalFederation) -> None:
    receipt = checked(federation)
    told = receipt.chosen.verification
    found = federation.deletion("forget-c0").job.attempts[-1].verification
    assert told is not None
    for stated, verdict, reason in (
        (receipt.behaviour, found.behaviour, found.behaviour_reason),
        (receipt.depth, found.depth, found.depth_reason),
    ):
        name = deletion_pb2.Verdict.Name(verdict).removeprefix("VERDICT_")
        assert stated.verdict.upper().replace("-", "_") == name
        assert stated.reason == reason
    assert told.forgotten_losses is not None, "c0 holds its data and evaluates it once more"
    assert told.unseen_losses is not None
    assert sum(told.forgotten_losses.counts) > told.forgotten_losses.correct
    assert len(told.findings) == len(found.findings)
    assert "Losses of" in page_of(receipt)


def _start(attempt: object) -> object:
    return attempt.start  # type: ignore[attr-defined]


def test_it_names_clients_by_the_audits_pseudonyms_alone(federation: LocalFederation) -> None:
    found = received(federation)
    receipt = verified(found.jws, found.key.pem)
    entry = next(e for e in audited(federation) if e.action == "DeletionService.Unlearn")
    (scope,) = receipt.scopes
    assert (scope.kind, scope.client) == ("client", entry.subject)
    payload = receipt.model_dump_json()
    for name in ("c0", "c1", "c2"):
        assert f'"{name}"' not in payload


def test_the_audit_holds_each_step_in_order_and_the_head_that_was_signed(
    federation: LocalFederation,
) -> None:
    entries, receipt = audited(federation), checked(federation)
    of_job = [entry.action for entry in entries if entry.job_id == receipt.job_id]
    steps = [action for action in of_job if action != "client.destroyed"]
    assert steps == [
        "DeletionService.Unlearn",
        "job.negating",
        "job.recovering",
        "job.verifying",
        "job.verified",
        "versions.destroyed",
        "job.completed",
        "receipt.issued",
    ]
    assert of_job.index("client.destroyed") > of_job.index("versions.destroyed")
    issued = next(entry for entry in entries if entry.action == "receipt.issued")
    assert issued.previous_hash == receipt.audit.sha256
    assert issued.sequence == receipt.audit.entries + 1
    assert check(map(entry_of, entries), known=receipt.audit.sha256).entries == len(entries)


def test_who_may_read_it(federation: LocalFederation) -> None:
    whole = received(federation)
    assert received(federation, Role.CLIENT, "c0") == whole
    assert received(federation, *OPERATOR, job_id=checked(federation).job_id) == whole
    other = refusal(lambda: received(federation, Role.CLIENT, "c1"))
    assert other.reason is Reason.UNKNOWN_DELETION
    nobody = refusal(lambda: received(federation, request_id="never"))
    assert nobody.reason is Reason.UNKNOWN_DELETION


def test_it_is_fetched_and_then_verified_without_the_server(
    federation: LocalFederation, tmp_path: Path
) -> None:
    identity = str(federation.identity_of(*OFFICER))
    reach = ("--server", federation.address, "--identity", identity)
    jws, pub, page = (str(tmp_path / name) for name in ("r.jws", "r.pem", "r.html"))
    told = fednot("receipt", "forget-c0", "-o", jws, "--html", page, *reach)
    assert told.returncode == 0, told.stderr
    assert "<svg" in Path(page).read_text()
    assert fednot("receipt-keys", "-o", pub, *reach).returncode == 0

    told = fednot("verify", jws, "--key", pub, "--format", "json")
    assert told.returncode == 0, told.stderr
    found = json.loads(told.stdout)
    assert found["verified"] is True
    assert Receipt.model_validate_json(json.dumps(found["receipt"])) == checked(federation)

    text = Path(jws).read_text()
    Path(jws).write_text(text[:-9] + ("A" if text[-9] != "A" else "B") + text[-8:])
    told = fednot("verify", jws, "--key", pub)
    assert told.returncode == 3
    assert "RECEIPT_INVALID" in told.stderr
    assert told.stdout == ""


def test_a_deletion_that_waits_has_none(federation: LocalFederation) -> None:
    for name in ("c1", "c2"):
        federation.kill(name)
    federation.unlearn("c1", "forget-c1", min_clients=2)
    assert not federation.deletion("forget-c1").job.has_receipt
    early = refusal(lambda: received(federation, request_id="forget-c1"))
    assert early.reason is Reason.NO_RECEIPT


def test_old_receipts_verify_after_a_rotation_and_after_the_key_was_lost(
    federation: LocalFederation,
) -> None:
    before = received(federation)
    operator = federation.stubs_for(*OPERATOR).receipts
    made = operator.RotateReceiptKey(receipt_pb2.RotateReceiptKeyRequest(), timeout=CALL).key
    assert made.id != before.key.id
    federation.kill("server")
    (federation.state / KEY_FILE).unlink()
    federation.start_server()
    operator = federation.reconnect(*OPERATOR).receipts
    keys = operator.ListReceiptKeys(receipt_pb2.ListReceiptKeysRequest(), timeout=CALL).keys
    assert [key.id for key in keys][1:] == [made.id, before.key.id]
    assert [key.HasField("retired_at") for key in keys] == [False, True, True]
    federation.reconnect(Role.AUDITOR, "anna")
    after = received(federation)
    assert after.jws == before.jws
    assert verified(after.jws, "".join(key.pem for key in keys)).job_id
    federation.reconnect(*OFFICER)
    actions = [entry.action for entry in audited(federation)]
    assert actions.count("receipt-key.made") == 2
    assert actions.count("ReceiptService.RotateReceiptKey") == 1
    refused = refusal(
        lambda: federation.stubs_for(*OFFICER).receipts.RotateReceiptKey(
            receipt_pb2.RotateReceiptKeyRequest(), timeout=CALL
        )
    )
    assert refused.reason is Reason.WRONG_ROLE


def test_fsck_finds_a_receipt_that_was_changed(federation: LocalFederation) -> None:
    job_id, text = checked(federation).job_id, received(federation).jws
    federation.kill("server")

    def fsck() -> list[str]:
        told = federation.run_command("fsck", "--format", "json")
        return [each["check"] for each in json.loads(told.stdout)["findings"]]

    def change(jws: str) -> None:
        database = Database(federation.state / "state.sqlite3")
        row = update(receipts).where(receipts.c.job_id == job_id).values(jws=jws)
        database.write_now(Commit.CLIENTS_SEEN, lambda c: c.execute(row))
        database.close()

    assert "receipts" not in fsck()
    change(text[:200] + ("A" if text[200] != "A" else "B") + text[201:])
    assert "receipts" in fsck()
    change(text)
    assert "receipts" not in fsck()
    assert not _private_keys_in(federation, federation.folder / "backup")


def _private_keys_in(federation: LocalFederation, target: Path) -> list[Path]:
    """The files of a new backup that hold a private key; its receipts come with its rows."""
    told = federation.run_command("backup", str(target))
    assert told.returncode == 0, told.stderr
    files = [path for path in target.rglob("*") if path.is_file()]
    assert any(b"BEGIN PUBLIC KEY" in path.read_bytes() for path in files)
    return [path for path in files if b"PRIVATE KEY" in path.read_bytes()]
