"""States that earlier versions left behind, under today's server: nothing is lost, work goes on.

`tests/contract/states/make.py` made them; docs/releasing.md tells when it makes the next one.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from support.federation import CALL, OFFICER, LocalFederation, eventually

from fednot.audit_chain import check
from fednot.cli.auditing import entry_of
from fednot.receipt.signing import verified
from fednot.v1 import audit_pb2, deletion_pb2, operator_pb2, receipt_pb2

pytestmark = [pytest.mark.long, pytest.mark.timeout(240)]

STATES = sorted((Path(__file__).parents[1] / "contract" / "states").glob("*.tar.xz"))
SMALL = "hidden=8"
OF_A_VERSION = ("number", "sha256", "parent", "generation", "lineage", "origin", "createdAt")
OF_A_ROUND = ("number", "phase", "outcome", "cohort", "baseVersion")


@dataclass
class Upgraded:
    """A federation on an old state, and what its old server said of it."""

    federation: LocalFederation
    facts: dict[str, Any]


@pytest.fixture(params=STATES, ids=lambda path: path.name.removesuffix(".tar.xz"))
def upgraded(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Upgraded]:
    with tarfile.open(request.param) as archive:
        archive.extractall(tmp_path, filter="data")
    facts = json.loads((tmp_path / "facts.json").read_text())
    flags = ("--keep-versions", "2", "--task-arg", SMALL, "--min-clients", "2")
    with LocalFederation(tmp_path, server_flags=flags) as federation:
        yield Upgraded(federation, facts)


def rows(messages: list[dict[str, Any]], fields: tuple[str, ...]) -> list[dict[str, Any]]:
    """Some fields of each row, by its number."""
    found = [{field: row.get(field) for field in fields} for row in messages]
    return sorted(found, key=lambda row: int(row["number"]))


def holds_what_it_held(upgraded: Upgraded) -> None:
    federation, facts = upgraded.federation, upgraded.facts
    versions = [MessageToDict(each) for each in federation.versions().values()]
    rounds = [MessageToDict(each) for each in federation.rounds()]
    for now, before, fields in (
        (versions, facts["versions"], OF_A_VERSION),
        (rounds, facts["rounds"], OF_A_ROUND),
    ):
        assert rows(now, fields)[: len(before)] == rows(before, fields)
    for before in facts["deletions"]:
        found = MessageToDict(federation.deletion(before["requestId"]))
        assert found["job"]["id"] == before["job"]["id"]
        assert (found["scope"], found["acceptedAt"]) == (before["scope"], before["acceptedAt"])
        assert found["job"].get("callId") == before["job"].get("callId")
        history = before["job"]["history"]
        assert found["job"]["history"][: len(history)] == history
    done = federation.deletion("withdrawal-1")
    assert done.job.phase == deletion_pb2.JOB_PHASE_COMPLETED


def holds_the_audit(upgraded: Upgraded) -> None:
    """Entry by entry, and as a chain that goes on."""
    stub = upgraded.federation.stubs_for(*OFFICER).audit
    request = audit_pb2.ListAuditEntriesRequest(page_size=1000)
    entries = list(stub.ListAuditEntries(request, timeout=CALL).entries)
    before = upgraded.facts["audit"]
    assert [MessageToDict(each) for each in entries[: len(before)]] == before
    assert check(entry_of(each) for each in entries).entries == len(entries)


def holds_the_receipt(upgraded: Upgraded) -> None:
    before = upgraded.facts.get("receipt")
    if before is None:
        return
    stub = upgraded.federation.stubs_for(*OFFICER).receipts
    request = receipt_pb2.GetReceiptRequest(request_id="withdrawal-1")
    found = MessageToDict(stub.GetReceipt(request, timeout=CALL))
    assert (found["jws"], found["key"]["pem"]) == (before["jws"], before["key"]["pem"])
    assert verified(found["jws"], found["key"]["pem"]).key_id


def test_there_are_states_of_earlier_versions() -> None:
    assert len(STATES) >= 2


def test_a_state_of_an_earlier_version_goes_on(upgraded: Upgraded) -> None:
    """c2 was deleted, and stays out; the deletion of c3 was interrupted, and completes."""
    federation = upgraded.federation
    federation.start_server()
    holds_what_it_held(upgraded)
    holds_the_audit(upgraded)
    holds_the_receipt(upgraded)
    assert federation.client_info("c2").state == operator_pb2.CLIENT_STATE_BARRED
    assert federation.client_info("c2").barred_by == "withdrawal-1"
    again = federation.unlearn("c2", "withdrawal-1", full_budget=True, max_rounds=2, min_rounds=2)
    assert again.job.id == upgraded.facts["deletions"][0]["job"]["id"]

    for index in (1, 2, 3, 4):
        federation.start_client(index, SMALL)
    federation.await_connected(4)
    open_job = federation.await_job("withdrawal-2", 120)
    assert open_job.job.phase == deletion_pb2.JOB_PHASE_COMPLETED
    federation.train(1)
    cohort = federation.rounds()[-1].cohort
    assert sorted(cohort) == ["c1", "c4"]
    eventually("c2 is told", lambda: "barred from training" in federation.whole_log("c2"))
    holds_what_it_held(upgraded)
    holds_the_audit(upgraded)
    federation.kill("server")
    ended = federation.run_command("fsck")
    assert ended.returncode == 0, ended.stdout + ended.stderr
