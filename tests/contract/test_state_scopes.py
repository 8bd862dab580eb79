"""What the server's state promises of samples and classes, whatever database keeps it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text
from support.state import (
    AWAITING,
    COMPLETED,
    DORA,
    EMIL,
    FAILED,
    QUEUED,
    asking,
    barred_by_itself,
    begun,
    cancelled,
    client,
    deletion_of,
    driven,
    new_round,
    of_class,
    of_person,
    refusal_of,
    released,
    whole,
)

from fednot.errors import Reason
from fednot.identity.subject import Role
from server import approvals, awaiting, forgetting
from server.ledger.file import Key, Ledger
from server.ledger.reconciliation import reconcile
from server.ledger.requests import endings, note_asked, scopes_in
from server.records import Assurance, Caller, Deletion, JobPhase, RoundOutcome
from server.state import (
    audit_rows,
    client_rows,
    deletion_rows,
    forget_rows,
    job_rows,
    release_rows,
    round_rows,
    scope_rows,
)
from server.state.fencing import FencedError
from server.state.forget_rows import Answer

SHA = "b" * 64


def accepted(c: Connection, *scopes: Any, until: float | None = None, **values: Any) -> Deletion:
    return deletion_rows.accept(c, asking(*scopes, **values), 10.0, approval_until=until)


def confirmed(c: Connection, name: str, now: float = 15.0, **said: Any) -> bool:
    """The client answers its oldest order."""
    order = forget_rows.pending(c, name)
    assert order is not None
    return forgetting.confirm(c, name, forgetting.name_of(order), Answer(**said), now)


class TestScopes:
    """One state; `run` is a fixture of conftest.py, once for each database."""

    def test_one_request_bars_every_client_that_it_names(self, run: Any) -> None:
        run(begun)
        found = run(lambda c: accepted(c, whole("c1"), whole("c3"), assurance=Assurance.DEEP))
        assert [scope.client for scope in found.scopes] == ["c1", "c3"]
        assert found.job.scopes == found.scopes
        assert found.job.assurance is Assurance.DEEP
        assert [bar.client for bar in run(client_rows.list_bars)] == ["c1", "c3"]
        run(cancelled)
        assert not run(client_rows.list_bars)
        assert not run(scope_rows.standing_requests)

    def test_a_person_is_forgotten_once_the_client_has_confirmed(self, run: Any) -> None:
        """Until then the client is in no round; its training round is aborted with the request."""
        run(begun)
        run(lambda c: round_rows.start_round(c, new_round()))
        found = run(lambda c: accepted(c, of_person("c1")))
        assert found.job.phase is AWAITING
        assert found.aborted_rounds == (1,)
        assert run(released) == 0
        assert run(forget_rows.owing) == {"c1": "r1"}
        with pytest.raises(FencedError):
            run(lambda c: round_rows.start_round(c, new_round()))
        run(lambda c: round_rows.start_round(c, new_round("c2", "c3")))
        (order,) = found.orders
        assert (order.client, order.scope.subject, order.lift) == ("c1", "person-1", False)
        assert len(order.scope.tombstone) == 32
        said = {"count": 3, "sha256": SHA, "num_train_examples": 7, "num_test_examples": 2}
        assert run(lambda c: confirmed(c, "c1", **said))
        found = run(deletion_of)
        assert found.job.phase is QUEUED
        (order,) = found.orders
        assert (order.confirmed_at, order.count, order.sha256) == (15.0, 3, SHA)
        assert found.scopes[0].subject == order.scope.subject == ""
        assert not run(forget_rows.owing)
        first = next(row for row in run(client_rows.list_clients) if row.name == "c1")
        assert (first.num_train_examples, first.num_test_examples) == (7, 2)

    def test_the_key_of_a_person_is_nowhere_once_it_is_confirmed(self, run: Any) -> None:
        run(begun)
        run(lambda c: accepted(c, of_person("c1", "person-of-that-name")))
        run(lambda c: confirmed(c, "c1", count=1))
        kept = run(lambda c: c.execute(text("SELECT * FROM scopes, requests, jobs")).all())
        assert kept
        assert "person-of-that-name" not in str(kept)

    def test_an_update_of_a_client_that_owes_cannot_end_a_round(self, run: Any) -> None:
        run(begun)
        first = run(lambda c: round_rows.start_round(c, new_round()))
        run(lambda c: client_rows.record_join(c, client("c9")))
        run(lambda c: accepted(c, of_person("c1")))
        run(lambda c: c.execute(text("UPDATE rounds SET outcome = 'running'")))
        values = {"outcome": RoundOutcome.COMPLETED, "result_version": 3}
        with pytest.raises(FencedError, match="c1 may no longer train"):
            run(lambda c: round_rows.end_round(c, type(first)(**(vars(first) | values))))

    def test_a_job_waits_for_the_approval_and_the_confirmation(self, run: Any) -> None:
        run(begun)
        found = run(lambda c: accepted(c, of_person("c1"), until=99.0, caller=DORA))
        approval = found.approval
        assert approval is not None
        run(lambda c: approvals.approve(c, approval.id, EMIL, 12.0))
        assert run(lambda c: deletion_of(c, caller=DORA)).job.phase is AWAITING
        assert run(lambda c: confirmed(c, "c1", count=1))
        assert run(lambda c: deletion_of(c, caller=DORA)).job.phase is QUEUED

    def test_a_confirmation_does_not_stand_for_an_approval(self, run: Any) -> None:
        run(begun)
        found = run(lambda c: accepted(c, of_person("c1"), until=99.0, caller=DORA))
        assert not run(lambda c: confirmed(c, "c1", count=1))
        assert run(lambda c: deletion_of(c, caller=DORA)).job.phase is AWAITING
        approval = found.approval
        assert approval is not None
        run(lambda c: approvals.approve(c, approval.id, EMIL, 12.0))
        assert run(lambda c: deletion_of(c, caller=DORA)).job.phase is QUEUED

    def test_a_person_of_whom_nobody_has_samples_is_no_deletion(self, run: Any) -> None:
        run(begun)
        run(lambda c: accepted(c, of_person("c1"), of_person("c2")))
        assert not run(lambda c: confirmed(c, "c1"))
        assert run(deletion_of).job.phase is AWAITING
        assert not run(lambda c: confirmed(c, "c2"))
        job = run(deletion_of).job
        assert (job.phase, job.failure) == (JobPhase.CANCELLED, "no client holds samples of it")
        assert run(released) == 2
        assert run(lambda c: forget_rows.pending(c, "c1")).lift
        entries = run(lambda c: audit_rows.list_entries(c, 0, 100))
        noted = [each.action for each in entries if each.role != "client"]
        assert noted == ["job.cancelled", *["deletion.nothing-to-forget"] * 2]

    @pytest.mark.parametrize("more", [(), (whole("c2"),)])
    def test_a_client_that_cannot_bar_stays_out(self, run: Any, more: Any) -> None:
        """If it was all that there was to forget the deletion is cancelled, and it trains again."""
        run(begun)
        run(lambda c: accepted(c, of_person("c1"), *more))
        queued = run(lambda c: confirmed(c, "c1", refusal="no column names a person"))
        job = run(deletion_of).job
        assert queued is bool(more)
        assert job.phase is (QUEUED if more else JobPhase.CANCELLED)
        assert ("no column names a person" in job.failure) is not bool(more)
        assert set(run(forget_rows.owing)) == ({"c1"} if more else set())
        run(lambda c: forget_rows.order_standing_classes(c, "c1", 20.0))
        again = run(lambda c: forget_rows.pending(c, "c1"))
        assert (again.scope.subject, again.lift) == ("person-1" if more else "", not more)

    def test_a_confirmation_that_does_not_come_is_not_waited_for(self, run: Any) -> None:
        """The job goes on, the client stays out, and confirms when it comes."""
        run(begun)
        run(lambda c: accepted(c, of_person("c1")))
        assert not run(lambda c: awaiting.late(c, 19.0, 10.0))
        (late,) = run(lambda c: awaiting.late(c, 21.0, 10.0))
        assert run(lambda c: awaiting.advance(c, late, 21.0, confirmation_wait=10.0))
        assert run(deletion_of).job.phase is QUEUED
        assert not run(lambda c: awaiting.late(c, 21.0, 10.0))
        assert run(forget_rows.owing) == {"c1": "r1"}
        assert not run(lambda c: confirmed(c, "c1", count=1))
        assert not run(forget_rows.owing)

    def test_what_a_client_has_barred_itself_needs_no_order(self, run: Any) -> None:
        run(begun)
        caller = Caller(Role.CLIENT, "c1")
        found = run(lambda c: accepted(c, barred_by_itself("c1"), caller=caller))
        assert found.job.phase is QUEUED
        assert (found.scopes[0].count, found.scopes[0].tombstone) == (3, "a" * 64)
        assert not found.orders
        assert not run(forget_rows.owing)
        assert not run(client_rows.list_bars)
        again = asking(barred_by_itself("c1"), request_id="r2", caller=caller)
        refusal = refusal_of(lambda: run(lambda c: deletion_rows.accept(c, again, 11.0)))
        assert refusal[0] is Reason.DELETION_IN_PROGRESS

    def test_a_class_is_barred_by_everybody_and_by_whoever_comes_later(self, run: Any) -> None:
        run(begun)
        run(lambda c: accepted(c, whole("c3"), request_id="r0"))
        found = run(lambda c: accepted(c, of_class(7)))
        assert found.job.phase is QUEUED
        assert [order.client for order in found.orders] == ["c1", "c2", "c3"]
        assert run(scope_rows.standing_labels) == {7}
        run(lambda c: client_rows.record_join(c, client("c4")))
        assert run(lambda c: forget_rows.order_standing_classes(c, "c4", 20.0))
        assert not run(lambda c: forget_rows.order_standing_classes(c, "c4", 21.0))
        assert set(run(forget_rows.owing)) == {"c1", "c2", "c3", "c4"}
        assert run(lambda c: forget_rows.pending(c, "c4")).scope.label == 7

    def test_a_client_that_lost_its_tombstones_is_told_of_the_classes_again(self, run: Any) -> None:
        run(begun)
        assert not run(lambda c: client_rows.moved(c, "c1", "a"))
        run(lambda c: accepted(c, of_class(7), of_person("c1")))
        for count in (5, 3):
            run(lambda c, n=count: confirmed(c, "c1", count=n))
        for instance in ("a", ""):
            assert not run(lambda c, i=instance: client_rows.moved(c, "c1", i))
        assert run(lambda c: client_rows.moved(c, "c1", "b"))
        assert not run(lambda c: client_rows.moved(c, "c1", "b"))
        run(lambda c: forget_rows.order_classes_again(c, "c1", 30.0))
        assert run(lambda c: forget_rows.pending(c, "c1")).scope.label == 7
        run(lambda c: confirmed(c, "c1", count=5))
        assert run(lambda c: forget_rows.pending(c, "c1")) is None
        assert set(run(forget_rows.owing)) == {"c2", "c3"}

    def test_a_cancelled_class_is_lifted_everywhere(self, run: Any) -> None:
        """Even where the answer to the order before comes late."""
        run(begun)
        run(lambda c: accepted(c, of_class(7)))
        run(lambda c: confirmed(c, "c1", count=5))
        old = run(lambda c: forget_rows.pending(c, "c2"))
        run(cancelled)
        assert not run(forget_rows.owing)
        assert not run(scope_rows.standing_labels)
        for name in ("c1", "c2", "c3"):
            assert run(lambda c, name=name: forget_rows.pending(c, name)).lift
        late = Answer(count=5)
        run(lambda c: forgetting.confirm(c, "c2", forgetting.name_of(old), late, 40.0))
        assert run(lambda c: forget_rows.pending(c, "c2")).lift
        run(lambda c: confirmed(c, "c2"))
        assert run(lambda c: forget_rows.pending(c, "c2")) is None
        run(lambda c: client_rows.record_join(c, client("c4")))
        assert not run(lambda c: forget_rows.order_standing_classes(c, "c4", 50.0))

    @pytest.mark.parametrize(
        ("phase", "reason"),
        [
            (QUEUED, Reason.DELETION_IN_PROGRESS),
            (COMPLETED, Reason.CLASS_ALREADY_FORGOTTEN),
            (FAILED, None),
        ],
    )
    def test_a_class_is_not_forgotten_twice(
        self, run: Any, phase: JobPhase, reason: Reason | None
    ) -> None:
        run(begun)
        run(lambda c: accepted(c, of_class(7)))
        run(lambda c: driven(c, "r1", phase))
        if reason is None:
            run(lambda c: accepted(c, of_class(7), request_id="r2"))
        else:
            again = refusal_of(lambda: run(lambda c: accepted(c, of_class(7), request_id="r2")))
            assert (again[0], again[1]["request_id"]) == (reason, "r1")
        run(lambda c: accepted(c, of_class(8), request_id="r3"))

    @pytest.mark.parametrize(
        ("scope", "kind"),
        [
            (of_class(7), "class"),
            (of_person("c1"), "samples"),
            (of_person("c1"), "subject"),
            (barred_by_itself("c1"), "samples"),
        ],
    )
    def test_what_a_task_cannot_forget_is_refused_with_its_reason(
        self, run: Any, scope: Any, kind: str
    ) -> None:
        run(begun)
        unable = client("c1", unsupported_scopes={kind: "its loop reads all of its data"})
        run(lambda c: client_rows.record_join(c, unable))
        with pytest.raises(Exception, match="its loop reads all of its data") as refusal:
            run(lambda c: accepted(c, scope))
        assert getattr(refusal.value, "reason", None) is Reason.UNSUPPORTED_SCOPE
        assert not run(scope_rows.standing_requests)

    def test_a_barred_client_does_not_keep_a_class_from_being_forgotten(self, run: Any) -> None:
        run(begun)
        unable = client("c1", unsupported_scopes={"class": "it cannot"})
        run(lambda c: client_rows.record_join(c, unable))
        run(lambda c: accepted(c, whole("c1"), request_id="r0"))
        run(lambda c: accepted(c, of_class(7)))

    def test_a_failed_scope_keeps_the_release_until_it_is_forgotten(self, run: Any) -> None:
        run(begun)
        run(lambda c: accepted(c, barred_by_itself("c1")))
        run(lambda c: driven(c, "r1", FAILED))
        for request_id, scope, released_then in (
            ("r2", barred_by_itself("c1", "c"), False),
            ("r3", of_class(7), False),
            ("r4", barred_by_itself("c1"), True),
        ):
            run(lambda c, s=scope, r=request_id: accepted(c, s, request_id=r))
            run(lambda c, r=request_id: driven(c, r, COMPLETED))
            assert run(release_rows.may_release) is released_then

    def test_the_deletion_of_the_whole_client_makes_up_for_its_samples(self, run: Any) -> None:
        run(begun)
        run(lambda c: accepted(c, barred_by_itself("c1")))
        run(lambda c: driven(c, "r1", FAILED))
        run(lambda c: accepted(c, whole("c1"), request_id="r2"))
        run(lambda c: driven(c, "r2", COMPLETED))
        assert run(release_rows.may_release)

    def test_jobs_of_another_assurance_are_not_merged(self, run: Any) -> None:
        run(begun)
        first = run(lambda c: accepted(c, whole("c1")))
        run(lambda c: accepted(c, whole("c2"), request_id="r2", assurance=Assurance.DEEP))
        run(lambda c: accepted(c, of_class(7), request_id="r3"))
        run(lambda c: driven(c, "r1", JobPhase.NEGATING))
        run(lambda c: job_rows.merge_equals(c, first.job, 20.0))
        job = run(deletion_of).job
        assert job.requests == ("r1", "r3")
        assert [scope.label for scope in job.scopes] == [None, 7]
        assert [order.client for order in job.orders] == ["c1", "c2", "c3"]

    def test_a_client_sees_what_is_about_it_and_every_class(self, run: Any) -> None:
        run(begun)
        run(lambda c: accepted(c, whole("c2"), request_id="r0"))
        run(lambda c: accepted(c, of_class(7)))
        run(lambda c: accepted(c, of_person("c1"), whole("c3"), request_id="r2"))
        for name, seen in (("c1", {"r1", "r2"}), ("c2", {"r0", "r1"})):
            caller = Caller(Role.CLIENT, name)
            found = run(lambda c, who=caller: deletion_rows.list_deletions(c, 0, 9, who))
            assert {each.request_id for _, each in found} == seen

    def test_another_client_s_order_is_not_there_to_be_answered(self, run: Any) -> None:
        run(begun)
        run(lambda c: accepted(c, of_person("c1")))
        order = run(lambda c: forget_rows.pending(c, "c1"))
        for name, order_id in (
            ("c2", str(order.id)),
            ("c1", "999"),
            ("c1", "x"),
            ("c1", ""),
        ):
            refusal = refusal_of(
                lambda n=name, o=order_id: run(
                    lambda c: forgetting.confirm(c, n, o, Answer(), 12.0)
                )
            )
            assert refusal[0] is Reason.UNKNOWN_WORK
        assert run(deletion_of).job.phase is AWAITING


class TestLedger:
    """What a database that is older than its ledger is told of samples and classes."""

    @staticmethod
    def noted_and_lost(run: Any, tmp_path: Path, *scopes: Any, until: float | None = None) -> Any:
        """What the ledger holds of a request whose transaction was undone, and the request."""
        ledger = Ledger.begin(tmp_path / "ledger.jsonl", "a")
        found = []

        def command(c: Connection) -> None:
            accepted(c, *scopes, until=until)
            found.append(deletion_of(c))
            note_asked(c, ledger, Key("", "r1"), 10.0)
            raise RuntimeError("a crash")

        run(begun)
        with pytest.raises(RuntimeError):
            run(command)
        return ledger, found[0]

    def test_every_scope_is_fenced_again_under_its_name(self, run: Any, tmp_path: Path) -> None:
        wanted = (whole("c2"), of_person("c1"), of_class(7), barred_by_itself("c3"))
        ledger, before = self.noted_and_lost(run, tmp_path, *wanted)
        run(lambda c: client_rows.record_join(c, client("c4")))
        reconciled = run(lambda c: reconcile(c, ledger, 50.0))
        assert reconciled.told == (
            "the ledger holds deletion r1 of client c2, samples of client c1, class 7, samples of "
            "client c3 and the database does not: that is barred, the release withdrawn and the "
            "deletion queued again",
        )
        found = run(deletion_of)
        assert found.scopes == before.scopes
        assert found.job.phase is AWAITING
        assert [bar.client for bar in run(client_rows.list_bars)] == ["c2"]
        assert set(run(forget_rows.owing)) == {"c1", "c2", "c3", "c4"}
        order = run(lambda c: forget_rows.pending(c, "c1"))
        assert order.scope.subject == "person-1"
        assert order.scope.tombstone == before.scopes[1].tombstone
        assert run(released) == 0
        assert run(lambda c: reconcile(c, ledger, 60.0)).told == ()

    def test_an_approval_is_asked_for_again_beside_the_confirmation(
        self, run: Any, tmp_path: Path
    ) -> None:
        ledger, _ = self.noted_and_lost(run, tmp_path, of_person("c1"), until=99.0)
        run(lambda c: reconcile(c, ledger, 50.0))
        assert not run(lambda c: confirmed(c, "c1", count=1))
        found = run(deletion_of)
        assert (found.job.phase, found.approval.requested_at) == (AWAITING, 50.0)

    def test_a_class_stands_in_the_ledger_until_it_is_lifted(
        self, run: Any, tmp_path: Path
    ) -> None:
        ledger = Ledger.begin(tmp_path / "ledger.jsonl", "a")
        run(begun)
        run(lambda c: accepted(c, of_class(7)))
        run(lambda c: reconcile(c, ledger, 20.0))
        assert ledger.standings[Key("", "r1")].lifted == ""
        assert not run(lambda c: endings(c, ledger))
        run(cancelled)
        run(lambda c: reconcile(c, ledger, 40.0))
        assert ledger.standings[Key("", "r1")].lifted == "cancelled"

    def test_a_note_from_before_there_were_scopes_names_its_client(self) -> None:
        assert scopes_in({"client": "c1"}) == (whole("c1"),)
