"""Whose request is whose, and which deletions a caller may see, whatever database keeps them."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError
from support.state import (
    COMPLETED,
    DORA,
    EMIL,
    FAILED,
    OLGA,
    QUEUED,
    accepted,
    ask,
    begun,
    cancelled,
    deletion_of,
    driven,
    refusal_of,
)

from fednot.errors import FednotError, Reason
from fednot.identity.subject import Role
from server.records import NOBODY, Bar, Caller, JobPhase
from server.state import client_rows, deletion_rows, standing_rows

C1, C2 = Caller(Role.CLIENT, "c1"), Caller(Role.CLIENT, "c2")
ANN = Caller(Role.AUDITOR, "ann")


class TestCallers:
    """One state; `run` is a fixture of conftest.py, once for each database."""

    def test_the_same_id_of_two_callers_is_two_requests(self, run: Any) -> None:
        run(begun)
        of_dora = run(lambda c: accepted(c, "r1", "c1", DORA))
        assert run(lambda c: deletion_rows.repeated(c, ask("r1", "c2", caller=EMIL))) is None
        of_emil = run(lambda c: accepted(c, "r1", "c2", EMIL))
        assert (of_dora.requested_by, of_emil.requested_by) == ("officer/dora", "officer/emil")
        for caller, own in ((DORA, of_dora), (EMIL, of_emil)):
            again = ask("r1", own.client, caller=caller)
            assert run(lambda c, again=again: deletion_rows.repeated(c, again)) == own
            assert run(lambda c, caller=caller: deletion_of(c, "r1", caller)) == own
        reused = ask("r1", "c3", "another payload", DORA)
        refusal = refusal_of(lambda: run(lambda c: deletion_rows.repeated(c, reused)))
        assert refusal == (Reason.REQUEST_ID_REUSED, {})

    def test_one_caller_has_an_id_once(self, run: Any) -> None:
        run(begun)
        run(lambda c: accepted(c, "r1", "c1", DORA))
        with pytest.raises(IntegrityError):
            run(lambda c: accepted(c, "r1", "c2", DORA))

    def test_the_same_name_in_another_role_is_another_caller(self, run: Any) -> None:
        run(begun)
        officer = run(lambda c: accepted(c, "r1", "c1", Caller(Role.OFFICER, "c2")))
        client = run(lambda c: accepted(c, "r1", "c2", C2))
        assert run(lambda c: deletion_of(c, "r1", C2)) == client
        assert run(lambda c: deletion_of(c, "r1", Caller(Role.OFFICER, "c2"))) == officer

    @pytest.mark.parametrize("reader", [EMIL, OLGA, ANN, NOBODY])
    def test_an_id_of_one_other_caller_is_found_and_one_of_two_is_not(
        self, run: Any, reader: Caller
    ) -> None:
        run(begun)
        first = run(lambda c: accepted(c, "r1", "c1", DORA))
        assert run(lambda c: deletion_of(c, "r1", reader)) == first
        second = run(lambda c: accepted(c, "r1", "c2", C2))
        with pytest.raises(Exception, match=f"{first.job.id}, {second.job.id}") as refusal:
            run(lambda c: deletion_of(c, "r1", reader))
        assert refusal.value.reason is Reason.AMBIGUOUS_REQUEST_ID
        for found in (first, second):
            get = deletion_rows.get_deletion_of_job
            assert run(lambda c, get=get, f=found: get(c, f.job.id, reader)) == found

    def test_a_client_sees_what_is_about_it_whoever_asked(self, run: Any) -> None:
        run(begun)
        about_c1 = run(lambda c: accepted(c, "r1", "c1", DORA))
        about_c2 = run(lambda c: accepted(c, "r2", "c2", C2))
        seen = {
            caller.name: [
                found.request_id
                for _, found in run(
                    lambda c, caller=caller: deletion_rows.list_deletions(c, 0, 9, caller)
                )
            ]
            for caller in (C1, C2, ANN, NOBODY)
        }
        assert seen == {"c1": ["r1"], "c2": ["r2"], "ann": ["r2", "r1"], "": ["r2", "r1"]}
        assert run(lambda c: deletion_of(c, "r1", C1)) == about_c1
        get = deletion_rows.get_deletion_of_job
        for refused in (
            lambda c: deletion_of(c, "r2", C1),
            lambda c: get(c, about_c2.job.id, C1),
            lambda c: cancelled(c, "r2", C1),
            lambda c: cancelled(c, about_c2.job.id, C1),
        ):
            refusal = refusal_of(lambda refused=refused: run(refused))
            assert refusal == (Reason.UNKNOWN_DELETION, {})

    def test_a_page_of_a_client_is_filled_with_its_own(self, run: Any) -> None:
        """Of five requests two are about c1; a page of two holds both."""
        run(begun)
        run(lambda c: accepted(c, "old", "c1", DORA))
        run(lambda c: cancelled(c, "old", DORA))
        for number, client in enumerate(("c2", "c1", "c3")):
            run(lambda c, n=number, client=client: accepted(c, f"r{n}", client, DORA))
        page = run(lambda c: deletion_rows.list_deletions(c, 0, 2, C1))
        assert [found.request_id for _, found in page] == ["r1", "old"]

    def test_a_client_cancels_what_it_asked_for_and_not_what_an_officer_did(self, run: Any) -> None:
        """Else a client that an officer removes because it poisons the model could stay."""
        run(begun)
        job = run(lambda c: accepted(c, "r1", "c1", DORA)).job
        refusal = refusal_of(lambda: run(lambda c: cancelled(c, "r1", C1)))
        assert refusal == (Reason.NOT_YOUR_DELETION, {"client": "c1", "job_id": job.id})
        assert run(lambda c: deletion_of(c, "r1", DORA)).job.phase is QUEUED
        run(lambda c: accepted(c, "r2", "c2", C2))
        assert run(lambda c: cancelled(c, "r2", C2)).job.phase is JobPhase.CANCELLED

    def test_a_client_that_cancelled_waits_a_minute_before_it_asks_again(self, run: Any) -> None:
        """Each ask aborts a round, withdraws the release and stays in the audit."""
        run(begun)
        again = ask("r2", "c1", caller=C1)
        run(lambda c: accepted(c, "r1", "c1", C1))
        run(lambda c: cancelled(c, "r1", C1))
        for now, left in ((30.0, 60.0), (89.5, 0.5)):
            with pytest.raises(FednotError, match="cancelled") as refusal:
                run(lambda c, now=now: deletion_rows.accept(c, again, now))
            assert (refusal.value.reason, refusal.value.retry_after) == (Reason.SERVER_BUSY, left)
        assert run(client_rows.list_bars) == []
        assert run(lambda c: deletion_rows.accept(c, again, 90.0)).job.phase is QUEUED

    @pytest.mark.parametrize("caller", [DORA, NOBODY])
    def test_others_may_ask_at_once_for_what_was_cancelled(self, run: Any, caller: Caller) -> None:
        run(begun)
        run(lambda c: accepted(c, "r1", "c1", C1))
        run(lambda c: cancelled(c, "r1", C1))
        first = run(lambda c: deletion_rows.accept(c, ask("r2", caller=caller), 31.0))
        run(lambda c: deletion_rows.cancel(c, "r2", caller, 32.0))
        second = run(lambda c: deletion_rows.accept(c, ask("r3", caller=caller), 33.0))
        assert first.job.id != second.job.id
        other = ask("r1", "c2", caller=C2)
        assert run(lambda c: deletion_rows.accept(c, other, 34.0)).job.phase is QUEUED

    def test_a_clock_that_was_set_back_makes_no_longer_wait(self, run: Any) -> None:
        run(begun)
        run(lambda c: accepted(c, "r1", "c1", C1))
        run(lambda c: cancelled(c, "r1", C1))
        again = ask("r2", "c1", caller=C1)
        assert run(lambda c: deletion_rows.accept(c, again, 29.0)).job.phase is QUEUED

    def test_an_officer_cancels_anybodys_by_job_where_the_id_is_shared(self, run: Any) -> None:
        run(begun)
        first = run(lambda c: accepted(c, "r1", "c1", DORA))
        run(lambda c: accepted(c, "r1", "c2", C2))
        refusal = refusal_of(lambda: run(lambda c: cancelled(c, "r1", EMIL)))
        assert refusal[0] is Reason.AMBIGUOUS_REQUEST_ID
        assert run(lambda c: cancelled(c, first.job.id, EMIL)).client == "c1"
        assert run(client_rows.list_bars) == [Bar("c2", "r1", 10.0)]

    def test_cancelling_lifts_no_fence_of_the_same_id_of_another_caller(self, run: Any) -> None:
        run(begun)
        run(lambda c: accepted(c, "r1", "c1", DORA))
        run(lambda c: accepted(c, "r1", "c2", EMIL))
        run(lambda c: cancelled(c, "r1", DORA))
        assert run(client_rows.list_bars) == [Bar("c2", "r1", 10.0)]

    @pytest.mark.parametrize(
        ("phase", "reason"),
        [(COMPLETED, Reason.CLIENT_ALREADY_FORGOTTEN), (QUEUED, Reason.DELETION_IN_PROGRESS)],
    )
    def test_a_lifted_tombstone_is_no_obstacle_and_a_standing_one_is(
        self, run: Any, phase: JobPhase, reason: Reason
    ) -> None:
        run(begun)
        run(accepted)
        run(lambda c: driven(c, "r1", COMPLETED))
        run(lambda c: client_rows.lift_bars_of_client(c, "c1", 40.0))
        assert run(client_rows.list_bars) == []
        run(lambda c: accepted(c, "r2"))
        job = run(lambda c: driven(c, "r2", phase))
        refusal = refusal_of(lambda: run(lambda c: accepted(c, "r3")))
        assert refusal == (reason, {"request_id": "r2", "job_id": job.id})

    def test_a_client_is_barred_by_each_of_its_requests(self, run: Any) -> None:
        """After a failure it is asked for again: both tombstones stand, and both are lifted."""
        run(begun)
        run(accepted)
        run(lambda c: driven(c, "r1", FAILED))
        run(lambda c: accepted(c, "r2"))
        run(lambda c: driven(c, "r2", COMPLETED))
        first, second = (run(lambda c, r=r: deletion_of(c, r)).job.id for r in ("r1", "r2"))
        standing = run(lambda c: standing_rows.standing_jobs(c, "c1"))
        assert standing == [("r2", second, COMPLETED), ("r1", first, FAILED)]
        run(lambda c: client_rows.lift_bars_of_client(c, "c1", 40.0))
        assert run(lambda c: standing_rows.standing_jobs(c, "c1")) == []
