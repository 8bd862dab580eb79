"""The service of enrolment: a one-time token is traded for a certificate."""

from __future__ import annotations

import time
from typing import Any, Final

from grpc import aio
from sqlalchemy import Connection

from fednot.errors import FednotError, Reason
from fednot.identity.subject import Role, Subject
from fednot.identity.token import secret_digest
from fednot.v1 import identity_pb2, identity_pb2_grpc
from server.federation import Federation
from server.identity import ServerIdentity
from server.records import AuditEvent
from server.services import callers
from server.services.signing import Signing, check_request
from server.state import audit_rows, token_rows

LONGEST_SECRET: Final = 256

Context = aio.ServicerContext[Any, Any]


class EnrolmentServicer(identity_pb2_grpc.EnrolmentServiceServicer):
    """Answers machines that have no certificate yet."""

    def __init__(self, federation: Federation, identity: ServerIdentity) -> None:
        self._database = federation.database
        self._signing = Signing(identity)

    async def Enroll(
        self, request: identity_pb2.EnrollRequest, context: Context
    ) -> identity_pb2.EnrollResponse:
        """Signs a certificate for the client of the token.

        The token is used up, durably, before anything is signed; a reply that was lost is asked
        for again with the same key.
        """
        domain = self._signing.authority.domain
        if len(request.secret) > LONGEST_SECRET:
            raise FednotError(Reason.INVALID_TOKEN, "the secret is longer than any token's")
        secret = secret_digest(request.secret)
        client = await self._database.run(lambda c: token_rows.client_of(c, secret, time.time()))
        subject = Subject(Role.CLIENT, client, domain)
        key = check_request(request.certificate_request, subject)
        await self._database.run(lambda c: _use(c, secret, key))
        signed = await self._signing.sign(request.certificate_request, subject)
        return identity_pb2.EnrollResponse(certificate=signed)


def _use(connection: Connection, secret: str, key: str) -> None:
    now = time.time()
    client = token_rows.use(connection, secret, key, now)
    event = AuditEvent(callers.NOBODY, "EnrolmentService.Enroll", subject=f"client/{client}")
    audit_rows.append(connection, event, now)
