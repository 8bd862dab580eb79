"""What a deletion's message says of its wait, and what a client may read of others."""

from __future__ import annotations

import pytest
from support.told_records import AT, approval, deletion, job

from fednot.calls import Origin
from server.records import (
    ApprovalState,
    ClientDestruction,
    Deletion,
    JobPhase,
)
from server.services import messages


@pytest.mark.parametrize(
    ("phase", "first", "expected"),
    [
        (JobPhase.QUEUED, "job-1", "for c2"),
        (JobPhase.QUEUED, "", "for c2"),
        (JobPhase.QUEUED, "job-0", "waiting for job-0, which goes first"),
        (JobPhase.COMPLETED, "job-0", ""),
        (
            JobPhase.AWAITING,
            "job-0",
            "waiting for a second approval until 2023-11-14 22:13:20Z; an officer approves it by "
            "`fednot approve approval-1`",
        ),
    ],
)
def test_what_a_job_waits_for(phase: JobPhase, first: str, expected: str) -> None:
    waits = approval(state=ApprovalState.WAITING)
    record = Deletion("r1", "c1", AT, job(phase), approval=waits)
    assert messages.waiting_sentence(record, first, "for c2") == expected


def test_a_client_does_not_read_who_else_takes_part() -> None:
    """What waits for an approval names nobody else and stays as it is."""
    failed = deletion(job(JobPhase.FAILED, failure="still waiting for c7"))
    waiting = deletion(job())
    awaiting = deletion(job(JobPhase.AWAITING))
    for message in (failed, waiting, awaiting):
        messages.hide_others(message, "c1")
    assert "c7" not in failed.job.failure
    assert failed.job.failure.startswith("it failed")
    assert waiting.job.waiting_for == "waiting for other clients or deletions"
    assert awaiting.job.waiting_for == "for c2"


@pytest.mark.parametrize(
    ("why", "told"),
    [
        ("refused by officer/otto", "refused by an officer"),
        ("cancelled by officer/dora", "cancelled by an officer"),
        ("cancelled by client/c1", "cancelled by client/c1"),
        ("cancelled by client/c10", "cancelled by another client"),
        ("cancelled by somebody without a certificate",) * 2,
        ("nobody approved it in time",) * 2,
    ],
)
def test_a_client_reads_why_its_deletion_was_cancelled_and_not_by_whom(why: str, told: str) -> None:
    message = deletion(job(JobPhase.CANCELLED, failure=why))
    assert messages.hide_others(message, "c1").job.failure == told


def test_a_client_reads_of_itself_alone_what_was_destroyed_and_asked() -> None:
    """Its job serves somebody else's request too, and somebody else destroyed something."""
    caches = tuple(ClientDestruction(n, f"c{n}", "job-1", 2, AT) for n in (1, 2))
    served = job(requests=("r0", "r1"), caches=caches, origin=Origin("for-c2"))
    found = messages.hide_others(deletion(served), "c1")
    assert [each.client for each in found.job.client_destructions] == ["c1"]
    assert list(found.job.request_ids) == ["r1"]
    assert not found.job.call_id, "whoever chose it may have put a name into it"
