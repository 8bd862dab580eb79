"""What the server's state promises of second approvals, whatever database keeps them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from support.state import (
    AWAITING,
    COMPLETED,
    DORA,
    EMIL,
    FAILED,
    NEGATING,
    OLGA,
    QUEUED,
    accepted,
    begun,
    cancelled,
    deletion_of,
    driven,
    new_round,
    refusal_of,
    released,
)

from fednot.audit_chain import Entry
from fednot.errors import Reason
from fednot.identity.subject import Role
from server import approvals
from server.records import (
    NOBODY,
    Approval,
    ApprovalKind,
    ApprovalState,
    Bar,
    Caller,
    Deletion,
    JobPhase,
    RoundOutcome,
)
from server.state import (
    approval_rows,
    audit_rows,
    client_rows,
    deletion_rows,
    job_rows,
    release_rows,
    round_rows,
)
from server.state.fencing import FencedError

UNTIL = 100.0
APPROVED, REFUSED = ApprovalState.APPROVED, ApprovalState.REFUSED
EXPIRED, WITHDRAWN = ApprovalState.EXPIRED, ApprovalState.WITHDRAWN
WAITING = ApprovalState.WAITING
CANCELLED = JobPhase.CANCELLED


def awaited(run: Any, request_id: str = "r1", client: str = "c1") -> Deletion:
    found: Deletion = run(lambda c: accepted(c, request_id, client, DORA, UNTIL))
    return found


def approval_id(deletion: Deletion) -> str:
    assert deletion.approval is not None
    return deletion.approval.id


def about(deletion: Deletion, **more: str) -> dict[str, str]:
    """What a refusal that is about a deletion carries."""
    return {"client": deletion.client, "job_id": deletion.job.id} | more


def approve(run: Any, name: str, caller: Caller = EMIL, now: float = 20.0) -> Any:
    return run(lambda c: approvals.approve(c, name, caller, now))


def refuse(run: Any, name: str, caller: Caller = EMIL, now: float = 20.0) -> Any:
    return run(lambda c: approvals.refuse(c, name, caller, now))


def readmit(run: Any, until: float | None = None, client: str = "c1", now: float = 50.0) -> Any:
    return run(lambda c: approvals.readmit(c, client, OLGA, now, approval_until=until))


def forgotten(run: Any, end: JobPhase = COMPLETED, request_id: str = "r1") -> None:
    run(lambda c: accepted(c, request_id))
    run(lambda c: driven(c, request_id, end))


def state_of(run: Any, name: str) -> ApprovalState:
    found: Approval = run(lambda c: approval_rows.get_approval(c, name))
    return found.state


def actions(run: Any) -> list[str]:
    return [entry.action for entry in told(run)]


def told(run: Any) -> list[Entry]:
    """The audit without the moves of jobs."""
    entries = run(lambda c: audit_rows.list_entries(c, 0, 99))
    return [entry for entry in entries if not entry.action.startswith("job.")]


class TestDeletions:
    """A deletion that waits for a second identity; `run` is a fixture of conftest.py."""

    def test_it_is_fenced_withdrawn_and_awaited_together(self, run: Any) -> None:
        run(begun)
        run(lambda c: round_rows.start_round(c, new_round()))
        found = awaited(run)
        assert (found.job.phase, found.aborted_rounds) == (AWAITING, (1,))
        assert run(client_rows.list_bars) == [Bar("c1", "r1", 10.0)]
        assert run(released) == 0
        expected = Approval(
            id=approval_id(found),
            kind=ApprovalKind.DELETION,
            client="c1",
            requested_by="officer/dora",
            requested_at=10.0,
            expires_at=UNTIL,
            job_id=found.job.id,
        )
        assert found.approval == expected
        assert run(lambda c: approval_rows.list_approvals(c, 0, 9)) == [(1, expected)]

    def test_training_goes_on_without_the_fenced_client(self, run: Any) -> None:
        run(begun)
        awaited(run)
        with pytest.raises(FencedError, match="c1 may no longer train"):
            run(lambda c: round_rows.start_round(c, new_round("c1", "c2")))
        assert run(lambda c: round_rows.start_round(c, new_round("c2", "c3"))).number == 1
        assert run(job_rows.first_ready) is None
        assert run(release_rows.may_release) is False

    def test_what_waits_does_not_hold_up_the_next_deletion(self, run: Any) -> None:
        run(begun)
        awaited(run)
        ready = run(lambda c: accepted(c, "r2", "c2"))
        assert run(job_rows.first_ready) == ready.job
        assert [job.phase for job in run(job_rows.open_jobs)] == [AWAITING, QUEUED]

    def test_approved_it_queues(self, run: Any) -> None:
        run(begun)
        found = awaited(run)
        ended, is_new = approve(run, approval_id(found))
        assert is_new
        assert (ended.state, ended.decided_by, ended.decided_at) == (APPROVED, "officer/emil", 20.0)
        after = run(lambda c: deletion_of(c, "r1", DORA))
        assert after.approval == ended
        assert after.job.history == ((AWAITING, 10.0), (QUEUED, 20.0))
        assert run(job_rows.first_ready_id) == found.job.id
        assert run(client_rows.list_bars) == [Bar("c1", "r1", 10.0)]

    def test_refused_it_is_cancelled_and_leaves_no_trace(self, run: Any) -> None:
        run(begun)
        found = awaited(run)
        ended = refuse(run, approval_id(found))
        assert (ended.state, ended.decided_by) == (REFUSED, "officer/emil")
        job = run(lambda c: deletion_of(c, "r1", DORA)).job
        assert (job.phase, job.failure) == (CANCELLED, "refused by officer/emil")
        assert run(client_rows.list_bars) == []
        assert run(released) == 2
        assert run(lambda c: accepted(c, "r2")).job.phase is QUEUED

    def test_refused_it_releases_nothing_while_another_is_open(self, run: Any) -> None:
        run(begun)
        first, second = awaited(run), awaited(run, "r2", "c2")
        refuse(run, approval_id(first))
        assert run(released) == 0
        refuse(run, approval_id(second))
        assert run(released) == 2

    @pytest.mark.parametrize("caller", [DORA, Caller(Role.CLIENT, "dora"), NOBODY])
    def test_nobody_approves_their_own(self, run: Any, caller: Caller) -> None:
        """Nor by another certificate of the same name, nor without one."""
        run(begun)
        asker = NOBODY if caller == NOBODY else DORA
        found = run(lambda c: accepted(c, "r1", "c1", asker, UNTIL))
        refusal = refusal_of(lambda: approve(run, approval_id(found), caller))
        assert refusal == (Reason.SECOND_PERSON_NEEDED, about(found))
        assert state_of(run, approval_id(found)) is WAITING
        assert run(job_rows.first_ready) is None
        assert refuse(run, approval_id(found), caller).state is REFUSED

    @pytest.mark.parametrize("decide", [approve, refuse])
    def test_a_decision_is_repeatable_by_who_made_it_and_by_nobody_else(
        self, run: Any, decide: Any
    ) -> None:
        run(begun)
        found = awaited(run)
        name = approval_id(found)
        decide(run, name)
        before = run(lambda c: approval_rows.get_approval(c, name))
        decide(run, name, now=30.0)
        assert run(lambda c: approval_rows.get_approval(c, name)) == before
        assert len(actions(run)) == 1
        other = refuse if decide is approve else approve
        fred = Caller(Role.OFFICER, "fred")
        for call in (lambda: decide(run, name, fred), lambda: other(run, name)):
            ended = (Reason.APPROVAL_ENDED, about(found, state=before.state))
            assert refusal_of(call) == ended

    def test_an_unknown_one_cannot_be_decided(self, run: Any) -> None:
        for decide in (approve, refuse):
            refusal = refusal_of(lambda decide=decide: decide(run, "approval-x"))
            assert refusal == (Reason.UNKNOWN_APPROVAL, {})

    def test_cancelling_withdraws_it(self, run: Any) -> None:
        run(begun)
        found = awaited(run)
        after = run(lambda c: cancelled(c, "r1", DORA))
        assert after.job.failure == "cancelled by officer/dora"
        assert after.approval is not None
        assert (after.approval.state, after.approval.decided_at) == (WITHDRAWN, 30.0)
        refusal = refusal_of(lambda: approve(run, approval_id(found)))
        assert refusal == (Reason.APPROVAL_ENDED, about(found, state="withdrawn"))

    def test_an_approved_one_stays_approved_when_its_job_is_cancelled(self, run: Any) -> None:
        run(begun)
        found = awaited(run)
        approve(run, approval_id(found))
        run(lambda c: cancelled(c, "r1", DORA))
        assert state_of(run, approval_id(found)) is APPROVED

    def test_nobody_in_time_is_no(self, run: Any) -> None:
        run(begun)
        found = awaited(run)
        expire = approvals.expire
        assert run(lambda c: expire(c, UNTIL - 0.5, job_deadline=1e9)) == ()
        assert len(run(lambda c: expire(c, UNTIL, job_deadline=1e9))) == 1
        assert run(lambda c: expire(c, UNTIL, job_deadline=1e9)) == ()
        assert state_of(run, approval_id(found)) is EXPIRED
        job = run(lambda c: deletion_of(c, "r1", DORA)).job
        assert (job.phase, job.failure) == (CANCELLED, "nobody approved it in time")
        assert run(client_rows.list_bars) == []
        assert run(released) == 2
        assert actions(run) == ["approval.expired"]

    def test_too_late_is_too_late_before_anybody_has_noticed(self, run: Any) -> None:
        run(begun)
        found = awaited(run)
        for decide in (approve, refuse):
            refusal = refusal_of(lambda decide=decide: decide(run, approval_id(found), now=UNTIL))
            assert refusal == (Reason.APPROVAL_ENDED, about(found, state="expired"))

    def test_a_job_whose_deadline_passes_before_anybody_approved_is_dropped(self, run: Any) -> None:
        """Accepted at 10 with a deadline of 30 seconds: what nobody approved bars nobody."""
        run(begun)
        found = awaited(run)
        expire = approvals.expire
        assert run(lambda c: expire(c, 39.0, job_deadline=30.0)) == ()
        assert len(run(lambda c: expire(c, 40.0, job_deadline=30.0))) == 1
        assert run(lambda c: expire(c, 41.0, job_deadline=30.0)) == ()
        after = run(lambda c: deletion_of(c, "r1", DORA))
        assert (after.job.phase, state_of(run, approval_id(found))) == (CANCELLED, EXPIRED)
        assert run(client_rows.list_bars) == []
        assert run(released) == 2
        assert actions(run) == ["approval.expired"]

    def test_the_deadline_of_a_job_says_nothing_of_a_readmission(self, run: Any) -> None:
        run(begun)
        forgotten(run)
        wanted = readmit(run, UNTIL)
        assert run(lambda c: approvals.expire(c, UNTIL - 1, job_deadline=1.0)) == ()
        assert state_of(run, wanted.id) is WAITING

    def test_a_job_counts_from_its_approval(self, run: Any) -> None:
        run(begun)
        assert run(lambda c: accepted(c, "r0", "c2")).job.queued_at == 10.0
        found = awaited(run)
        assert found.job.queued_at == 10.0
        approve(run, approval_id(found), now=90.0)
        assert run(lambda c: driven(c, "r0", NEGATING)).queued_at == 10.0
        job = run(lambda c: deletion_of(c, "r1", DORA)).job
        assert (job.created_at, job.queued_at) == (10.0, 90.0)

    def test_each_decision_is_in_the_audit_with_its_job_and_its_client(self, run: Any) -> None:
        run(begun)
        first, second = awaited(run), awaited(run, "r2", "c2")
        approve(run, approval_id(first))
        refuse(run, approval_id(second))
        entries = told(run)
        assert [(entry.action, entry.role, entry.job_id) for entry in entries] == [
            ("ApprovalService.Approve", "officer", first.job.id),
            ("ApprovalService.Refuse", "officer", second.job.id),
        ]
        assert entries[0].actor == entries[1].actor
        assert entries[0].subject != entries[1].subject

    def test_a_round_in_flight_is_aborted_and_training_may_begin_another(self, run: Any) -> None:
        run(begun)
        run(lambda c: round_rows.start_round(c, new_round()))
        awaited(run)
        assert run(lambda c: round_rows.get_round(c, 1)).outcome is RoundOutcome.ABORTED

    def test_they_are_listed_newest_first_in_pages(self, run: Any) -> None:
        run(begun)
        made = [approval_id(awaited(run, f"r{n}", f"c{n}")) for n in (1, 2, 3)]
        first = run(lambda c: approval_rows.list_approvals(c, 0, 2))
        assert [found.id for _, found in first] == made[:0:-1]
        second = run(lambda c: approval_rows.list_approvals(c, first[-1][0], 2))
        assert [found.id for _, found in second] == made[:1]


class TestReadmissions:
    """The bar of a client that was forgotten; `run` is a fixture of conftest.py."""

    @pytest.mark.parametrize("end", [COMPLETED, FAILED])
    def test_a_readmitted_client_trains_again_and_can_be_forgotten_again(
        self, run: Any, end: JobPhase
    ) -> None:
        run(begun)
        forgotten(run, end)
        assert readmit(run) is None
        assert run(client_rows.list_bars) == []
        assert run(lambda c: round_rows.start_round(c, new_round("c1", "c2"))).number == 1
        assert run(lambda c: accepted(c, "r2")).job.phase is QUEUED
        assert run(client_rows.list_bars) == [Bar("c1", "r2", 10.0)]
        assert actions(run) == ["OperatorService.ReadmitClient"]

    def test_every_bar_is_lifted(self, run: Any) -> None:
        run(begun)
        forgotten(run, FAILED)
        forgotten(run, COMPLETED, "r2")
        readmit(run)
        assert run(client_rows.list_bars) == []

    def test_readmission_does_not_make_good_a_deletion_that_failed(self, run: Any) -> None:
        run(begun)
        forgotten(run, FAILED)
        readmit(run)
        assert run(release_rows.may_release) is False

    def test_what_cannot_be_readmitted_is_told_apart(self, run: Any) -> None:
        run(begun)
        jobs = [run(accepted).job.id, awaited(run, "r2", "c2").job.id]
        reasons = {}
        for name in ("c1", "c2", "c3", "nobody"):
            reasons[name] = refusal_of(lambda name=name: readmit(run, client=name))
        assert reasons == {
            "c1": (Reason.DELETION_IN_PROGRESS, {"request_id": "r1", "job_id": jobs[0]}),
            "c2": (Reason.DELETION_IN_PROGRESS, {"request_id": "r2", "job_id": jobs[1]}),
            "c3": (Reason.CLIENT_NOT_BARRED, {}),
            "nobody": (Reason.UNKNOWN_CLIENT, {}),
        }
        assert len(run(client_rows.list_bars)) == 2

    def test_with_approval_the_bar_stands_until_a_second_identity_agrees(self, run: Any) -> None:
        run(begun)
        forgotten(run)
        wanted = readmit(run, UNTIL)
        assert (wanted.kind, wanted.client, wanted.job_id) == (ApprovalKind.READMISSION, "c1", "")
        assert wanted.requested_by == "operator/olga"
        assert readmit(run, UNTIL + 50, now=60.0) == wanted, "asking again costs nothing"
        assert len(run(client_rows.list_bars)) == 1
        ended, is_new = approve(run, wanted.id)
        assert (ended.state, is_new) == (APPROVED, True)
        assert run(client_rows.list_bars) == []
        assert actions(run) == ["OperatorService.ReadmitClient", "ApprovalService.Approve"]

    @pytest.mark.parametrize("end", [REFUSED, EXPIRED])
    def test_refused_or_expired_the_bar_stands_and_it_can_be_asked_for_again(
        self, run: Any, end: ApprovalState
    ) -> None:
        run(begun)
        forgotten(run)
        wanted = readmit(run, UNTIL)
        if end is REFUSED:
            refuse(run, wanted.id)
        else:
            run(lambda c: approvals.expire(c, UNTIL, job_deadline=1e9))
        assert state_of(run, wanted.id) is end
        assert len(run(client_rows.list_bars)) == 1
        again = readmit(run, UNTIL + 100)
        assert again.id != wanted.id

    def test_a_later_deletion_withdraws_it(self, run: Any) -> None:
        """Else its late approval would lift the bar of a deletion that nobody decided on."""
        run(begun)
        forgotten(run, FAILED)
        wanted = readmit(run, UNTIL)
        forgotten(run, COMPLETED, "r2")
        assert state_of(run, wanted.id) is WITHDRAWN
        assert refusal_of(lambda: approve(run, wanted.id))[0] is Reason.APPROVAL_ENDED
        assert len(run(client_rows.list_bars)) == 2

    def test_without_approval_one_that_waits_is_withdrawn(self, run: Any) -> None:
        """The server was restarted without --require-approval."""
        run(begun)
        forgotten(run)
        wanted = readmit(run, UNTIL)
        assert readmit(run) is None
        assert run(client_rows.list_bars) == []
        assert state_of(run, wanted.id) is WITHDRAWN

    def test_one_that_no_longer_waits_is_not_ended_twice(self, run: Any) -> None:
        run(begun)
        forgotten(run)
        wanted = readmit(run, UNTIL)
        refuse(run, wanted.id)
        with pytest.raises(FencedError, match="no longer waits"):
            run(lambda c: approval_rows.end(c, wanted, APPROVED, "officer/emil", 60.0))
        stored = run(lambda c: approval_rows.get_approval(c, wanted.id))
        assert stored == replace(wanted, state=REFUSED, decided_by="officer/emil", decided_at=20.0)


def test_a_moved_job_is_not_cancelled_by_a_stale_reading(run: Any) -> None:
    run(begun)
    stale = awaited(run).job
    approve(run, approval_id(run(lambda c: deletion_of(c, "r1", DORA))))
    run(lambda c: job_rows.move(c, deletion_of(c, "r1", DORA).job, NEGATING, 25.0))
    with pytest.raises(FencedError, match="no longer awaiting"):
        run(lambda c: deletion_rows.drop(c, stale, "too late", 30.0))
    assert len(run(client_rows.list_bars)) == 1
