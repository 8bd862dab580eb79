"""The listeners: gRPC for everybody who has a certificate, gRPC for machines that have none yet,
the data channel, and the console.

The first two are two because gRPC demands a certificate of every connection to a port, or asks for
none. Each has a guard or a door of its own; nothing is reached past one.
"""

from __future__ import annotations

import asyncio
from typing import Final

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FileDescriptor, MethodDescriptor
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from fednot.channel import SERVER_OPTIONS
from fednot.v1 import (
    approval_pb2,
    approval_pb2_grpc,
    audit_pb2,
    audit_pb2_grpc,
    deletion_pb2,
    deletion_pb2_grpc,
    federation_pb2,
    federation_pb2_grpc,
    identity_pb2,
    identity_pb2_grpc,
    operator_pb2,
    operator_pb2_grpc,
    receipt_pb2,
    receipt_pb2_grpc,
    secure_aggregation_pb2,
    secure_aggregation_pb2_grpc,
)
from server.audit import RefusalLog
from server.cohorts.remote import RemoteCohort
from server.console.application import Console
from server.console.calls import Calls
from server.console.listener import ConsoleListener
from server.console.sessions import SessionDesk
from server.coordinator import Coordinator
from server.data_channel.listener import DataChannel
from server.federation import Federation
from server.identity import ServerIdentity
from server.limits.callers import CallerLimits
from server.limits.file_handles import connections_within
from server.limits.messages import MessageSizes
from server.services.approval import ApprovalServicer
from server.services.audit import AuditServicer
from server.services.call_counting import CallCounter
from server.services.deletion import DeletionServicer
from server.services.enrolment import EnrolmentServicer
from server.services.federation import FederationServicer
from server.services.guard import Guard
from server.services.identity import IdentityServicer
from server.services.offer import SessionOffer
from server.services.operator import OperatorServicer
from server.services.permissions import check_enrolment
from server.services.receipts import ReceiptServicer
from server.services.secure_aggregation import SecureAggregationServicer
from server.services.signing import Signing
from server.settings import ServerSettings
from server.state.database import StateError
from server.uploads.desk import UploadDesk

_FILES: Final[tuple[tuple[FileDescriptor, str], ...]] = (
    (federation_pb2.DESCRIPTOR, "FederationService"),
    (deletion_pb2.DESCRIPTOR, "DeletionService"),
    (operator_pb2.DESCRIPTOR, "OperatorService"),
    (approval_pb2.DESCRIPTOR, "ApprovalService"),
    (audit_pb2.DESCRIPTOR, "AuditService"),
    (receipt_pb2.DESCRIPTOR, "ReceiptService"),
    (identity_pb2.DESCRIPTOR, "IdentityService"),
    (secure_aggregation_pb2.DESCRIPTOR, "SecureAggregationService"),
)
SERVICE_NAMES: Final = tuple(
    descriptor.services_by_name[name].full_name for descriptor, name in _FILES
)
"""What the main listener serves, beside health and reflection."""
ENROLMENT_NAME: Final = identity_pb2.DESCRIPTOR.services_by_name["EnrolmentService"].full_name
METHODS: Final[tuple[MethodDescriptor, ...]] = tuple(
    method
    for name in (*SERVICE_NAMES, ENROLMENT_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME)
    for method in descriptor_pool.Default().FindServiceByName(name).methods
)
"""Every method of every listener."""

MESSAGE_LENGTH: Final = "grpc.max_receive_message_length"
MOST_CONNECTIONS: Final = "grpc.max_allowed_incoming_connections"
"""gRPC closes what comes beyond it at once; an unfinished handshake gives its place back."""
IDLE_SECONDS: Final = 300
"""A connection without a call is closed after so long; gRPC dials again at the next call."""


def without(options: list[tuple[str, int]], name: str) -> list[tuple[str, int]]:
    """Channel options but one."""
    return [option for option in options if option[0] != name]


ENROLMENT_CONNECTIONS: Final = 32
"""Until a caller has acknowledged the settings of HTTP/2, gRPC takes 16 MiB of metadata from each
call, which take over 100 MiB of memory; so that nobody without a certificate may have many calls.
"""
ENROLMENT_OPTIONS: Final = [
    *without(SERVER_OPTIONS, MESSAGE_LENGTH),
    (MESSAGE_LENGTH, 64 << 10),
    ("grpc.max_connection_idle_ms", 10_000),
    ("grpc.max_connection_age_ms", 30_000),
    ("grpc.max_connection_age_grace_ms", 10_000),
    ("grpc.max_concurrent_streams", 1),
]
"""Anybody may dial the enrolment listener: what it takes is bounded in size, number and time. Age
ends calls that never send their message, too; those are no enrolments yet and count as none."""


class Listeners:
    """Serves from `start` to `stop`. `identity` is None over plaintext.

    `ports` are those that were bound: the main one, then that of enrolment if there is one.
    """

    def __init__(
        self,
        settings: ServerSettings,
        federation: Federation,
        coordinator: Coordinator,
        cohort: RemoteCohort,
        identity: ServerIdentity | None,
    ) -> None:
        self._settings = settings
        self._federation = federation
        self._coordinator = coordinator
        self._cohort = cohort
        self._identity = identity
        self._signing = Signing(identity)
        self._uploads = UploadDesk(federation, cohort, settings.upload_limits())
        self._health = health.aio.HealthServicer()
        self._counter = CallCounter(federation.metrics.calls, METHODS)
        self._servers: list[aio.Server] = []
        self.ports: Final[list[int]] = []
        self.refusals: Final = RefusalLog(federation.database)
        self._limits = CallerLimits(settings.call_limits())
        self._connections = connections_within(
            settings.max_connections, 3 if settings.enrolment_address else 2
        )
        self.data: Final = DataChannel(
            federation,
            cohort,
            self._uploads,
            identity,
            self.refusals,
            self._limits,
            self._connections,
        )
        self.console: Final = ConsoleListener(identity)
        self._desk = SessionDesk()

    async def start(self) -> None:
        """Serves on every address of the settings. Raises StateError if one is taken."""
        settings, identity = self._settings, self._identity
        credentials = identity.credentials() if identity else None
        if settings.data_address:  # before the first join, whose answer tells its port
            await self.data.start(settings.data_address)
        await self._serve(self._main_server(), settings.address, credentials)
        if identity is not None and settings.enrolment_address:
            server = self._enrolment_server()
            await self._serve(server, settings.enrolment_address, identity.enrolment_credentials())
        if settings.console_address:
            await self._start_console(settings.console_address)
        for name in ("", *SERVICE_NAMES):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    async def _start_console(self, address: str) -> None:
        calls = Calls(
            self._federation,
            self._coordinator,
            self._cohort,
            self._identity,
            self.refusals,
            self._limits,
        )
        console = Console(calls, self._desk, insecure=self._identity is None)
        await self.console.start(address, console.application, self._settings.stop_grace)
        self._desk.port = self.console.port

    async def say_that_it_stops(self) -> None:
        """Tells those who ask for the health."""
        await self._health.enter_graceful_shutdown()

    async def stop(self) -> None:
        """Gives calls the grace of the settings to end; then every refusal is in the audit."""
        grace = self._settings.stop_grace
        await asyncio.gather(
            self.data.stop(grace),
            self.console.stop(grace),
            *(server.stop(grace) for server in self._servers),
        )
        self._signing.close()
        await self.refusals.flush()

    async def _serve(
        self, server: aio.Server, address: str, credentials: grpc.ServerCredentials | None
    ) -> None:
        self._servers.append(server)
        try:
            if credentials is None:
                port = server.add_insecure_port(address)
            else:
                port = server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise StateError(
                f"cannot serve on {address}; is the port taken? `ss -ltnp` tells by whom. Or is "
                "the address another machine's? 0.0.0.0 stands for all of this one"
            ) from error
        await server.start()
        self.ports.append(port)

    def _offer(self) -> SessionOffer:
        settings = self._settings
        return SessionOffer(
            heartbeat_interval=settings.heartbeat_interval,
            codecs=frozenset(settings.codecs),
            top_k_fraction=settings.top_k_fraction,
            data_port=lambda: self.data.port,
            masked=settings.secure_aggregation,
        )

    def _main_server(self) -> aio.Server:
        federation, coordinator, identity = self._federation, self._coordinator, self._identity
        sizes = MessageSizes(federation.model.manifest, self._settings.max_message)
        guard = Guard(federation.metrics, identity, self.refusals, limits=self._limits, sizes=sizes)
        server = aio.server(interceptors=[self._counter, guard], options=self._main_options())
        federation_pb2_grpc.add_FederationServiceServicer_to_server(
            FederationServicer(
                federation,
                self._cohort,
                uploads=self._uploads,
                offer=self._offer(),
                trust_digest=lambda: identity.trust_digest if identity else "",
            ),
            server,
        )
        deletion_pb2_grpc.add_DeletionServiceServicer_to_server(
            DeletionServicer(federation, coordinator), server
        )
        operator_pb2_grpc.add_OperatorServiceServicer_to_server(
            OperatorServicer(federation, coordinator, self._cohort), server
        )
        approval_pb2_grpc.add_ApprovalServiceServicer_to_server(
            ApprovalServicer(federation, coordinator), server
        )
        audit_pb2_grpc.add_AuditServiceServicer_to_server(
            AuditServicer(federation, self.refusals), server
        )
        receipt_pb2_grpc.add_ReceiptServiceServicer_to_server(ReceiptServicer(federation), server)
        secure_aggregation_pb2_grpc.add_SecureAggregationServiceServicer_to_server(
            SecureAggregationServicer(federation, self._cohort), server
        )
        identity_pb2_grpc.add_IdentityServiceServicer_to_server(
            IdentityServicer(federation, identity, self._signing, self._desk), server
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        if self._settings.reflection:
            names = (*SERVICE_NAMES, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, server)
        return server

    def _main_options(self) -> list[tuple[str, int]]:
        settings = self._settings
        return [
            *without(SERVER_OPTIONS, MESSAGE_LENGTH),
            (MESSAGE_LENGTH, settings.max_message),
            (MOST_CONNECTIONS, self._connections),
            ("grpc.max_concurrent_streams", settings.streams_per_connection),
            ("grpc.max_connection_idle_ms", IDLE_SECONDS * 1000),
        ]

    def _enrolment_server(self) -> aio.Server:
        guard = Guard(
            self._federation.metrics,
            refusals=self.refusals,
            may=check_enrolment,
            limits=self._limits,
        )
        most = min(self._connections, ENROLMENT_CONNECTIONS)
        options = [*ENROLMENT_OPTIONS, (MOST_CONNECTIONS, most)]
        server = aio.server(interceptors=[self._counter, guard], options=options)
        identity_pb2_grpc.add_EnrolmentServiceServicer_to_server(
            EnrolmentServicer(self._federation, self._signing), server
        )
        return server
