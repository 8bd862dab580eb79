"""Who may call what: every method of every service, by every role, over real sockets."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from grpc import aio
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from support.served import CALL, Served, served

import fednot.v1
from fednot.errors import FednotError, Reason
from fednot.identity.subject import Role
from fednot.rpc_errors import from_rpc_error
from server.records import Caller
from server.services.permissions import (
    ENROLMENT,
    PERMISSIONS,
    check,
    check_enrolment,
    method_name,
    permitted,
)

CLIENT, OFFICER, OPERATOR, AUDITOR = Role.CLIENT, Role.OFFICER, Role.OPERATOR, Role.AUDITOR
EVERYBODY = set(Role)
NEWER = {"Health.List"}
"""What the oldest grpcio-health-checking does not have."""
MAY = {
    "FederationService.Join": {CLIENT},
    "FederationService.PollWork": {CLIENT},
    "FederationService.DownloadModel": {CLIENT},
    "FederationService.UploadUpdate": {CLIENT},
    "FederationService.ReportEvaluation": {CLIENT},
    "FederationService.ReportFailure": {CLIENT},
    "FederationService.ReportDestruction": {CLIENT},
    "FederationService.ReportForgetting": {CLIENT},
    "FederationService.ReportProfile": {CLIENT},
    "FederationService.Heartbeat": {CLIENT},
    "FederationService.Leave": {CLIENT},
    "SecureAggregationService.AdvertiseKeys": {CLIENT},
    "SecureAggregationService.ShareKeys": {CLIENT},
    "SecureAggregationService.GetSurvivors": {CLIENT},
    "SecureAggregationService.ConfirmSurvivors": {CLIENT},
    "SecureAggregationService.Unmask": {CLIENT},
    "DeletionService.Unlearn": {CLIENT, OFFICER},
    "DeletionService.CancelDeletion": {CLIENT, OFFICER},
    "DeletionService.LiftHold": {OFFICER},
    "DeletionService.GetDeletion": {CLIENT, OFFICER, OPERATOR, AUDITOR},
    "DeletionService.ListDeletions": {CLIENT, OFFICER, OPERATOR, AUDITOR},
    "DeletionService.WatchDeletion": {CLIENT, OFFICER, OPERATOR, AUDITOR},
    "OperatorService.StartTraining": {OPERATOR},
    "OperatorService.StopTraining": {OPERATOR},
    "OperatorService.ReadmitClient": {OPERATOR},
    "OperatorService.DownloadVersion": {OPERATOR},
    "OperatorService.GetStatus": {OFFICER, OPERATOR, AUDITOR},
    "OperatorService.ListClients": {OFFICER, OPERATOR, AUDITOR},
    "OperatorService.ListRounds": {OFFICER, OPERATOR, AUDITOR},
    "OperatorService.ListVersions": {OFFICER, OPERATOR, AUDITOR},
    "ApprovalService.ListApprovals": {OFFICER, OPERATOR, AUDITOR},
    "ApprovalService.Approve": {OFFICER},
    "ApprovalService.Refuse": {OFFICER},
    "ReceiptService.GetReceipt": {CLIENT, OFFICER, OPERATOR, AUDITOR},
    "ReceiptService.ListReceiptKeys": {CLIENT, OFFICER, OPERATOR, AUDITOR},
    "ReceiptService.RotateReceiptKey": {OPERATOR},
    "AuditService.ListAuditEntries": {OFFICER, AUDITOR},
    "AuditService.DestroyPseudonym": {OFFICER},
    "IdentityService.GetIdentity": {CLIENT, OFFICER, OPERATOR, AUDITOR},
    "IdentityService.CreateToken": {OPERATOR},
    "IdentityService.RenewCertificate": {CLIENT, OFFICER, OPERATOR, AUDITOR},
    "IdentityService.CreateConsoleLink": {CLIENT, OFFICER, OPERATOR, AUDITOR},
    "Health.Check": EVERYBODY,
    "Health.List": EVERYBODY,
    "Health.Watch": EVERYBODY,
    "ServerReflection.ServerReflectionInfo": EVERYBODY,
}
"""What was decided, apart from the table that the server goes by."""
ENROLL = "/fednot.v1.EnrolmentService/Enroll"


class Method(NamedTuple):
    path: str
    descriptor: MethodDescriptor

    @property
    def name(self) -> str:
        return method_name(self.path)

    async def call(self, channel: aio.Channel) -> FednotError | None:
        """Calls it with an empty message; the refusal, or None if it answers or just ends."""
        asks, answers = self.descriptor.client_streaming, self.descriptor.server_streaming
        ways = {
            (False, False): channel.unary_unary,
            (False, True): channel.unary_stream,
            (True, False): channel.stream_unary,
            (True, True): channel.stream_stream,
        }
        multicallable: Any = ways[asks, answers](
            self.path,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=GetMessageClass(self.descriptor.output_type).FromString,
        )
        request = GetMessageClass(self.descriptor.input_type)()
        call = multicallable(iter([request]) if asks else request, timeout=CALL)
        try:
            await (call.read() if answers else call)
        except aio.AioRpcError as error:
            if self.name in NEWER and error.code() is grpc.StatusCode.UNIMPLEMENTED:
                return None
            return self._refusal(error)
        finally:
            call.cancel()
        return None

    def _refusal(self, error: aio.AioRpcError) -> FednotError:
        found = from_rpc_error(error)
        assert found is not None, f"{self.path}: {error}"
        assert found.reason is not Reason.INTERNAL, self.path
        return found


def own_methods() -> Iterator[Method]:
    """Every method of every service of the package fednot.v1."""
    for module in pkgutil.iter_modules(fednot.v1.__path__, "fednot.v1."):
        if module.name.endswith("_pb2"):
            yield from methods_of(importlib.import_module(module.name))


def methods_of(module: Any) -> Iterator[Method]:
    for service in module.DESCRIPTOR.services_by_name.values():
        for method in service.methods:
            yield Method(f"/{service.full_name}/{method.name}", method)


OWN = tuple(own_methods())
ALL = (*OWN, *methods_of(health_pb2), *methods_of(reflection_pb2))
MAIN = tuple(method for method in ALL if method.path != ENROLL)


def without_a_row(methods: tuple[Method, ...]) -> set[str]:
    return {method.path for method in methods} - set(PERMISSIONS) - ENROLMENT


def test_every_method_of_every_service_has_a_row() -> None:
    assert len(OWN) == len(MAY) - 4 + 1, "four methods are gRPC's own; Enroll is not in MAY"
    assert without_a_row(ALL) == set()
    assert {method.name for method in MAIN} | NEWER == set(MAY)


def test_a_method_without_a_row_is_found_and_closed_to_everybody() -> None:
    added = Method("/fednot.v1.OperatorService/Format", OWN[0].descriptor)
    assert without_a_row((*ALL, added)) == {added.path}
    for role in (None, *Role):
        with pytest.raises(FednotError, match=r"nobody may call OperatorService\.Format"):
            check(added.path, Caller(role, "x" if role else ""))


@pytest.fixture
async def server(tmp_path: Path) -> Any:
    async with served(tmp_path) as found:
        yield found


@pytest.mark.parametrize("role", [CLIENT, OFFICER, OPERATOR, AUDITOR])
async def test_a_role_may_call_what_was_decided_and_nothing_else(
    server: Served, role: Role
) -> None:
    channel = server.dial(role, "x1")
    refused = {}
    for method in MAIN:
        error = await method.call(channel)
        if error is not None and error.reason is Reason.WRONG_ROLE:
            refused[method.name] = error
    assert set(refused) == {name for name, roles in MAY.items() if role not in roles}
    for name, error in refused.items():
        told = f"{role}/x1 may not call {name}; these roles may: "
        assert error.message == told + ", ".join(sorted(MAY[name]))
    assert {(row[0], row[1]) for row in await server.audited() if row[3] == "WRONG_ROLE"} >= {
        (role, name) for name in list(refused)[:5]
    }


async def test_over_plaintext_everything_may_be_called_that_has_a_row(tmp_path: Path) -> None:
    async with served(tmp_path, insecure=True) as server:
        channel = server.dial(None)
        for method in MAIN:
            error = await method.call(channel)
            assert error is None or error.reason is not Reason.WRONG_ROLE, method.name


def test_a_server_may_call_health_and_reflection_only() -> None:
    """TLS refuses a server's certificate in a client's place already; the table does too."""
    for method in MAIN:
        if Role.SERVER in MAY[method.name]:
            check(method.path, Caller(Role.SERVER, "server"))
        else:
            with pytest.raises(FednotError, match="server/server may not call"):
                check(method.path, Caller(Role.SERVER, "server"))


async def test_the_enrolment_listener_serves_enrolment_alone(server: Served) -> None:
    """Each is called over a connection of its own, which may have one call at a time."""
    for method in ALL:
        async with server.dial_enrolment() as channel:
            if method.path == ENROLL:
                error = await method.call(channel)
                assert error is not None
                assert error.reason is Reason.INVALID_TOKEN
                continue
            with pytest.raises(aio.AioRpcError) as caught:
                await channel.unary_unary(method.path)(b"", timeout=CALL)
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
            with pytest.raises(FednotError, match="for enrolment only"):
                check_enrolment(method.path, Caller())


async def test_the_main_listener_serves_no_enrolment(server: Served) -> None:
    with pytest.raises(aio.AioRpcError) as caught:
        await server.dial(OPERATOR, "olga").unary_unary(ENROLL)(b"", timeout=CALL)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    with pytest.raises(FednotError, match="nobody may call"):
        check(ENROLL, Caller())


def test_a_caller_is_told_what_it_may_call() -> None:
    told = permitted(Caller(AUDITOR, "ada"))
    assert {method_name(path) for path in told} == {n for n, r in MAY.items() if AUDITOR in r}
    assert set(permitted(Caller())) == set(PERMISSIONS)
