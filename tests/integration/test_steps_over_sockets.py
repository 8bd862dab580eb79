"""Steps of methods over real processes: the client whose data goes helps, dies, or never comes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.federation import CALL, OFFICER, LocalFederation, eventually

from fednot.receipt import Receipt, verified
from fednot.v1 import deletion_pb2, federation_pb2, receipt_pb2

COMPLETED = deletion_pb2.JOB_PHASE_COMPLETED
SUCCEEDED = deletion_pb2.ATTEMPT_OUTCOME_SUCCEEDED
ABANDONED = deletion_pb2.ATTEMPT_OUTCOME_ABANDONED
LITTLE = {"full_budget": True, "max_rounds": 1, "min_rounds": 1, "tolerance": 0.9}


@pytest.fixture
def federation(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[LocalFederation]:
    """Three clients that have trained a round; c0 can be held back, and is waited for."""
    wait = getattr(request, "param", "60")
    flags = ("--task-arg", "trace=no", "--min-clients", "2", "--destruction-wait", "0.5")
    with LocalFederation(tmp_path, server_flags=flags) as found:
        found.start_server("--target-wait", wait, "--undo-rounds", "1")
        for index in range(3):
            found.start_client(index, held=index == 0)
        found.release()
        found.await_connected(3)
        found.train(1)
        yield found


def is_taking_a_step(federation: LocalFederation) -> bool:
    found = federation.status()
    return found.HasField("round") and (
        found.round.phase == federation_pb2.ROUND_PHASE_UNLEARNING
        and list(found.round.missing) == ["c0"]
    )


def attempts_of(federation: LocalFederation, request_id: str) -> list[deletion_pb2.Attempt]:
    job = federation.await_job(request_id).job
    assert job.phase == COMPLETED, job.failure
    return list(job.attempts)


def receipt_of(federation: LocalFederation, request_id: str) -> Receipt:
    stubs = federation.stubs_for(*OFFICER)
    found = stubs.receipts.GetReceipt(
        receipt_pb2.GetReceiptRequest(request_id=request_id), timeout=CALL
    )
    keys = stubs.receipts.ListReceiptKeys(receipt_pb2.ListReceiptKeysRequest(), timeout=CALL).keys
    return verified(found.jws, "".join(key.pem for key in keys))


def test_the_target_does_its_part_and_is_given_a_second_model(federation: LocalFederation) -> None:
    """MoDE: in five of its ten steps the target learns what the degraded model answers."""
    federation.unlearn("c0", "r1", method="mode", **LITTLE)
    (attempt,) = attempts_of(federation, "r1")
    assert (attempt.method, attempt.outcome) == ("mode", SUCCEEDED)
    assert len(attempt.steps) == 10
    versions = federation.versions()
    assert [versions[number].parent for number in attempt.steps] == [
        attempt.start_version,
        *attempt.steps[:-1],
    ]
    assert len({versions[number].sha256 for number in attempt.steps}) == 10
    receipt = receipt_of(federation, "r1")
    assert (receipt.chosen.steps, receipt.kept_updates) == (10, None)


def test_a_target_that_dies_in_its_step_and_comes_back_is_asked_again(
    federation: LocalFederation,
) -> None:
    federation.hold.touch()
    federation.unlearn("c0", "r1", method="pgd", **LITTLE)
    eventually("c0 is at its step", lambda: is_taking_a_step(federation))
    federation.kill("c0")
    federation.release()
    federation.start_client(0)
    (attempt,) = attempts_of(federation, "r1")
    assert (attempt.method, attempt.outcome) == ("pgd", SUCCEEDED)
    assert len(attempt.steps) == 1


@pytest.mark.parametrize("federation", ["10"], indirect=True)
def test_a_target_that_is_not_there_is_waited_for_and_then_done_without(
    federation: LocalFederation,
) -> None:
    federation.kill("c0")
    eventually("c0 is gone", lambda: federation.status().clients_connected == 2)
    federation.unlearn("c0", "r1", method="fcu", **LITTLE)
    eventually(
        "it says for whom it waits",
        lambda: "waiting for c0 to help forget its data" in federation.status().waiting_for,
    )
    first, second = attempts_of(federation, "r1")
    assert (first.method, first.outcome) == ("fcu", ABANDONED)
    assert "1 of 1 clients whose data is forgotten did not come in 10 s" in first.explanation
    assert second.method == "retrain"
    stated = receipt_of(federation, "r1")
    assert stated.attempts[0].explanation == first.explanation
    assert not [each for each in stated.attempts if "c0" in each.explanation], "it names nobody"
