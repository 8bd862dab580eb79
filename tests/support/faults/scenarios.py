"""What a federation does while its server dies: one small story for each place of the matrix."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import grpc
from support.faults import places
from support.faults.deletions import (
    FEW_ROUNDS,
    REQUEST,
    TARGET,
    await_job,
    deletion_in_mid_round,
)
from support.faults.mortal import MortalFederation
from support.faults.soundness import assert_sound
from support.faults.witness import audit_of
from support.federation import CALL
from support.ports import free_port
from support.raw_client import RawClient

from fednot.channel import open_enrolment_channel
from fednot.errors import Reason
from fednot.identity import certificates
from fednot.identity.subject import Role, Subject
from fednot.identity.token import Token
from fednot.rpc_errors import from_rpc_error
from fednot.v1 import (
    approval_pb2,
    audit_pb2,
    deletion_pb2,
    identity_pb2,
    identity_pb2_grpc,
    operator_pb2,
)
from server.state.commits import Commit

Call = Callable[[], object]
EMIL = (Role.OFFICER, "emil")
DORA = (Role.OFFICER, "dora")


@dataclass(frozen=True)
class Scenario:
    """What is done, and the server's flags for it."""

    play: Callable[[MortalFederation], None]
    flags: tuple[str, ...] = ()


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


def actions(federation: MortalFederation) -> list[str]:
    return [entry.action for entry in federation.persist(lambda: audit_of(federation))]


MAIN = Scenario(deletion_in_mid_round)
TWICE = ("--require-approval",)
OVERDUE = ("--job-deadline", "0.5")

_OF_COMMITS: Mapping[Commit, Scenario] = {
    Commit.SCHEMA: MAIN,
    Commit.INITIAL_VERSION: MAIN,
    Commit.CLIENT_JOINED: MAIN,
    Commit.CLIENT_LEFT: Scenario(departure),
    Commit.CLIENTS_SEEN: MAIN,
    Commit.TRAINING_STARTED: MAIN,
    Commit.TRAINING_STOPPED: Scenario(stopped_run),
    Commit.RUN_FAILED: Scenario(failing_run, ("--round-retries", "0", "--min-clients", "1")),
    Commit.ROUND_BEGUN: MAIN,
    Commit.ROUND_COMPLETED: MAIN,
    Commit.ROUND_FAILED: Scenario(failing_run, ("--round-retries", "0", "--min-clients", "1")),
    Commit.ROUND_CLOSED: MAIN,
    Commit.ROUNDS_TAKEN_OVER: MAIN,
    Commit.DELETION_ACCEPTED: MAIN,
    Commit.DELETION_CANCELLED: Scenario(cancelled, TWICE),
    Commit.APPROVED: Scenario(approved, TWICE),
    Commit.REFUSED: Scenario(refused, TWICE),
    Commit.APPROVALS_EXPIRED: Scenario(expired, (*TWICE, "--approval-expiry", "1")),
    Commit.CLIENT_READMITTED: Scenario(readmitted, OVERDUE),
    Commit.BASE_PINNED: MAIN,
    Commit.ATTEMPT_BEGUN: MAIN,
    Commit.ATTEMPT_ENDED: MAIN,
    Commit.VERSIONS_DESTROYED: MAIN,
    Commit.JOB_COMPLETED: MAIN,
    Commit.JOB_FAILED: Scenario(failed_job, OVERDUE),
    Commit.VERSION_FETCHED: Scenario(fetched),
    Commit.TOKEN_MADE: Scenario(enrolled, ("--enrolment-address", "127.0.0.1:0")),
    Commit.TOKEN_USED: Scenario(enrolled, ("--enrolment-address", "127.0.0.1:0")),
    Commit.CERTIFICATE_RENEWED: Scenario(renewed),
    Commit.REFUSAL_NOTED: Scenario(denied),
    Commit.PSEUDONYM_DESTROYED: Scenario(unnamed, TWICE),
}
_OF_FILES: Mapping[str, Scenario] = {
    "sync.version": MAIN,
    "rename.version": MAIN,
    "sync.versions": MAIN,
    "remove.version": MAIN,
    "sync.swept-versions": MAIN,
}
SCENARIOS: Mapping[str, Scenario] = {
    **{f"commit.{commit}": scenario for commit, scenario in _OF_COMMITS.items()},
    **_OF_FILES,
}
"""The scenario of each name; tests/unit/test_durable_calls.py compares them with the sources."""

LATER: Mapping[str, tuple[int, ...]] = {
    "commit.round-begun": (3, 4),
    "commit.round-completed": (2, 3, 4),
    "commit.client-joined": (3,),
    "commit.approvals-expired": (3,),
    "sync.version": (2, 4, 5),
    "rename.version": (2, 4, 5),
    "sync.versions": (2, 4, 5),
    "remove.version": (2, 3),
}
"""Where a scenario passes a place again with something else at stake. The versions of MAIN are the
initial one, two of training, the negated one, one or two of recovery and one of training.
"""


def cases() -> list[str]:
    """Every failpoint of the matrix, as FEDNOT_FAILPOINT takes it."""
    found = []
    for name in SCENARIOS:
        for nth in ("", *(f" @{number}" for number in LATER.get(name, ()))):
            found += [f"{side} {name}{nth}" for side in places.SIDES]
    return found


def play(place: str, folder: Path) -> None:
    """Plays the scenario of a place, in which the server must die there once."""
    scenario = SCENARIOS[place.split()[1]]
    flags = tuple(f"127.0.0.1:{free_port()}" if f == "127.0.0.1:0" else f for f in scenario.flags)
    with MortalFederation(folder, place, flags) as federation:
        federation.begin()
        scenario.play(federation)
        assert federation.deaths == [-9], "the server did not pass that place"
        federation.sightings.assert_kept(federation)
        federation.await_that(
            "every file is that of a version that is kept", lambda: is_swept(federation)
        )
        assert federation.kill("server", signal.SIGTERM) == 0
        assert_sound(federation.state)


def is_swept(federation: MortalFederation) -> bool:
    found = federation.versions().values()
    kept = {f"{each.sha256}.safetensors" for each in found if not each.HasField("destroyed_at")}
    return {path.name for path in (federation.state / "versions").iterdir()} == kept
