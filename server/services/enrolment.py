"""The service of enrolment: a one-time token is traded for a certificate."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from grpc import aio
from sqlalchemy import Connection

from fednot.errors import FednotError, Reason
from fednot.identity.subject import Role, Subject
from fednot.identity.token import secret_digest
from fednot.v1 import identity_pb2, identity_pb2_grpc
from server.federation import Federation
from server.records import AuditEvent
from server.services import callers
from server.services.signing import Signing, check_request
from server.state import audit_rows, token_rows
from server.state.commits import Commit

LONGEST_SECRET: Final = 256
ENROLMENTS_AT_ONCE: Final = 16
LONGEST_WAIT: Final = 5.0

Context = aio.ServicerContext[Any, Any]


class EnrolmentServicer(identity_pb2_grpc.EnrolmentServiceServicer):
    """Answers machines that have no certificate yet, ENROLMENTS_AT_ONCE of them at a time."""

    def __init__(self, federation: Federation, signing: Signing) -> None:
        self._database = federation.database
        self._signing = signing
        self._places = asyncio.Semaphore(ENROLMENTS_AT_ONCE)

    async def Enroll(
        self, request: identity_pb2.EnrollRequest, context: Context
    ) -> identity_pb2.EnrollResponse:
        """Signs a certificate for the client of the token.

        The token is used up, durably, before anything is signed; a reply that was lost is asked
        for again with the same key. A token is not used for a client that has a certificate of
        another key: who may make tokens does not become a client by that.
        """
        domain = self._signing.authority.domain
        if len(request.secret) > LONGEST_SECRET:
            raise FednotError(Reason.INVALID_TOKEN, "the secret is longer than any token's")
        secret = secret_digest(request.secret)
        async with self._place():
            token = await self._database.read(lambda c: token_rows.find(c, secret, time.time()))
            subject = Subject(Role.CLIENT, token.client, domain)
            key = check_request(request.certificate_request, subject)
            with self._signing.turn(subject):
                if not token.used:
                    await self._signing.check_new(subject, key)
                await self._database.write(Commit.TOKEN_USED, lambda c: _use(c, secret, key))
                signed = await self._signing.sign(
                    request.certificate_request, subject, granted_at=token.created_at
                )
        return identity_pb2.EnrollResponse(certificate=signed)

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(LONGEST_WAIT):
                await self._places.acquire()
        except TimeoutError:
            raise FednotError(
                Reason.SERVER_BUSY, "too many machines enrol just now", retry_after=LONGEST_WAIT
            ) from None
        try:
            yield
        finally:
            self._places.release()


def _use(connection: Connection, secret: str, key: str) -> None:
    now = time.time()
    client = token_rows.find(connection, secret, now).client
    if token_rows.use(connection, secret, key, now):
        event = AuditEvent(callers.NOBODY, "EnrolmentService.Enroll", subject=f"client/{client}")
        audit_rows.append(connection, event, now)
