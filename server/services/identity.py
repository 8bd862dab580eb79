"""The service of identity: who the caller is, tokens for new machines, and renewal."""

from __future__ import annotations

import time
from typing import Any, Final

from grpc import aio
from sqlalchemy import Connection

import fednot
from fednot.errors import FednotError, Reason
from fednot.identity.certificates import read_certificates
from fednot.identity.subject import Role, Subject
from fednot.identity.token import Token
from fednot.v1 import identity_pb2, identity_pb2_grpc
from server.console.sessions import LINK_SECONDS, SessionDesk
from server.federation import Federation
from server.identity import ServerIdentity
from server.records import AuditEvent
from server.refusals import about
from server.services import callers, permissions
from server.services.admission import check_client_name
from server.services.messages import caller_message
from server.services.moments import timestamp
from server.services.signing import Signing
from server.state import audit_rows, token_rows
from server.state.commits import Commit

TOKEN_SECONDS: Final = 3600.0
LONGEST_TOKEN_SECONDS: Final = 30 * 24 * 3600.0

Context = aio.ServicerContext[Any, Any]


class IdentityServicer(identity_pb2_grpc.IdentityServiceServicer):
    """Answers those who have a certificate; `identity` is None over plaintext."""

    def __init__(
        self,
        federation: Federation,
        identity: ServerIdentity | None,
        signing: Signing,
        console: SessionDesk,
    ) -> None:
        self._console = console
        self._database = federation.database
        self._identity = identity
        self._signing = signing

    async def GetIdentity(
        self, request: identity_pb2.GetIdentityRequest, context: Context
    ) -> identity_pb2.GetIdentityResponse:
        """Says who the caller is."""
        caller = callers.current()
        return identity_pb2.GetIdentityResponse(
            caller=caller_message(caller.key),
            domain=self._identity.domain if self._identity else "",
            expires_at=timestamp(caller.expires_at),
            now=timestamp(time.time()),
            software_version=fednot.__version__,
            can_renew=bool(self._identity and self._identity.authority),
            permitted=permissions.permitted(caller),
        )

    async def CreateToken(
        self, request: identity_pb2.CreateTokenRequest, context: Context
    ) -> identity_pb2.CreateTokenResponse:
        """Makes a one-time token for a client that has no certificate."""
        authority = self._signing.authority
        check_client_name(request.client)
        with about(request.client):
            await self._signing.check_new(Subject(Role.CLIENT, request.client, authority.domain))
            seconds = _seconds_valid(request)
        now = time.time()
        expires_at = now + seconds
        token = Token.fresh(request.client, authority.domain, authority.trust_pem)
        event = AuditEvent(
            callers.current(), "IdentityService.CreateToken", subject=token.subject.caller
        )

        def command(connection: Connection) -> None:
            token_rows.create(
                connection, token.secret_digest, token.client, now=now, expires_at=expires_at
            )
            audit_rows.append(connection, event, now)

        await self._database.write(Commit.TOKEN_MADE, command)
        return identity_pb2.CreateTokenResponse(
            token=token.text(), expires_at=timestamp(expires_at)
        )

    async def RenewCertificate(
        self, request: identity_pb2.RenewCertificateRequest, context: Context
    ) -> identity_pb2.RenewCertificateResponse:
        """Signs a new certificate for the caller's own role and name.

        It is handed out only once the audit has its entry.
        """
        domain, caller = self._signing.authority.domain, callers.current()
        if caller.role is None:
            raise FednotError(Reason.NO_CERTIFICATE, "who has no certificate has none to renew")
        subject = Subject(caller.role, caller.name, domain)
        shown = callers.certificate()
        holder = read_certificates(shown)[0].serial_number if shown else None
        with self._signing.turn(subject):
            signed = await self._signing.sign(request.certificate_request, subject, holder=holder)
        event = AuditEvent(caller, "IdentityService.RenewCertificate", subject=subject.caller)
        await self._database.write(
            Commit.CERTIFICATE_RENEWED, lambda c: audit_rows.append(c, event, time.time())
        )
        return identity_pb2.RenewCertificateResponse(certificate=signed)

    async def CreateConsoleLink(
        self, request: identity_pb2.CreateConsoleLinkRequest, context: Context
    ) -> identity_pb2.CreateConsoleLinkResponse:
        """Makes a link for the caller's browser; over plaintext it has no code."""
        if not self._console.port:
            raise FednotError(Reason.NO_CONSOLE, "this server serves no console")
        caller, shown = callers.current(), callers.certificate()
        if shown is None:
            return identity_pb2.CreateConsoleLinkResponse(port=self._console.port, path="/")
        now = time.time()
        event = AuditEvent(caller, "IdentityService.CreateConsoleLink", subject=caller.key)
        await self._database.write(Commit.TOKEN_MADE, lambda c: audit_rows.append(c, event, now))
        return identity_pb2.CreateConsoleLinkResponse(
            port=self._console.port,
            path=f"/sign-in#{self._console.link(shown, caller.key)}",
            expires_at=timestamp(now + LINK_SECONDS),
        )


def _seconds_valid(request: identity_pb2.CreateTokenRequest) -> float:
    if not request.HasField("valid_for"):
        return TOKEN_SECONDS
    seconds = request.valid_for.ToNanoseconds() / 1e9
    if not 0 < seconds <= LONGEST_TOKEN_SECONDS:
        raise FednotError(Reason.INVALID_REQUEST, "valid_for: must be above 0 and up to 30 days")
    return seconds
