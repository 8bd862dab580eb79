"""Every call of every service, by every role and by nobody, against one server process."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from support.federation import CALL, LocalFederation
from support.ports import free_port

from fednot.channel import open_channel, open_enrolment_channel
from fednot.errors import CATALOGUE, Code, Reason
from fednot.identity.folder import read_credentials
from fednot.identity.subject import Role
from fednot.rpc_errors import from_rpc_error
from fednot.v1 import (
    approval_pb2,
    audit_pb2,
    deletion_pb2,
    federation_pb2,
    identity_pb2,
    operator_pb2,
    receipt_pb2,
    secure_aggregation_pb2,
)

CLIENT, OFFICER, OPERATOR, AUDITOR = Role.CLIENT, Role.OFFICER, Role.OPERATOR, Role.AUDITOR
HOLDERS = {CLIENT, OFFICER, OPERATOR, AUDITOR}
CALLERS = (*Role, None)
ENROL = "fednot.v1.EnrolmentService/Enroll"

MAY: dict[str, set[Role]] = {
    "fednot.v1.FederationService/Join": {CLIENT},
    "fednot.v1.FederationService/PollWork": {CLIENT},
    "fednot.v1.FederationService/DownloadModel": {CLIENT},
    "fednot.v1.FederationService/UploadUpdate": {CLIENT},
    "fednot.v1.FederationService/ReportEvaluation": {CLIENT},
    "fednot.v1.FederationService/ReportFailure": {CLIENT},
    "fednot.v1.FederationService/ReportDestruction": {CLIENT},
    "fednot.v1.FederationService/ReportForgetting": {CLIENT},
    "fednot.v1.FederationService/ReportProfile": {CLIENT},
    "fednot.v1.FederationService/Heartbeat": {CLIENT},
    "fednot.v1.FederationService/Leave": {CLIENT},
    "fednot.v1.SecureAggregationService/AdvertiseKeys": {CLIENT},
    "fednot.v1.SecureAggregationService/ShareKeys": {CLIENT},
    "fednot.v1.SecureAggregationService/GetSurvivors": {CLIENT},
    "fednot.v1.SecureAggregationService/ConfirmSurvivors": {CLIENT},
    "fednot.v1.SecureAggregationService/Unmask": {CLIENT},
    "fednot.v1.DeletionService/Unlearn": {CLIENT, OFFICER},
    "fednot.v1.DeletionService/CancelDeletion": {CLIENT, OFFICER},
    "fednot.v1.DeletionService/LiftHold": {OFFICER},
    "fednot.v1.DeletionService/GetDeletion": HOLDERS,
    "fednot.v1.DeletionService/ListDeletions": HOLDERS,
    "fednot.v1.DeletionService/WatchDeletion": HOLDERS,
    "fednot.v1.OperatorService/StartTraining": {OPERATOR},
    "fednot.v1.OperatorService/StopTraining": {OPERATOR},
    "fednot.v1.OperatorService/ReadmitClient": {OPERATOR},
    "fednot.v1.OperatorService/DownloadVersion": {OPERATOR},
    "fednot.v1.OperatorService/GetStatus": {OPERATOR, OFFICER, AUDITOR},
    "fednot.v1.OperatorService/ListClients": {OPERATOR, OFFICER, AUDITOR},
    "fednot.v1.OperatorService/ListRounds": {OPERATOR, OFFICER, AUDITOR},
    "fednot.v1.OperatorService/ListVersions": {OPERATOR, OFFICER, AUDITOR},
    "fednot.v1.ApprovalService/ListApprovals": {OFFICER, OPERATOR, AUDITOR},
    "fednot.v1.ApprovalService/Approve": {OFFICER},
    "fednot.v1.ApprovalService/Refuse": {OFFICER},
    "fednot.v1.ReceiptService/GetReceipt": HOLDERS,
    "fednot.v1.ReceiptService/ListReceiptKeys": HOLDERS,
    "fednot.v1.ReceiptService/RotateReceiptKey": {OPERATOR},
    "fednot.v1.AuditService/ListAuditEntries": {OFFICER, AUDITOR},
    "fednot.v1.AuditService/DestroyPseudonym": {OFFICER},
    "fednot.v1.IdentityService/GetIdentity": HOLDERS,
    "fednot.v1.IdentityService/CreateToken": {OPERATOR},
    "fednot.v1.IdentityService/RenewCertificate": HOLDERS,
    "fednot.v1.IdentityService/CreateConsoleLink": HOLDERS,
    ENROL: set(),
    "grpc.health.v1.Health/Check": HOLDERS,
    "grpc.health.v1.Health/Watch": HOLDERS,
    "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": HOLDERS,
}
"""Who may make each call on the server's own address, over mutual TLS."""

SERVED = "its service answered"
NOT_SERVED = grpc.StatusCode.UNIMPLEMENTED.name
NOT_CONNECTED = grpc.StatusCode.UNAVAILABLE.name
FAULTS = {NOT_SERVED, NOT_CONNECTED, Reason.INTERNAL, "UNKNOWN", "DEADLINE_EXCEEDED"}
WHO = {reason for reason in Reason if CATALOGUE[reason].code is Code.UNAUTHENTICATED}
WHO |= {Reason.WRONG_ROLE}
"""Refusals of the caller, whatever it asks for."""


def methods() -> dict[str, MethodDescriptor]:
    """Every method of fednot's services by its name, and of the public ones those in the table."""
    files = (
        *(approval_pb2, audit_pb2, deletion_pb2, federation_pb2),
        *(identity_pb2, operator_pb2, receipt_pb2, secure_aggregation_pb2),
    )
    found = {
        f"{service.full_name}/{method.name}": method
        for file in (*files, health_pb2, reflection_pb2)
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    return {name: found[name] for name in found if name.startswith("fednot.") or name in MAY}


METHODS = methods()


@dataclass(frozen=True)
class Doors:
    """A server with its address for holders of certificates and the one for enrolment."""

    federation: LocalFederation
    channels: dict[Role | None, grpc.Channel]
    enrolment: grpc.Channel


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    enrolment = f"127.0.0.1:{free_port()}"
    flags = ("--task-arg", "trace=no", "--enrolment-address", enrolment)
    folder = tmp_path_factory.mktemp("roles")
    with LocalFederation(folder, server_flags=flags) as federation:
        federation.start_server()
        trust = federation.identities.authority.trust_pem
        doors = Doors(
            federation,
            {role: _channel(federation, role, trust) for role in CALLERS},
            open_enrolment_channel(enrolment, trust),
        )
        yield doors
        for channel in (*doors.channels.values(), doors.enrolment):
            channel.close()


def _channel(federation: LocalFederation, role: Role | None, trust: bytes) -> grpc.Channel:
    """A channel of a role; without one it shows no certificate, and trusts the server."""
    if role is None:
        return open_enrolment_channel(federation.address, trust)
    identities = federation.identities
    folder = identities.server if role is Role.SERVER else identities.of(role, "somebody")
    return open_channel(federation.address, read_credentials(folder))


def answer(channel: grpc.Channel, name: str) -> str:
    """What came of a call with an empty message: SERVED, a reason, or a code of gRPC's own."""
    method = METHODS[name]
    request = GetMessageClass(method.input_type)
    kinds = ("unary", "stream")
    multicallable = getattr(
        channel, f"{kinds[method.client_streaming]}_{kinds[method.server_streaming]}"
    )
    call = multicallable(
        f"/{name}",
        request_serializer=request.SerializeToString,
        response_deserializer=GetMessageClass(method.output_type).FromString,
    )
    given: Any = iter([request()]) if method.client_streaming else request()
    try:
        responses = call(given, timeout=CALL)
        if method.server_streaming:
            next(iter(responses), None)
            responses.cancel()
    except grpc.RpcError as error:
        refused = from_rpc_error(error)
        code: str = error.code().name  # type: ignore[attr-defined]
        return refused.reason if refused else code
    return SERVED


def answer_one_by_one(channel: grpc.Channel, name: str) -> str:
    """As `answer`, where a connection has one stream: while the one before still ends, HTTP/2
    refuses the next, which gRPC tells as UNAVAILABLE."""
    found = (answer(channel, name) for _ in range(1000))
    return next((each for each in found if each != NOT_CONNECTED), NOT_CONNECTED)


def test_the_table_has_every_call_of_every_service() -> None:
    """A new call is served to nobody before it is decided who may make it."""
    assert set(MAY) == set(METHODS)


@pytest.mark.parametrize("role", sorted(HOLDERS))
def test_a_role_may_do_what_the_table_says_and_nothing_else(doors: Doors, role: Role) -> None:
    answers = {name: answer(doors.channels[role], name) for name in METHODS if name != ENROL}

    for name, found in answers.items():
        if role in MAY[name]:
            assert found not in WHO | FAULTS, f"{role} may {name}"
        else:
            assert found == Reason.WRONG_ROLE, f"{role} may not {name}"
    assert answer(doors.channels[role], ENROL) in {Reason.WRONG_ROLE, NOT_SERVED}


def test_nobody_may_do_nothing(doors: Doors) -> None:
    """They do not get through the handshake, or else each call is refused."""
    answers = {name: answer(doors.channels[None], name) for name in METHODS}

    assert set(answers.values()) <= {NOT_CONNECTED, Reason.WRONG_ROLE, Reason.NO_CERTIFICATE}


def test_a_server_may_ask_for_its_health_and_nothing_else(doors: Doors) -> None:
    """deploy/healthcheck.py asks with the server's own certificate."""
    answers = {name: answer(doors.channels[Role.SERVER], name) for name in METHODS}

    served = {name for name, found in answers.items() if found == SERVED}
    assert "grpc.health.v1.Health/Check" in served
    refused = {found for name, found in answers.items() if name.startswith("fednot.")}
    assert refused <= {Reason.WRONG_ROLE, NOT_SERVED}


def test_the_enrolment_address_serves_enrolment_alone(doors: Doors) -> None:
    answers = {name: answer_one_by_one(doors.enrolment, name) for name in METHODS}

    assert answers.pop(ENROL) == Reason.INVALID_TOKEN
    assert set(answers.values()) <= {NOT_SERVED, Reason.WRONG_ROLE, Reason.NO_CERTIFICATE}


def test_a_refusal_names_the_role_and_those_that_may(doors: Doors) -> None:
    stubs = doors.federation.stubs_for(Role.AUDITOR, "ann")

    with pytest.raises(grpc.RpcError) as caught:
        stubs.operator.StopTraining(operator_pb2.StopTrainingRequest(), timeout=CALL)

    refused = from_rpc_error(caught.value)
    assert refused is not None
    assert refused.reason is Reason.WRONG_ROLE
    assert "auditor" in refused.message
    assert "operator" in refused.message


@pytest.mark.parametrize("role", sorted(HOLDERS))
def test_get_identity_says_who_the_caller_is_and_what_it_may(doors: Doors, role: Role) -> None:
    stubs = doors.federation.stubs_for(role, "somebody")

    found = stubs.identity.GetIdentity(identity_pb2.GetIdentityRequest(), timeout=CALL)

    assert found.caller.role == identity_pb2.Role.Value(f"ROLE_{role.name}")
    assert found.caller.name == "somebody"
    assert found.domain == "fednot"
    assert found.can_renew
    permitted = {name.removeprefix("/") for name in found.permitted}
    assert {name for name in permitted if name.startswith("fednot.")} == {
        name for name, roles in MAY.items() if role in roles and name.startswith("fednot.")
    }
    certificate = read_credentials(doors.federation.identity_of(role, "somebody")).certificate
    assert found.expires_at.ToSeconds() == certificate.not_valid_after_utc.timestamp()
