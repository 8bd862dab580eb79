"""What a receipt states of a job's rows, and that receipts and public keys stay as they are."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError
from support.receipts import golden_key, sha
from support.state import COMPLETED, accepted, begun, driven, version

from fednot.loss_profile import BINS, EDGES, LossProfile
from fednot.receipt import Receipt, verified
from server.receipts.content import histogram_of, receipt_of
from server.records import (
    Attempt,
    AttemptOutcome,
    Finding,
    ForgetOrder,
    IssuedReceipt,
    Job,
    Judged,
    KeptUpdate,
    Scope,
    ScopeKind,
    StopReason,
    Thresholds,
    Verdict,
    Verification,
)
from server.state import (
    destruction_rows,
    job_rows,
    kept_update_rows,
    pseudonym_rows,
    receipt_rows,
)
from server.state import version_rows as versions
from server.state.schema import versions as table

KEY = golden_key()


@pytest.fixture
def job(run: Any) -> Job:
    """The job as records tell it at its end, with what other modules write put in by hand."""
    return run(_ended)  # type: ignore[no-any-return]


def _ended(c: Connection) -> Job:
    begun(c)
    for number in (1, 2):
        _rehash(c, number)
    found = accepted(c).job
    for number, origin in ((3, "unlearning"), (4, "recovery")):
        made = version(number, origin, generation=1, sha256=sha(str(number)))
        versions.insert_version(c, made)
    job_rows.insert_attempt(c, Attempt(found.id, 1, "not", ("conv1.weight",), 3, warnings=("w",)))
    versions.destroy(c, before=4, by=found.id, now=20.0)
    destruction_rows.order(c, found.id, 1, 20.0)
    driven(c, "r1", COMPLETED)
    (attempt,) = (found := job_rows.get_job(c, found.id)).attempts
    attempt = replace(
        attempt,
        outcome=AttemptOutcome.SUCCEEDED,
        stop_reason=StopReason.PLATEAU,
        verification=verification(),
    )
    return replace(found, base_version=2, attempts=(attempt,), chosen_attempt=1)


def _rehash(c: Connection, number: int) -> None:
    c.execute(table.update().where(table.c.number == number).values(sha256=sha(str(number))))


def verification(**values: Any) -> Verification:
    losses = LossProfile.of([0.1, 0.2, 3.0], [True, True, False])
    fields: dict[str, Any] = {
        "behaviour": Judged(Verdict.PASS, "the AUC is 0.5"),
        "depth": Judged(Verdict.FAIL, "the undo attack brings it back"),
        "findings": (Finding("recovered", 0, {"auc": 0.5, "trigger": math.nan}),),
        "thresholds": Thresholds(0.1, 0.2),
        "found_at": 30.0,
        "forgotten": losses,
        "unseen": losses,
    }
    return Verification(**(fields | values))


def stated(run: Any, job: Job) -> Receipt:
    found: Receipt = run(lambda c: receipt_of(c, job, KEY.id, 40.0))
    assert verified(KEY.sign(found), KEY.pem) == found
    return found


class TestContent:
    """One job; `run` is a fixture of conftest.py, once for each database."""

    def test_the_versions_stand_with_their_hashes(self, run: Any, job: Job) -> None:
        found = stated(run, job)
        assert [found.initial.number, found.base.number, found.result.number] == [1, 2, 4]
        assert [found.initial.sha256, found.base.sha256] == [sha("1"), sha("2")]
        assert (found.result.sha256, found.result.generation) == (sha("4"), 1)
        assert [each.number for each in found.destroyed] == [2, 3]
        assert found.chosen.start.number == found.chosen.end.number == 3

    def test_the_verdicts_and_figures_are_those_of_the_chosen_attempt(
        self, run: Any, job: Job
    ) -> None:
        found = stated(run, job)
        assert (found.behaviour.verdict, found.depth.verdict) == ("pass", "fail")
        assert found.depth.reason == "the undo attack brings it back"
        told = found.chosen.verification
        assert told is not None
        assert told.findings[0].figures == {"auc": 0.5}, "what is no number is left out"
        assert told.thresholds == {"auc_margin": 0.1, "trigger_margin": 0.2}
        assert (found.chosen.outcome, found.chosen.stop_reason) == ("succeeded", "plateau")
        assert found.chosen.warnings == ("w",)

    def test_without_verification_nothing_is_claimed(self, run: Any, job: Job) -> None:
        bare = replace(job, attempts=(replace(job.attempts[0], verification=None),))
        found = stated(run, bare)
        assert found.behaviour.verdict == found.depth.verdict == "not-possible"
        with pytest.raises(LookupError, match="no attempt"):
            stated(run, replace(job, attempts=()))

    def test_clients_have_pseudonyms_and_subjects_are_not_told(self, run: Any, job: Job) -> None:
        person = Scope(ScopeKind.SAMPLES, "c2", subject="patient-17", tombstone="t" * 32)
        samples = Scope(ScopeKind.SAMPLES, "c3", count=4, sha256=sha("ids"), tombstone=sha("ids"))
        seven = Scope(ScopeKind.CLASS, label=7, tombstone="s" * 32)
        orders = (
            _order("c2", person, count=9, sha256=sha("of c2"), confirmed_at=12.0),
            _order("c2", seven, count=5, confirmed_at=12.0),
            _order("c3", seven, count=6, confirmed_at=13.0),
            _order("c1", seven),
            _order("c1", seven, lift=True, confirmed_at=14.0, count=99),
        )
        found = stated(run, replace(job, scopes=(person, samples, seven), orders=orders))
        names = run(lambda c: [pseudonym_rows.pseudonym_of(c, f"client/c{n}") for n in (2, 3)])
        assert [(s.kind, s.client, s.label) for s in found.scopes] == [
            ("samples", names[0], None),
            ("samples", names[1], None),
            ("class", None, 7),
        ]
        assert [(s.count, s.sha256) for s in found.scopes] == [
            (9, sha("of c2")),
            (4, sha("ids")),
            (11, None),
        ]
        assert [(s.clients_told, s.clients_confirmed) for s in found.scopes] == [
            (1, 1),
            (0, 0),
            (3, 2),
        ]
        assert "patient-17" not in found.model_dump_json()

    def test_the_updates_that_the_job_destroyed_are_counted_and_named_by_a_hash(
        self, run: Any, job: Job
    ) -> None:
        assert stated(run, job).kept_updates is None
        rows = [KeptUpdate(1, name, sha(name), 5, 100, 1) for name in ("c1", "c2")]
        run(lambda c: kept_update_rows.insert_updates(c, rows))
        assert stated(run, job).kept_updates is None, "they are kept"
        run(lambda c: kept_update_rows.destroy(c, before=4, current=4, by=job.id, now=25.0))
        found = stated(run, job).kept_updates
        assert found is not None
        assert (found.count, found.num_bytes) == (2, 200)
        assert found.sha256 == sha("\n".join(sorted((sha("c1"), sha("c2")))))

    def test_the_steps_of_an_attempt_are_counted(self, run: Any, job: Job) -> None:
        stepped = replace(job.attempts[0], steps=(3, 4))
        assert stated(run, job).chosen.steps == 0
        assert stated(run, replace(job, attempts=(stepped,))).chosen.steps == 2

    def test_a_whole_client_is_named_by_the_audits_pseudonym(self, run: Any, job: Job) -> None:
        (scope,) = stated(run, job).scopes
        of_audit = run(lambda c: pseudonym_rows.known_pseudonym(c, "client/c1"))
        assert (scope.kind, scope.client, scope.count) == ("client", of_audit, None)

    def test_clients_that_have_not_answered_are_counted(self, run: Any, job: Job) -> None:
        order = run(lambda c: destruction_rows.pending(c, "c2"))
        run(lambda c: destruction_rows.acknowledge(c, "c2", order.id, (), 25.0))
        now = run(lambda c: job_rows.get_job(c, job.id))
        found = stated(run, replace(job, caches=now.caches))
        assert (len(found.client_caches), found.clients_unacknowledged) == (1, 2)


def _order(client: str, scope: Scope, **values: Any) -> ForgetOrder:
    return ForgetOrder(1, client, scope, "job-1", 11.0, **values)


def test_a_histogram_keeps_every_sample_in_its_order() -> None:
    edges = [EDGES[0] / 2, EDGES[0] * 1.01, EDGES[10] * 1.01, EDGES[-1] * 2]
    found = histogram_of(LossProfile.of(edges, [True, False, True, False]))
    assert found is not None
    assert [at for at, count in enumerate(found.counts) if count] == [0, 1, 2, 41]
    full = histogram_of(LossProfile((1,) * BINS, 0))
    assert full is not None
    assert full.counts == (1, *(10,) * 40, 1)
    assert histogram_of(None) is None


class TestRows:
    """Receipts and keys; `run` as above."""

    def test_a_job_has_one_receipt_for_ever(self, run: Any, job: Job) -> None:
        issued = IssuedReceipt(job.id, "a.b.c", KEY.id, 41.0)
        assert not run(lambda c: job_rows.get_job(c, job.id)).has_receipt
        run(lambda c: receipt_rows.insert_receipt(c, issued))
        assert run(lambda c: receipt_rows.get_receipt(c, job.id)) == issued
        assert run(lambda c: job_rows.get_job(c, job.id)).has_receipt
        with pytest.raises(IntegrityError):
            run(lambda c: receipt_rows.insert_receipt(c, replace(issued, jws="other")))
        assert run(receipt_rows.list_receipts) == [issued]

    def test_one_key_signs_and_the_others_are_kept(self, run: Any) -> None:
        assert run(receipt_rows.active_key) is None
        for number in (1, 2, 3):
            run(lambda c, n=number: receipt_rows.replace_key(c, f"k{n}", f"pem {n}", float(n)))
        found = run(receipt_rows.list_keys)
        assert [(k.id, k.created_at, k.retired_at) for k in found] == [
            ("k3", 3.0, None),
            ("k2", 2.0, 3.0),
            ("k1", 1.0, 2.0),
        ]
        assert run(receipt_rows.active_key) == found[0]
        assert run(lambda c: receipt_rows.get_key(c, "k1")) == found[2]
        assert run(lambda c: receipt_rows.get_key(c, "k9")) is None
