"""What a federation does while its server dies: a small story for each thing that it can do."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
from support.faults.deletions import (
    FEW_ROUNDS,
    REQUEST,
    TARGET,
    await_job,
)
from support.faults.mortal import MortalFederation
from support.faults.witness import audit_of
from support.federation import CALL
from support.raw_client import RawClient

from fednot.channel import open_enrolment_channel
from fednot.data.mnist5k import mnist5k
from fednot.errors import Reason
from fednot.identity import certificates
from fednot.identity.subject import Role, Subject
from fednot.identity.token import Token
from fednot.receipt import SigningKey
from fednot.rpc_errors import from_rpc_error
from fednot.v1 import (
    approval_pb2,
    audit_pb2,
    deletion_pb2,
    identity_pb2,
    identity_pb2_grpc,
    model_pb2,
    operator_pb2,
    receipt_pb2,
)
from server.receipts.key_files import KEY_FILE, NEXT_FILE

Call = Callable[[], object]
EMIL = (Role.OFFICER, "emil")
PREFIX = "federation"
DORA = (Role.OFFICER, "dora")


def unless(call: Call, *reasons: Reason) -> Call:
    """A call that may find that it was done already, its first answer being lost."""

    def called() -> object:
        try:
            return call()
        except grpc.RpcError as error:
            known = from_rpc_error(error)
            if known is None or known.reason not in reasons:
                raise
            return known

    return called


def joined_once(federation: MortalFederation, *names: str) -> None:
    """Clients that are known and gone."""
    for name in names:
        federation.persist(lambda name=name: RawClient(federation, name).leave())  # type: ignore


def asked_for(federation: MortalFederation) -> deletion_pb2.Deletion:
    return federation.persist(lambda: federation.unlearn(TARGET, REQUEST, **FEW_ROUNDS))


def phase(federation: MortalFederation) -> int:
    return federation.persist(lambda: federation.deletion(REQUEST)).job.phase


def barred(federation: MortalFederation) -> str:
    return federation.persist(lambda: federation.client_info(TARGET)).barred_by


def departure(federation: MortalFederation) -> None:
    """A client that leaves as the server dies ends, and comes back as who it was."""
    federation.start_client(0)
    federation.await_clients("c0")
    joined_at = federation.persist(lambda: federation.client_info("c0")).joined_at
    assert federation.kill("c0", signal.SIGTERM) == 0
    federation.revive()
    federation.start_client(0)
    federation.await_clients("c0")
    assert federation.persist(lambda: federation.client_info("c0")).joined_at == joined_at


def stopped_run(federation: MortalFederation) -> None:
    federation.begin_run(3)
    stop = operator_pb2.StopTrainingRequest()
    federation.persist(
        unless(
            lambda: federation.operator.StopTraining(stop, timeout=CALL), Reason.TRAINING_NOT_ACTIVE
        )
    )
    assert federation.run_ended().state == operator_pb2.RUN_STATE_STOPPED


def failing_run(federation: MortalFederation) -> None:
    """Its rounds fail, the run fails, and the next one goes well."""
    federation.fail.touch()
    federation.start_client(0, failing=True)
    federation.await_clients("c0")
    run = federation.run_through(1)
    assert run.state == operator_pb2.RUN_STATE_FAILED
    assert "missing c0: it failed: RuntimeError" in run.failure
    federation.fail.unlink()
    assert federation.run_through(1).state == operator_pb2.RUN_STATE_COMPLETED


def cancelled(federation: MortalFederation) -> None:
    joined_once(federation, "c0")
    asked_for(federation)
    cancel = deletion_pb2.CancelDeletionRequest(request_id=REQUEST)
    federation.persist(
        unless(
            lambda: federation.deletions.CancelDeletion(cancel, timeout=CALL),
            Reason.NOT_CANCELLABLE,
        )
    )
    assert phase(federation) == deletion_pb2.JOB_PHASE_CANCELLED
    assert not barred(federation)


def deletion_in_a_bucket(federation: MortalFederation) -> None:
    """The versions are in S3, where an upload was left by a program that was killed."""
    for index in range(3):
        federation.start_client(index)
    federation.await_clients("c0", "c1", "c2")
    federation.run_through(1)
    federation.persist(lambda: federation.unlearn(TARGET, REQUEST, **FEW_ROUNDS))
    ended = await_job(federation, REQUEST)
    assert ended.job.phase == deletion_pb2.JOB_PHASE_COMPLETED
    assert len(ended.job.attempts) == 1
    assert barred(federation) == REQUEST


def chosen(federation: MortalFederation) -> None:
    """No attempt passes. The first one, which is the more accurate, is kept.

    Its flags name the folder of probes and a ladder whose second rung has fewer rounds.
    """
    write_probe(federation.folder / "probes")
    for index in range(3):
        federation.start_client(index)
    federation.await_clients("c0", "c1", "c2")
    federation.run_through(3)
    request = deletion_pb2.UnlearnRequest(
        request_id=REQUEST,
        scope=deletion_pb2.Scope(client=TARGET),
        recovery=deletion_pb2.RecoveryPolicy(**FEW_ROUNDS),
        assurance=deletion_pb2.ASSURANCE_DEEP,
    )
    federation.persist(lambda: federation.deletions.Unlearn(request, timeout=CALL))
    job = await_job(federation, REQUEST).job
    assert job.phase == deletion_pb2.JOB_PHASE_COMPLETED
    assert len(job.attempts) == 2
    kept = federation.versions()[job.released_version]
    assert kept.origin == model_pb2.VERSION_ORIGIN_CHOSEN
    assert kept.parent == job.attempts[0].rounds[-1].version


def write_probe(folder: Path) -> None:
    """A probe of the target that no model passes: the same bright picture, called two things."""
    folder.mkdir(exist_ok=True)
    pictures = np.repeat(50 * mnist5k().inputs[:1].numpy(), 20, axis=0)
    labels = np.zeros(20, dtype=np.int64)
    samples = {"forgotten_x": pictures, "unseen_x": pictures}
    np.savez(folder / f"client-{TARGET}.npz", **samples, forgotten_y=labels, unseen_y=labels + 1)


def approved(federation: MortalFederation) -> None:
    joined_once(federation, "c0")
    for index in (1, 2):
        federation.start_client(index)
    request = approval_pb2.ApproveRequest(id=asked_for(federation).approval_id)
    approval = federation.persist(
        lambda: federation.stubs_for(*EMIL).approvals.Approve(request, timeout=CALL)
    ).approval
    assert approval.state == approval_pb2.APPROVAL_STATE_APPROVED
    assert await_job(federation, REQUEST).job.phase == deletion_pb2.JOB_PHASE_COMPLETED
    assert barred(federation) == REQUEST


def asked_for_a_person(federation: MortalFederation) -> None:
    """Samples that the target holds, which is known and gone; two others are there."""
    joined_once(federation, TARGET)
    for index in (1, 2):
        federation.start_client(index)
    federation.await_clients("c1", "c2")
    samples = deletion_pb2.SampleScope(client=TARGET, subject="person-1")
    request = deletion_pb2.UnlearnRequest(
        request_id=REQUEST,
        scope=deletion_pb2.Scope(samples=samples),
        recovery=deletion_pb2.RecoveryPolicy(**FEW_ROUNDS),  # type: ignore[arg-type]
    )
    federation.persist(lambda: federation.deletions.Unlearn(request, timeout=CALL))


def told_to_forget(federation: MortalFederation) -> bool:
    """Whether the target had something to bar, which it has then said that it did."""
    target = RawClient(federation, TARGET)
    work = target.poll()
    if work.HasField("forget"):
        target.report_forgetting(work.forget.order_id, count=3, sha256="a" * 64)
    target.leave()
    return work.HasField("forget")


def confirmed(federation: MortalFederation) -> None:
    """A confirmation whose answer was lost is given again, and counts once."""
    asked_for_a_person(federation)
    assert phase(federation) == deletion_pb2.JOB_PHASE_AWAITING
    federation.persist(lambda: told_to_forget(federation))
    ended = await_job(federation, REQUEST)
    assert ended.job.phase == deletion_pb2.JOB_PHASE_COMPLETED
    assert ended.confirmations[0].barred.count == 3
    assert "person-1" not in str(ended)


def unconfirmed(federation: MortalFederation) -> None:
    """The job goes on without the client, which is told when it comes."""
    asked_for_a_person(federation)
    ended = await_job(federation, REQUEST)
    assert ended.job.phase == deletion_pb2.JOB_PHASE_COMPLETED
    assert not ended.confirmations[0].HasField("confirmed_at")
    assert federation.persist(lambda: told_to_forget(federation))


def refused(federation: MortalFederation) -> None:
    joined_once(federation, "c0")
    request = approval_pb2.RefuseRequest(id=asked_for(federation).approval_id)
    approval = federation.persist(
        lambda: federation.stubs_for(*EMIL).approvals.Refuse(request, timeout=CALL)
    ).approval
    assert approval.state == approval_pb2.APPROVAL_STATE_REFUSED
    assert phase(federation) == deletion_pb2.JOB_PHASE_CANCELLED
    assert not barred(federation)


def expired(federation: MortalFederation) -> None:
    joined_once(federation, "c0")
    asked_for(federation)
    assert await_job(federation, REQUEST).job.phase == deletion_pb2.JOB_PHASE_CANCELLED
    assert not barred(federation)


def overdue(federation: MortalFederation) -> None:
    """Nobody is there to recover with when it was due; that is noted once, and it goes on."""
    joined_once(federation, "c0")
    request = deletion_pb2.UnlearnRequest(
        request_id=REQUEST, scope=deletion_pb2.Scope(client=TARGET)
    )
    request.not_after.FromMilliseconds(int(time.time() * 1000) + 300)
    federation.persist(lambda: federation.deletions.Unlearn(request, timeout=CALL))
    federation.await_that("it is late", lambda: federation.deletion(REQUEST).overdue)
    assert actions(federation).count("deletion.overdue") == 1
    assert phase(federation) == deletion_pb2.JOB_PHASE_RECOVERING


def held(federation: MortalFederation) -> None:
    """What was kept for a legal hold goes once the hold is lifted."""
    for index in range(3):
        federation.start_client(index)
    federation.await_clients("c0", "c1", "c2")
    federation.run_through(1)
    request = deletion_pb2.UnlearnRequest(
        request_id=REQUEST,
        scope=deletion_pb2.Scope(client=TARGET),
        recovery=deletion_pb2.RecoveryPolicy(**FEW_ROUNDS),
        retain=True,
    )
    federation.persist(lambda: federation.deletions.Unlearn(request, timeout=CALL))
    ended = await_job(federation, REQUEST)
    assert ended.job.phase == deletion_pb2.JOB_PHASE_COMPLETED
    base = federation.version_file(federation.versions()[ended.job.base_version].sha256)
    assert base.exists()
    lift = deletion_pb2.LiftHoldRequest(request_id=REQUEST)
    federation.persist(
        unless(lambda: federation.deletions.LiftHold(lift, timeout=CALL), Reason.NO_HOLD)
    )
    federation.await_that("what was kept is gone", lambda: not base.exists())


def failed_job(federation: MortalFederation) -> None:
    """Nobody is there to recover with, and the deadline passes; the bar stands."""
    joined_once(federation, "c0")
    asked_for(federation)
    assert await_job(federation, REQUEST).job.phase == deletion_pb2.JOB_PHASE_FAILED
    assert barred(federation) == REQUEST


def readmitted(federation: MortalFederation) -> None:
    failed_job(federation)
    request = operator_pb2.ReadmitClientRequest(client=TARGET)
    federation.persist(
        unless(
            lambda: federation.operator.ReadmitClient(request, timeout=CALL),
            Reason.CLIENT_NOT_BARRED,
        )
    )
    assert not barred(federation)


def fetched(federation: MortalFederation) -> None:
    """A download that the server's death cuts is asked for again; the audit has it."""
    for index in (1, 2):
        federation.start_client(index)
    federation.await_clients("c1", "c2")
    federation.run_through(1)
    request = operator_pb2.DownloadVersionRequest()
    parts = federation.persist(
        lambda: list(federation.operator.DownloadVersion(request, timeout=CALL))
    )
    assert parts[-1].HasField("trailer")
    assert "OperatorService.DownloadVersion" in actions(federation)


def enrolled(federation: MortalFederation) -> None:
    """A token whose answer was lost is made again; one that was used is used by the same key."""
    create = identity_pb2.CreateTokenRequest(client="c9")
    made = federation.persist(
        lambda: federation.stubs_for(Role.OPERATOR, "olga").identity.CreateToken(
            create, timeout=CALL
        )
    )
    token, key = Token.parse(made.token), certificates.new_key()
    request = identity_pb2.EnrollRequest(
        secret=token.secret, certificate_request=signing_request(Subject(Role.CLIENT, "c9"), key)
    )
    address = federation.flag("--enrolment-address")

    def enrol() -> identity_pb2.EnrollResponse:
        with open_enrolment_channel(address, token.trust) as channel:
            stub = identity_pb2_grpc.EnrolmentServiceStub(channel)
            return stub.Enroll(request, timeout=CALL)

    assert federation.persist(enrol).certificate.chain


def renewed(federation: MortalFederation) -> None:
    key = certificates.new_key()
    subject = Subject(Role.OPERATOR, "olga", federation.identities.authority.domain)
    request = identity_pb2.RenewCertificateRequest(
        certificate_request=signing_request(subject, key)
    )
    signed = federation.persist(
        lambda: federation.stubs_for(Role.OPERATOR, "olga").identity.RenewCertificate(
            request, timeout=CALL
        )
    )
    assert signed.certificate.chain
    assert "IdentityService.RenewCertificate" in actions(federation)


def signing_request(subject: Subject, key: certificates.PrivateKey) -> bytes:
    return certificates.request_pem(certificates.request(subject, key))


def denied(federation: MortalFederation) -> None:
    """A refusal that the server died of writing down is written down the next time."""
    stop = operator_pb2.StopTrainingRequest()
    officer = federation.persist(
        unless(
            lambda: federation.stubs_for(*DORA).operator.StopTraining(stop, timeout=CALL),
            Reason.WRONG_ROLE,
        )
    )
    assert getattr(officer, "reason", None) is Reason.WRONG_ROLE
    federation.await_that(
        "the audit has the refusal",
        lambda: [e for e in audit_of(federation) if e.reason == Reason.WRONG_ROLE],
    )


def unnamed(federation: MortalFederation) -> None:
    cancelled(federation)
    request = audit_pb2.DestroyPseudonymRequest(name=f"client/{TARGET}")
    federation.persist(
        unless(
            lambda: federation.stubs_for(*DORA).audit.DestroyPseudonym(request, timeout=CALL),
            Reason.UNKNOWN_NAME,
        )
    )
    entries = federation.persist(lambda: audit_of(federation))
    assert TARGET not in {entry.subject_name for entry in entries}


def key_rotated(federation: MortalFederation) -> None:
    """The key that signs is the one on the disk, and every public one is kept."""
    before = keys_of(federation)
    federation.persist(
        lambda: federation.stubs_for(Role.OPERATOR, "olga").receipts.RotateReceiptKey(
            receipt_pb2.RotateReceiptKeyRequest(), timeout=CALL
        )
    )
    found = keys_of(federation)
    assert found[-len(before) :] == before
    assert len(found) > len(before)
    federation.await_that("the key is in its place", lambda: private_key(federation) == found[0])
    assert not (federation.state / NEXT_FILE).exists()


def key_left_over(federation: MortalFederation) -> None:
    """A key that was prepared and never made known is removed at the next start."""
    before = keys_of(federation)
    federation.kill("server")
    (federation.state / NEXT_FILE).write_bytes(SigningKey.generate().private_pem())
    federation.launch_server()
    federation.revive()
    assert keys_of(federation) == before == [private_key(federation)]
    assert not (federation.state / NEXT_FILE).exists()


def keys_of(federation: MortalFederation) -> list[str]:
    request = receipt_pb2.ListReceiptKeysRequest()
    found = federation.persist(
        lambda: federation.stubs_for(Role.OPERATOR, "olga").receipts.ListReceiptKeys(
            request, timeout=CALL
        )
    )
    return [key.id for key in found.keys]


def private_key(federation: MortalFederation) -> str:
    return SigningKey.from_private_pem((federation.state / KEY_FILE).read_bytes()).id


def actions(federation: MortalFederation) -> list[str]:
    return [entry.action for entry in federation.persist(lambda: audit_of(federation))]
