"""Records as messages: every value of every enumeration, and every field."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from itertools import product
from typing import Any

import pytest
from support.told_records import AT, STAMP, approval, attempt, deletion, entry, job, round_, version

from fednot.calls import Origin
from fednot.identity.subject import Role
from fednot.loss_profile import LossProfile
from fednot.v1 import (
    approval_pb2,
    audit_pb2,
    deletion_pb2,
    federation_pb2,
    identity_pb2,
    model_pb2,
    operator_pb2,
)
from server.records import (
    ApprovalKind,
    ApprovalState,
    Assurance,
    AttemptOutcome,
    AuditOutcome,
    Bar,
    ClientDestruction,
    DestroyedCache,
    DestroyedVersion,
    Finding,
    ForgetOrder,
    JobPhase,
    Judged,
    RoundOutcome,
    RoundPhase,
    RoundPolicy,
    RoundProgress,
    Run,
    RunState,
    Scope,
    ScopeKind,
    StopReason,
    Thresholds,
    Verdict,
    Verification,
    VersionOrigin,
)
from server.services import messages

ENUMS: list[tuple[type[StrEnum], Any, str]] = [
    (VersionOrigin, model_pb2.VersionOrigin, "VERSION_ORIGIN"),
    (RoundPhase, federation_pb2.RoundPhase, "ROUND_PHASE"),
    (RoundOutcome, operator_pb2.RoundOutcome, "ROUND_OUTCOME"),
    (RunState, operator_pb2.RunState, "RUN_STATE"),
    (JobPhase, deletion_pb2.JobPhase, "JOB_PHASE"),
    (AttemptOutcome, deletion_pb2.AttemptOutcome, "ATTEMPT_OUTCOME"),
    (StopReason, deletion_pb2.StopReason, "STOP_REASON"),
    (ApprovalKind, approval_pb2.ApprovalKind, "APPROVAL_KIND"),
    (ApprovalState, approval_pb2.ApprovalState, "APPROVAL_STATE"),
    (AuditOutcome, audit_pb2.AuditOutcome, "AUDIT_OUTCOME"),
    (Role, identity_pb2.Role, "ROLE"),
    (Verdict, deletion_pb2.Verdict, "VERDICT"),
    (Assurance, deletion_pb2.Assurance, "ASSURANCE"),
]


@pytest.mark.parametrize(("record", "proto", "prefix"), ENUMS, ids=[row[2] for row in ENUMS])
def test_records_and_protocol_have_the_same_values(
    record: type[StrEnum], proto: Any, prefix: str
) -> None:
    ours = {f"{prefix}_{value.name}" for value in record}
    assert set(proto.keys()) - {f"{prefix}_UNSPECIFIED"} == ours
    assert proto.Value(f"{prefix}_UNSPECIFIED") == 0


@pytest.mark.parametrize("origin", VersionOrigin)
def test_every_origin_of_a_version_is_told(origin: VersionOrigin) -> None:
    found = messages.version_message(version(origin), released=0)
    assert found is not None
    assert model_pb2.VersionOrigin.Name(found.origin) == f"VERSION_ORIGIN_{origin.name}"


@pytest.mark.parametrize(("phase", "outcome"), list(product(RoundPhase, RoundOutcome)))
def test_every_phase_and_outcome_of_a_round_is_told(
    phase: RoundPhase, outcome: RoundOutcome
) -> None:
    found = messages.round_message(round_(phase, outcome))
    assert federation_pb2.RoundPhase.Name(found.phase) == f"ROUND_PHASE_{phase.name}"
    assert operator_pb2.RoundOutcome.Name(found.outcome) == f"ROUND_OUTCOME_{outcome.name}"


@pytest.mark.parametrize("state", RunState)
def test_every_state_of_a_run_is_told(state: RunState) -> None:
    found = messages.run_message(Run(2, 10, 3, state, AT, RoundPolicy(), {}, "why", "call-1"))
    assert found == operator_pb2.TrainingRun(
        id=2,
        rounds=10,
        rounds_done=3,
        state=operator_pb2.RunState.Value(f"RUN_STATE_{state.name}"),
        failure="why",
        started_at=STAMP,
        call_id="call-1",
    )


@pytest.mark.parametrize(("phase", "earlier"), list(product(JobPhase, JobPhase)))
def test_every_phase_of_a_job_is_told_with_its_history(phase: JobPhase, earlier: JobPhase) -> None:
    found = deletion(job(phase, history=((earlier, AT), (phase, AT)))).job
    assert deletion_pb2.JobPhase.Name(found.phase) == f"JOB_PHASE_{phase.name}"
    names = [deletion_pb2.JobPhase.Name(entry.phase) for entry in found.history]
    assert names == [f"JOB_PHASE_{earlier.name}", f"JOB_PHASE_{phase.name}"]
    assert {entry.at.ToNanoseconds() for entry in found.history} == {STAMP.ToNanoseconds()}


@pytest.mark.parametrize(("outcome", "reason"), list(product(AttemptOutcome, [None, *StopReason])))
def test_every_end_of_an_attempt_is_told(
    outcome: AttemptOutcome, reason: StopReason | None
) -> None:
    found = deletion(job(attempts=(attempt(outcome=outcome, stop_reason=reason),))).job.attempts[0]
    named = reason.name if reason else "UNSPECIFIED"
    assert deletion_pb2.AttemptOutcome.Name(found.outcome) == f"ATTEMPT_OUTCOME_{outcome.name}"
    assert deletion_pb2.StopReason.Name(found.stop_reason) == f"STOP_REASON_{named}"


def test_every_field_of_a_version_is_told() -> None:
    expected = model_pb2.Version(
        number=7,
        sha256="ab",
        parent=6,
        generation=2,
        lineage=3,
        origin=model_pb2.VERSION_ORIGIN_RECOVERY,
        round=9,
        created_at=STAMP,
        metrics={"accuracy": 0.5},
        negated_tensors=["w"],
        released=True,
        destroyed_at=STAMP,
        num_bytes=64,
        held_by="job-1",
    )
    assert len(expected.ListFields()) == len(model_pb2.Version.DESCRIPTOR.fields)
    assert (
        messages.version_message(version(destroyed_at=AT, held_by="job-1"), released=7) == expected
    )


def test_a_version_that_is_kept_and_not_released_says_so() -> None:
    found = messages.version_message(version(), released=6)
    assert found is not None
    assert not found.released
    assert not found.HasField("destroyed_at")


def test_every_field_of_a_round_is_told() -> None:
    record = round_(
        RoundPhase.RECOVERY,
        RoundOutcome.DEGRADED,
        job_id="job-1",
        attempt=2,
        result_version=7,
        missing={"c2": "it left"},
        metrics={"loss": 0.5},
        ended_at=AT,
    )
    expected = operator_pb2.Round(
        number=9,
        phase=federation_pb2.ROUND_PHASE_RECOVERY,
        outcome=operator_pb2.ROUND_OUTCOME_DEGRADED,
        base_version=6,
        result_version=7,
        cohort=["c1", "c2"],
        missing=[operator_pb2.MissingClient(client="c2", reason="it left")],
        metrics={"loss": 0.5},
        started_at=STAMP,
        ended_at=STAMP,
        job_id="job-1",
        attempt=2,
    )
    assert len(expected.ListFields()) == len(operator_pb2.Round.DESCRIPTOR.fields)
    assert messages.round_message(record) == expected


def test_a_round_that_runs_has_no_end() -> None:
    found = messages.round_message(round_(RoundPhase.TRAINING, RoundOutcome.RUNNING))
    assert not found.HasField("ended_at")


WHOLE = Scope(ScopeKind.CLIENT, client="c1")
BARRED = Scope(ScopeKind.SAMPLES, client="c1", count=4, sha256="cd", tombstone="cd")
PERSON = Scope(ScopeKind.SAMPLES, client="c1", subject="person-1", tombstone="t2")
SCOPES = (WHOLE, Scope(ScopeKind.CLASS, label=7, tombstone="t"), BARRED, PERSON)
_LOSSES = LossProfile.of([0.1, 0.2], [True, True])
VERIFICATION = Verification(
    behaviour=Judged(Verdict.PASS, "alike"),
    depth=Judged(Verdict.FAIL, "it comes back"),
    findings=(Finding("undone: w", 2, {"auc": 0.5}),),
    thresholds=Thresholds(0.2, 0.3),
    found_at=AT,
    forgotten=_LOSSES,
    unseen=_LOSSES,
    probe_sha256="ef",
)


def test_what_is_forgotten_confirmed_and_verified_is_told() -> None:
    found = deletion(
        job(attempts=(attempt(verification=VERIFICATION),)),
        scopes=SCOPES,
        orders=(ForgetOrder(1, "c1", PERSON, "job-1", AT, False, AT, 3, "ab"),),
    )
    assert found.scope == deletion_pb2.Scope(client="c1")
    barred = deletion_pb2.SampleDigest(count=4, sha256="cd")
    assert list(found.more_scopes) == [
        deletion_pb2.Scope(class_label=7),
        deletion_pb2.Scope(samples=deletion_pb2.SampleScope(client="c1", barred=barred)),
        deletion_pb2.Scope(samples=deletion_pb2.SampleScope(client="c1", subject="person-1")),
    ]
    (confirmation,) = found.confirmations
    assert (confirmation.client, confirmation.ordered_at) == ("c1", STAMP)
    assert (confirmation.confirmed_at, confirmation.refusal) == (STAMP, "")
    assert (confirmation.barred.count, confirmation.barred.sha256) == (3, "ab")
    verified = found.job.attempts[0].verification
    assert (verified.behaviour, verified.depth) == (
        deletion_pb2.VERDICT_PASS,
        deletion_pb2.VERDICT_FAIL,
    )
    assert (verified.behaviour_reason, verified.depth_reason) == ("alike", "it comes back")
    assert (verified.auc_margin, verified.trigger_margin) == (0.2, 0.3)
    assert verified.forgotten.num_correct == 2
    assert dict(verified.findings[0].figures) == {"auc": 0.5}


def test_every_field_of_a_deletion_and_its_job_is_told() -> None:
    destroyed = ClientDestruction(
        1, "c1", "job-1", 2, AT, AT, (DestroyedCache("residual", "ef", 8),)
    )
    found = deletion(
        job(
            base_version=6,
            target_accuracy=0.96,
            released_version=11,
            failure="why",
            history=((JobPhase.QUEUED, AT),),
            attempts=(attempt(stop_reason=StopReason.TARGET, verification=VERIFICATION),),
            chosen_attempt=2,
            destroyed=(DestroyedVersion(5, "cd"),),
            priority=3,
            retain=True,
            hold_lifted_at=AT,
            requests=("r1", "r2"),
            caches=(destroyed, replace(destroyed, client="c2", acknowledged_at=None)),
            origin=Origin("call-1"),
        ),
        not_after=AT,
        overdue=True,
        scopes=SCOPES,
        orders=(ForgetOrder(1, "c1", PERSON, "job-1", AT, False, AT, 3, "ab"),),
    )
    set_by_others = {"has_receipt"}
    for message in (
        found,
        found.job,
        found.job.attempts[0],
        found.job.attempts[0].verification,
        found.job.attempts[0].verification.findings[0],
    ):
        told_of = {field.name for field, _ in message.ListFields()} | set_by_others
        assert told_of >= {field.name for field in message.DESCRIPTOR.fields}, message
    first_of_it = (found.request_id, found.scope.client, list(found.aborted_rounds))
    assert first_of_it == ("r1", "c1", [3, 4])
    assert (found.method, found.layers, found.accepted_at) == ("not", "first", STAMP)
    asked = identity_pb2.Caller(role=identity_pb2.ROLE_OFFICER, name="dora")
    assert (found.requested_by, found.approval_id) == (asked, "approval-1")
    assert (found.priority, found.not_after, found.overdue) == (3, STAMP, True)
    told = found.job
    first, second = told.client_destructions
    assert (first.client, first.ordered_at, first.acknowledged_at) == ("c1", STAMP, STAMP)
    shown = federation_pb2.DestroyedCache(kind="residual", sha256="ef", num_bytes=8)
    assert list(first.destroyed) == [shown]
    assert not second.HasField("acknowledged_at")
    assert (told.retain, told.hold_lifted_at, list(told.request_ids)) == (True, STAMP, ["r1", "r2"])
    shown_first = (told.id, told.call_id, told.waiting_for, told.failure)
    assert shown_first == ("job-1", "call-1", "for c2", "why")
    assert (told.base_version, told.target_accuracy, told.released_version) == (6, 0.96, 11)
    assert told.destroyed[0] == deletion_pb2.DestroyedVersion(number=5, sha256="cd")
    tried = told.attempts[0]
    assert (tried.number, tried.method, list(tried.tensors)) == (2, "not", ["w", "v"])
    assert (tried.start_version, tried.stopped_at) == (8, 1)
    assert (list(tried.warnings), tried.explanation) == (["careful"], "negates w")
    expected = deletion_pb2.RecoveryRound(round=10, version=9, metrics={"loss": 1.5})
    assert list(tried.rounds) == [expected]


@pytest.mark.parametrize(("kind", "state"), list(product(ApprovalKind, ApprovalState)))
def test_every_kind_and_state_of_an_approval_is_told(
    kind: ApprovalKind, state: ApprovalState
) -> None:
    found = messages.approval_message(approval(kind=kind, state=state))
    assert approval_pb2.ApprovalKind.Name(found.kind) == f"APPROVAL_KIND_{kind.name}"
    assert approval_pb2.ApprovalState.Name(found.state) == f"APPROVAL_STATE_{state.name}"


def test_every_field_of_an_approval_is_told() -> None:
    expected = approval_pb2.Approval(
        id="approval-1",
        kind=approval_pb2.APPROVAL_KIND_DELETION,
        state=approval_pb2.APPROVAL_STATE_APPROVED,
        client="c1",
        job_id="job-1",
        requested_by=identity_pb2.Caller(role=identity_pb2.ROLE_OFFICER, name="dora"),
        requested_at=STAMP,
        expires_at=STAMP,
        decided_by=identity_pb2.Caller(role=identity_pb2.ROLE_OFFICER, name="emil"),
        decided_at=STAMP,
    )
    assert len(expected.ListFields()) == len(approval_pb2.Approval.DESCRIPTOR.fields)
    assert messages.approval_message(approval()) == expected
    waiting = messages.approval_message(approval(decided_by="", decided_at=None))
    assert not waiting.HasField("decided_by")
    assert not waiting.HasField("decided_at")


def test_every_field_of_an_entry_of_the_audit_is_told() -> None:
    expected = audit_pb2.AuditEntry(
        sequence=3,
        at=STAMP,
        actor="p-aa",
        role=identity_pb2.ROLE_OFFICER,
        action="DeletionService.Unlearn",
        subject="p-bb",
        outcome=audit_pb2.AUDIT_OUTCOME_REFUSED,
        reason="UNKNOWN_CLIENT",
        job_id="job-1",
        version=7,
        count=2,
        previous_hash="00",
        hash="11",
        actor_name="officer/dora",
        subject_name="client/c1",
    )
    assert len(expected.ListFields()) == len(audit_pb2.AuditEntry.DESCRIPTOR.fields)
    names = {"p-aa": "officer/dora", "p-bb": "client/c1"}
    assert messages.audit_message(entry(), names) == expected


@pytest.mark.parametrize("role", ["", *Role])
def test_a_caller_is_told_by_role_and_nobody_by_none(role: str) -> None:
    found = messages.audit_message(entry(role=role, actor=""), {})
    expected = f"ROLE_{Role(role).name}" if role else "ROLE_UNSPECIFIED"
    assert identity_pb2.Role.Name(found.role) == expected
    assert (found.actor_name, found.subject_name) == ("", "")


def test_a_target_of_zero_is_not_the_same_as_none() -> None:
    assert not deletion(job()).job.HasField("target_accuracy")
    assert deletion(job(target_accuracy=0.0)).job.HasField("target_accuracy")


def test_progress_tells_who_is_still_waited_for() -> None:
    """Of five clients two were accepted and one failed, so two are missing."""
    cohort = ("a", "b", "c", "d", "e")
    record = RoundProgress(4, RoundPhase.TRAINING, cohort, ("c", "e"), ("a",))
    assert messages.progress_message(record) == deletion_pb2.RoundProgress(
        round=4,
        phase=federation_pb2.ROUND_PHASE_TRAINING,
        cohort=5,
        updates=2,
        missing=["b", "d"],
    )


def test_a_barred_client_is_told_by_which_request_and_since_when() -> None:
    found = messages.barred_message(Bar("c1", "r1", AT))
    assert found is not None
    assert (found.request_id, found.since) == ("r1", STAMP)
    assert found.message.startswith("client c1 is barred by deletion r1 and may not train")


def test_nothing_is_no_message() -> None:
    assert messages.version_message(None, 1) is None
    assert messages.run_message(None) is None
    assert messages.progress_message(None) is None
    assert messages.barred_message(None) is None
    assert messages.timestamp(None) is None
    assert messages.caller_message("") is None


def test_a_client_is_told_of_no_verdict_before_there_is_one() -> None:
    told = deletion(job(attempts=(attempt(verification=None),)))

    hidden = messages.hide_others(told, "c1")

    assert [each.HasField("verification") for each in hidden.job.attempts] == [False]
