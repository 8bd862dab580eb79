"""Requests and updates that come twice, at once, too late, or before what they are about."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.faults.deletions import FEW_ROUNDS, REQUEST, await_job
from support.faults.mortal import MortalFederation
from support.faults.soundness import assert_sound
from support.faults.stories import actions
from support.federation import CALL, OFFICER, eventually, refusal
from support.identities import Stubs
from support.raw_client import RawClient, constant_update, parts_of

from fednot.errors import Reason
from fednot.v1 import deletion_pb2

pytestmark = pytest.mark.faults
AT_ONCE = 8
LATE = (Reason.ROUND_OVER, Reason.UNKNOWN_WORK, Reason.STALE_GENERATION, Reason.UNKNOWN_SESSION)


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[MortalFederation]:
    """c1 and c2, of which both can be held; heartbeats are rare, for clients by hand."""
    with MortalFederation(tmp_path, "", ("--heartbeat-interval", "60")) as found:
        found.begin()
        for index in (1, 2):
            found.start_client(index, held=True)
        found.release()
        found.await_clients("c1", "c2")
        yield found
        assert found.deaths == []
        assert found.kill("server", signal.SIGTERM) == 0
        assert_sound(found)


def test_the_same_request_from_several_connections_is_one(federation: MortalFederation) -> None:
    RawClient(federation, "c0").leave()
    ask = deletion_pb2.UnlearnRequest(
        request_id=REQUEST,
        scope=deletion_pb2.Scope(client="c0"),
        recovery=deletion_pb2.RecoveryPolicy(**FEW_ROUNDS),
    )
    identity = federation.identity_of(*OFFICER)
    callers = [Stubs.of(federation.address, identity) for _ in range(AT_ONCE)]
    with ThreadPoolExecutor(AT_ONCE) as threads:
        answers = list(threads.map(lambda s: s.deletions.Unlearn(ask, timeout=CALL), callers))
    for caller in callers:
        caller.channel.close()
    ended = await_job(federation, REQUEST)
    assert {answer.deletion.job.id for answer in answers} == {ended.job.id}
    assert ended.job.phase == deletion_pb2.JOB_PHASE_COMPLETED
    assert len(ended.job.attempts) == 1
    assert actions(federation).count("DeletionService.Unlearn") == 1


def test_an_update_counts_once_and_a_late_one_never(federation: MortalFederation) -> None:
    """c0 by hand sends its update twice, again once the round is over, and again once forgotten."""
    by_hand = RawClient(federation, "c0")
    federation.hold.touch()
    federation.begin_run(1)
    work = by_hand.train_work()
    parts = parts_of(by_hand.header(work), constant_update(0.001))
    by_hand.upload(parts)
    eventually("it is counted", lambda: federation.status().round.updates == 1)
    assert refusal(lambda: by_hand.upload(parts)).reason is Reason.DUPLICATE_UPDATE
    federation.release()
    federation.run_ended()
    (row,) = federation.rounds()
    assert list(row.cohort) == ["c0", "c1", "c2"]
    assert not row.missing
    assert refusal(lambda: by_hand.upload(parts)).reason in LATE

    federation.unlearn("c0", REQUEST, **FEW_ROUNDS)
    assert refusal(lambda: by_hand.upload(parts)).reason is Reason.CLIENT_BARRED
    ended = await_job(federation, REQUEST)
    assert ended.job.phase == deletion_pb2.JOB_PHASE_COMPLETED
    assert refusal(lambda: by_hand.upload(parts)).reason is Reason.CLIENT_BARRED


def test_an_update_of_a_generation_before_is_never_counted(federation: MortalFederation) -> None:
    """c9 stays in, and its update was trained on what held c0 still."""
    RawClient(federation, "c0").leave()
    by_hand = RawClient(federation, "c9")
    federation.hold.touch()
    federation.begin_run(1)
    work = by_hand.train_work()
    federation.unlearn("c0", REQUEST, **FEW_ROUNDS)
    parts = parts_of(by_hand.header(work), constant_update(0.5))
    assert refusal(lambda: by_hand.upload(parts)).reason in LATE
    again = by_hand.train_work()
    assert again.generation == work.generation + 1
    forged = parts_of(by_hand.header(again, generation=work.generation), constant_update(0.5))
    assert refusal(lambda: by_hand.upload(forged)).reason is Reason.STALE_GENERATION
    by_hand.leave()
    federation.release()
    assert await_job(federation, REQUEST).job.phase == deletion_pb2.JOB_PHASE_COMPLETED


def test_a_cancellation_that_overtakes_its_request_does_nothing(
    federation: MortalFederation,
) -> None:
    RawClient(federation, "c0").leave()
    cancel = deletion_pb2.CancelDeletionRequest(request_id=REQUEST)
    told = refusal(lambda: federation.deletions.CancelDeletion(cancel, timeout=CALL))
    assert told.reason is Reason.UNKNOWN_DELETION
    federation.unlearn("c0", REQUEST, **FEW_ROUNDS)
    assert await_job(federation, REQUEST).job.phase == deletion_pb2.JOB_PHASE_COMPLETED
