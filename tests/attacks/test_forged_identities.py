"""Callers that are not who they say, or may not what they ask."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from support.federation import CALL, OPERATOR, refusal
from support.handmade_authority import HandMadeAuthority
from support.hostile.sockets import context_of, secured, until_the_end
from support.hostile.stage import FORGOTTEN, MALLORY, Stage
from support.hostile.told import attack
from support.identities import Stubs
from support.raw_client import constant_update, parts_of

from fednot.channel import open_enrolment_channel
from fednot.errors import FednotError, Reason
from fednot.identity import certificates
from fednot.identity.folder import write_credentials
from fednot.identity.subject import Role, Subject
from fednot.v1 import (
    approval_pb2,
    audit_pb2,
    deletion_pb2,
    federation_pb2,
    identity_pb2,
    operator_pb2,
    operator_pb2_grpc,
    receipt_pb2,
)

STATUS = operator_pb2.GetStatusRequest()


def by_another_authority(stage: Stage, folder: Path) -> None:
    HandMadeAuthority("another").identity(folder, *OPERATOR, trust=stage.trust)


def by_one_of_the_same_name(stage: Stage, folder: Path) -> None:
    real = stage.federation.identities.by_hand().certificate
    name = real.subject.rfc4514_string().removeprefix("CN=")
    HandMadeAuthority(name).identity(folder, *OPERATOR, trust=stage.trust)


def signed_by_itself(stage: Stage, folder: Path) -> None:
    key = certificates.new_key()
    issuer = certificates.self_signed_authority("olga", key, 1)
    alone = certificates.leaf(Subject(*OPERATOR), key.public_key(), issuer, key, days=1)
    chain = certificates.pem_of([alone])
    write_credentials(folder, chain=chain, trust=stage.trust, key=certificates.key_pem(key))


def signed_by_a_client(stage: Stage, folder: Path) -> None:
    """A client's certificate is no authority, though the federation's has signed it."""
    client = stage.identity()
    issuer = certificates.read_certificate((client / "cert.pem").read_bytes())
    issuer_key = certificates.read_key((client / "key.pem").read_bytes())
    key = certificates.new_key()
    forged = certificates.leaf(Subject(*OPERATOR), key.public_key(), issuer, issuer_key, days=1)
    chain = certificates.pem_of([forged, issuer])
    write_credentials(folder, chain=chain, trust=stage.trust, key=certificates.key_pem(key))


FORGERIES = (by_another_authority, by_one_of_the_same_name, signed_by_itself, signed_by_a_client)


@attack(
    "a forged certificate",
    sent="an operator's certificate by another authority, by one of the same name, by itself, and "
    "by a client's key; to gRPC and to the data channel",
    outcome="no connection is served",
)
@pytest.mark.parametrize("forge", FORGERIES, ids=lambda forge: forge.__name__)
def test_a_forged_certificate(
    stage: Stage, tmp_path: Path, forge: Callable[[Stage, Path], None]
) -> None:
    folder = tmp_path / "forged"
    forge(stage, folder)
    stubs = Stubs.of(stage.federation.address, folder)
    with stage.unmoved(), stubs.channel, pytest.raises(grpc.RpcError) as refused:
        stubs.operator.GetStatus(STATUS, timeout=CALL)
    with stage.unmoved():
        assert hears_of_data_channel(stage, folder) == b""

    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE  # type: ignore[attr-defined]


def hears_of_data_channel(stage: Stage, folder: Path) -> bytes:
    """What the data channel says to a certificate; TLS 1.3 tells it after the handshake."""
    try:
        connected = secured(stage.data_port, context_of(folder, http2=False))
    except ssl.SSLError:
        return b""
    with connected:
        return until_the_end(connected)


@attack(
    "no certificate",
    sent="a call without a certificate, and a name in its metadata",
    outcome="no connection is served",
)
def test_no_certificate(stage: Stage) -> None:
    claimed = (("x-forwarded-client-cert", "URI=spiffe://fednot/operator/olga"),)
    with (
        stage.unmoved(),
        open_enrolment_channel(stage.federation.address, stage.trust) as channel,
    ):
        stub = operator_pb2_grpc.OperatorServiceStub(channel)
        with pytest.raises(grpc.RpcError) as refused:
            stub.GetStatus(STATUS, metadata=claimed, timeout=CALL)

    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE  # type: ignore[attr-defined]


def of_others(stubs: Stubs) -> dict[str, Callable[[], object]]:
    """Calls that no client may make."""
    deletion = deletion_pb2.LiftHoldRequest(request_id="forget")
    readmit = operator_pb2.ReadmitClientRequest(client=FORGOTTEN)
    decide = approval_pb2.ApproveRequest(id="1")
    destroy = audit_pb2.DestroyPseudonymRequest(name="client/c0")
    token = identity_pb2.CreateTokenRequest(client="c9")
    claim = (("x-forwarded-client-cert", "URI=spiffe://fednot/officer/dora"),)
    return {
        "LiftHold": lambda: stubs.deletions.LiftHold(deletion, timeout=CALL, metadata=claim),
        "StartTraining": lambda: stubs.operator.StartTraining(
            operator_pb2.StartTrainingRequest(rounds=1), timeout=CALL
        ),
        "ReadmitClient": lambda: stubs.operator.ReadmitClient(readmit, timeout=CALL),
        "DownloadVersion": lambda: list(
            stubs.operator.DownloadVersion(operator_pb2.DownloadVersionRequest(), timeout=CALL)
        ),
        "Approve": lambda: stubs.approvals.Approve(decide, timeout=CALL),
        "DestroyPseudonym": lambda: stubs.audit.DestroyPseudonym(destroy, timeout=CALL),
        "CreateToken": lambda: stubs.identity.CreateToken(token, timeout=CALL),
        "RotateReceiptKey": lambda: stubs.receipts.RotateReceiptKey(
            receipt_pb2.RotateReceiptKeyRequest(), timeout=CALL
        ),
    }


@attack(
    "a client that acts as officer or operator",
    sent="LiftHold, ReadmitClient, StartTraining, DownloadVersion, Approve, DestroyPseudonym, "
    "CreateToken and RotateReceiptKey with a client's certificate, and metadata that claims more",
    outcome="WRONG_ROLE",
)
def test_a_client_beyond_its_role(stage: Stage) -> None:
    calls = of_others(stage.federation.stubs_for(Role.CLIENT, MALLORY))
    with stage.unmoved():
        refused = {name: refusal(call).reason for name, call in calls.items()}

    assert refused == dict.fromkeys(calls, Reason.WRONG_ROLE)


@attack(
    "a client that takes another's name",
    sent="Join, and the upload, failure report and Leave of another's session, with its own "
    "certificate",
    outcome="NOT_YOUR_NAME",
)
def test_a_client_with_anothers_name(stage: Stage) -> None:
    thief = stage.federation.stubs_for(Role.CLIENT, "thief").clients
    with stage.open_round() as opened, stage.unmoved():
        victim, work = opened.mallory, opened.work
        parts = parts_of(victim.header(work), constant_update(0.001))
        join = federation_pb2.JoinRequest(client=MALLORY)
        failure = federation_pb2.ReportFailureRequest(session=victim.session, work_id=work.work_id)
        leave = federation_pb2.LeaveRequest(session=victim.session)
        calls: list[Callable[[], object]] = [
            lambda: thief.Join(join, timeout=CALL),
            lambda: thief.UploadUpdate(iter(parts), timeout=CALL),
            lambda: thief.ReportFailure(failure, timeout=CALL),
            lambda: thief.Leave(leave, timeout=CALL),
        ]
        refused: list[FednotError] = [refusal(call) for call in calls]
        assert MALLORY in stage.federation.status().round.missing

    assert {each.reason for each in refused} == {Reason.NOT_YOUR_NAME}


@attack(
    "a certificate asked for in another's name",
    sent="RenewCertificate by a client with a request for an officer, and for another client",
    outcome="INVALID_CERTIFICATE_REQUEST",
)
@pytest.mark.parametrize("wanted", [(Role.OFFICER, "dora"), (Role.CLIENT, "c0")])
def test_a_certificate_for_another(stage: Stage, wanted: tuple[Role, str]) -> None:
    asked = certificates.request(Subject(*wanted), certificates.new_key())
    request = identity_pb2.RenewCertificateRequest(
        certificate_request=certificates.request_pem(asked)
    )
    stub = stage.federation.stubs_for(Role.CLIENT, MALLORY).identity
    with stage.unmoved():
        refused = refusal(lambda: stub.RenewCertificate(request, timeout=CALL))

    assert refused.reason is Reason.INVALID_CERTIFICATE_REQUEST
