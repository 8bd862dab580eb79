"""Approvals and the audit over mutual TLS, from the command line, against one server process.

The clients have joined once and are gone, so that accepted jobs wait and nothing is trained.
"""

from __future__ import annotations

import json
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.federation import CALL, ROOT, LocalFederation, eventually, refusal
from support.raw_client import RawClient
from typer.testing import CliRunner, Result

from fednot.cli.main import app
from fednot.errors import Reason
from fednot.identity.subject import Role
from fednot.v1 import audit_pb2, deletion_pb2, operator_pb2

DORA, EMIL = (Role.OFFICER, "dora"), (Role.OFFICER, "emil")
OLGA, ANN = (Role.OPERATOR, "olga"), (Role.AUDITOR, "ann")
CLIENTS = ("c0", "c1", "c2", "c3", "c4", "c5")
PAGE = ROOT / "docs" / "audit.md"

Fednot = Callable[..., Result]


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    folder = tmp_path_factory.mktemp("audit")
    flags = ("--task-arg", "trace=no", "--require-approval")
    with LocalFederation(folder, server_flags=flags) as found:
        found.start_server()
        for name in CLIENTS:
            RawClient(found, name).leave()
        found.unlearn("c5", "before")
        cancel = deletion_pb2.CancelDeletionRequest(request_id="before")
        found.deletions.CancelDeletion(cancel, timeout=CALL)
        yield found


@pytest.fixture
def fednot(federation: LocalFederation) -> Fednot:
    """Runs the command as somebody, within this process, and checks its exit code."""

    def run(who: tuple[Role, str], *arguments: str, code: int = 0) -> Result:
        options = ("--server", federation.address, "--identity", federation.identity_of(*who))
        ended = CliRunner().invoke(app, [*arguments, *map(str, options)], catch_exceptions=False)
        assert ended.exit_code == code, ended.stderr
        return ended

    return run


def document(ended: Result) -> Any:
    return json.loads(ended.stdout)


def unlearn(fednot: Fednot, client: str, request_id: str, who: tuple[Role, str] = DORA) -> str:
    """Asks for a deletion and returns the id of the approval that it waits for."""
    line = ("unlearn", "client", client, "--request-id", request_id, "--format", "json")
    approval: str = document(fednot(who, *line))["deletion"]["approval_id"]
    return approval


def phase(federation: LocalFederation, request_id: str) -> str:
    return deletion_pb2.JobPhase.Name(federation.deletion(request_id).job.phase)


def audit(fednot: Fednot) -> list[dict[str, Any]]:
    line = ("audit", "--limit", "1000000", "--format", "json")
    entries: list[dict[str, Any]] = document(fednot(ANN, *line))["entries"]
    return entries


def test_a_deletion_waits_for_a_second_officer(federation: LocalFederation, fednot: Fednot) -> None:
    told = fednot(DORA, "unlearn", "client", "c0", "--request-id", "first").stdout
    listed = document(fednot(OLGA, "approvals", "--format", "json"))["approvals"]
    name = listed[0]["id"]

    assert "deletion first of client c0: awaiting" in told
    assert re.search(rf"second approval until .*Z; an officer .* `fednot approve {name}`", told)
    assert federation.client_info("c0").barred_by == "first"
    assert "officer/dora" in fednot(ANN, "jobs").stdout
    assert "awaiting; waiting for a second approval" in fednot(ANN, "status").stdout
    own = fednot(DORA, "approve", name, "--format", "json", code=3)
    assert json.loads(own.stderr)["reason"] == Reason.SECOND_PERSON_NEEDED
    operator = fednot(OLGA, "approve", name, "--format", "json", code=3)
    assert json.loads(operator.stderr)["reason"] == Reason.WRONG_ROLE

    assert "approved by officer/emil" in fednot(EMIL, "approve", name).stdout

    begun = ("JOB_PHASE_QUEUED", "JOB_PHASE_NEGATING", "JOB_PHASE_RECOVERING")
    assert phase(federation, "first") in begun
    assert "approved" in fednot(DORA, "approvals").stdout
    again = document(fednot(EMIL, "approve", name, "--format", "json"))["approval"]
    assert again["state"] == "APPROVAL_STATE_APPROVED", "a lost reply costs nothing"
    ended = fednot(EMIL, "refuse", name, "--format", "json", code=3)
    assert json.loads(ended.stderr)["reason"] == Reason.APPROVAL_ENDED


def test_a_client_follows_its_own_deletion_without_learning_who_else_takes_part(
    federation: LocalFederation, fednot: Fednot
) -> None:
    asked = federation.unlearn("c4", "fourth")
    assert "second approval" in fednot((Role.CLIENT, "c4"), "jobs").stdout
    fednot(EMIL, "approve", asked.approval_id)
    officers = eventually(
        "the job waits for clients",
        lambda: re.search(
            r"waiting for (job-|\d of \d clients).*", federation.deletion("fourth").job.waiting_for
        ),
    )
    told = fednot((Role.CLIENT, "c4"), "jobs").stdout
    assert "waiting for other clients or deletions" in told
    assert officers[0] not in told
    assert "first" not in told, "nor that c0 is being forgotten"


def test_refused_its_client_is_free_again(federation: LocalFederation, fednot: Fednot) -> None:
    name = unlearn(fednot, "c1", "second", (Role.CLIENT, "c1"))
    assert federation.client_info("c1").barred_by == "second"

    assert "refused by officer/emil" in fednot(EMIL, "refuse", name).stdout

    assert phase(federation, "second") == "JOB_PHASE_CANCELLED"
    assert "refused by officer/emil" in fednot(DORA, "jobs").stdout
    to_itself = fednot((Role.CLIENT, "c1"), "watch", "second", code=1).stdout
    assert "cancelled: refused by an officer" in to_itself
    assert "emil" not in to_itself
    assert federation.client_info("c1").barred_by == ""


def test_a_readmission_that_cannot_be_says_why(fednot: Fednot) -> None:
    unlearn(fednot, "c2", "third")
    reasons = {
        name: json.loads(
            fednot(OLGA, "clients", "readmit", name, "--format", "json", code=3).stderr
        )["reason"]
        for name in ("c2", "c3", "nobody")
    }
    assert reasons == {
        "c2": Reason.DELETION_IN_PROGRESS,
        "c3": Reason.CLIENT_NOT_BARRED,
        "nobody": Reason.UNKNOWN_CLIENT,
    }
    fednot(DORA, "cancel", "third")


def test_refusals_are_told_with_who_and_whom_and_counted(
    federation: LocalFederation, fednot: Fednot
) -> None:
    """Five in a row: one entry at once, and the rest when the server stops."""
    stubs = federation.stubs_for(Role.CLIENT, "c3")
    scope = deletion_pb2.Scope(client="c4")
    for _ in range(5):
        refused = refusal(
            lambda: stubs.deletions.Unlearn(deletion_pb2.UnlearnRequest(scope=scope), timeout=CALL)
        )
        assert refused.reason is Reason.NOT_YOUR_DELETION
    auditor = federation.stubs_for(*ANN)
    refusal(lambda: auditor.operator.StopTraining(operator_pb2.StopTrainingRequest(), timeout=CALL))

    found = {
        (entry["actor_name"], entry["action"], entry["subject_name"], entry["reason"]): entry
        for entry in audit(fednot)
        if entry["outcome"] == "AUDIT_OUTCOME_REFUSED"
    }

    own = ("client/c3", "DeletionService.Unlearn", "client/c4", "NOT_YOUR_DELETION")
    assert found[own]["count"] == 1
    assert ("auditor/ann", "OperatorService.StopTraining", "", "WRONG_ROLE") in found
    federation.kill("server", signal.SIGTERM)
    federation.start_server()
    counted = [entry["count"] for entry in audit(fednot) if entry["reason"] == own[3]]
    assert counted == [1, 4]


def test_the_chain_is_whole_and_survives_a_crash(
    federation: LocalFederation, fednot: Fednot
) -> None:
    before = document(fednot(ANN, "audit", "verify", "--format", "json"))
    federation.kill("server")
    federation.start_server()
    unlearn(fednot, "c3", "fifth")

    after = document(fednot(DORA, "audit", "verify", "--head", before["head"], "--format", "json"))

    assert after["entries"] == before["entries"] + 1
    newest = document(fednot(ANN, "audit", "--limit", "1", "--format", "json"))["entries"]
    assert [entry["hash"] for entry in newest] == [after["head"]]
    assert newest[0]["subject_name"] == "client/c3"
    assert f"head: {after['head']}" in fednot(ANN, "audit", "verify").stdout
    lost = fednot(ANN, "audit", "verify", "--head", "ab" * 32, code=1)
    assert "reason: AUDIT_BROKEN" in lost.stderr
    fednot(ANN, "audit", "verify", "--head", "nonsense", code=2)
    fednot(OLGA, "audit", code=3)


def test_the_lines_of_the_page_find_the_same_head(fednot: Fednot) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    text = fednot(ANN, "audit", "--format", "json", "--limit", "1000000").stdout
    head = document(fednot(ANN, "audit", "verify", "--format", "json"))["head"]

    def checked(entries: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", program],
            input=entries,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    assert checked(text).stdout.strip() == head
    changed = json.loads(text)
    changed["entries"][1]["count"] += 1
    assert "entry 2 was changed" in checked(json.dumps(changed)).stderr


def test_a_name_is_unlinked_and_the_chain_stays_whole(
    federation: LocalFederation, fednot: Fednot
) -> None:
    head = document(fednot(ANN, "audit", "verify", "--format", "json"))["head"]
    with closing(sqlite3.connect(federation.state / "state.sqlite3")) as database:
        query = "SELECT key FROM pseudonyms WHERE name = 'client/c5'"
        (key,) = database.execute(query).fetchone()
    assert in_state(federation.state, key)
    unsure = fednot(DORA, "audit", "forget", "client/c5", code=2)
    assert "--yes" in unsure.stderr

    pseudonym = document(fednot(DORA, "audit", "forget", "client/c5", "--yes", "--format", "json"))[
        "pseudonym"
    ]

    about = [entry for entry in audit(fednot) if entry["subject"] == pseudonym]
    assert [entry["subject_name"] for entry in about] == [""] * len(about)
    assert about[0]["action"] == "DeletionService.Unlearn"
    assert about[-1]["action"] == "AuditService.DestroyPseudonym"
    assert pseudonym in fednot(ANN, "audit").stdout
    fednot(ANN, "audit", "verify", "--head", head)
    assert not in_state(federation.state, key)
    again = fednot(DORA, "audit", "forget", "client/c5", "--yes", "--format", "json", code=3)
    assert json.loads(again.stderr)["reason"] == Reason.UNKNOWN_NAME
    fednot(ANN, "audit", "forget", "client/c9", "--yes", code=3)


def test_a_change_behind_the_servers_back_is_found(
    federation: LocalFederation, fednot: Fednot
) -> None:
    """Last, since nothing mends it: the database is written to by another program."""
    with closing(sqlite3.connect(federation.state / "state.sqlite3")) as database:
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            database.execute("UPDATE audit SET actor = '' WHERE sequence = 2")
        database.execute("DROP TRIGGER audit_is_not_changed")
        database.execute("UPDATE audit SET actor = '' WHERE sequence = 2")
        database.commit()
    broken = fednot(ANN, "audit", "verify", "--format", "json", code=1)
    error = json.loads(broken.stderr)
    assert error["reason"] == "AUDIT_BROKEN"
    assert "entry 2 was changed" in error["error"]


def test_pages_of_the_audit_follow_each_other(federation: LocalFederation) -> None:
    stubs = federation.stubs_for(*ANN)
    request, numbers = audit_pb2.ListAuditEntriesRequest(page_size=1), []
    while True:
        page = stubs.audit.ListAuditEntries(request, timeout=CALL)
        assert len(page.entries) <= 1
        numbers += [entry.sequence for entry in page.entries]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert len(numbers) >= 2
    assert numbers == list(range(1, len(numbers) + 1))


def in_state(folder: Path, needle: bytes) -> bool:
    return any(needle in path.read_bytes() for path in folder.glob("state.sqlite3*"))
