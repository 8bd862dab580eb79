"""The service of secure aggregation."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf.duration_pb2 import Duration
from grpc import aio

from fednot.errors import FednotError, Reason
from fednot.identity.trust import Trust
from fednot.secure_aggregation import PublicKeys
from fednot.secure_aggregation.keys import (
    CIPHERTEXT_BYTES,
    KEY_BYTES,
    LARGEST_CHAIN,
    LARGEST_SIGNATURE,
    certified_key,
    check_signature,
    keys_statement,
    survivors_statement,
)
from fednot.secure_aggregation.shamir import SHARE_BYTES
from fednot.v1 import federation_pb2, secure_aggregation_pb2, secure_aggregation_pb2_grpc
from server.cohorts.remote import RemoteCohort, Session
from server.federation import Federation
from server.secure_aggregation.round import MaskedRound
from server.services.admission import session_of

LONGEST_WAIT: Final = 30.0

Context = aio.ServicerContext[Any, Any]


class _Call(Protocol):
    """What every request of the service names."""

    @property
    def session(self) -> federation_pb2.Session: ...
    @property
    def work_id(self) -> str: ...
    @property
    def attempt(self) -> bytes: ...


class Judge(Protocol):
    """Whose certificates hold; `server.identity.ServerIdentity` says so."""

    @property
    def trust(self) -> bytes:
        """The trusted authorities, PEM."""
        ...

    @property
    def domain(self) -> str:
        """The trust domain."""
        ...


class SecureAggregationServicer(secure_aggregation_pb2_grpc.SecureAggregationServiceServicer):
    """Passes on what the clients of a masked round tell each other.

    Clients trust nothing of it that they have not checked themselves. The server checks signatures
    all the same, so that a client that sends a wrong one is out and does not spoil the round.
    """

    def __init__(
        self,
        federation: Federation,
        cohort: RemoteCohort,
        judge: Judge | None = None,
    ) -> None:
        """Without a `judge`, over plaintext, there are no masked rounds."""
        self._federation = federation
        self._cohort = cohort
        self._judge = judge

    async def AdvertiseKeys(
        self, request: secure_aggregation_pb2.AdvertiseKeysRequest, context: Context
    ) -> secure_aggregation_pb2.AdvertiseKeysResponse:
        """Takes keys, and gives those of everybody who takes part."""
        session, masked = self._found(request)
        keys = _keys(request.keys, session.client)
        statement = keys_statement(masked.order, keys.client, keys.cipher_key, keys.mask_key)
        check_signature(keys.signature, statement, self._signing_key(keys), keys.client)
        roster = await masked.advertise(session.client, keys, _wait(request.max_wait))
        session.last_seen = time.monotonic()
        return secure_aggregation_pb2.AdvertiseKeysResponse(
            roster=[_keys_message(each) for each in roster or ()]
        )

    async def ShareKeys(
        self, request: secure_aggregation_pb2.ShareKeysRequest, context: Context
    ) -> secure_aggregation_pb2.ShareKeysResponse:
        """Takes shares for the others, and gives those that the others gave."""
        session, masked = self._found(request)
        if len(request.shares) > len(masked.order.cohort):
            raise _invalid("shares: there are more than clients in the round")
        given = {}
        for share in request.shares:
            _check_bytes(share.ciphertext, CIPHERTEXT_BYTES, "shares.ciphertext")
            given[share.client] = share.ciphertext
        found = await masked.share(session.client, given, _wait(request.max_wait))
        session.last_seen = time.monotonic()
        return secure_aggregation_pb2.ShareKeysResponse(
            shares=[
                secure_aggregation_pb2.EncryptedShare(client=name, ciphertext=ciphertext)
                for name, ciphertext in (found or {}).items()
            ]
        )

    async def GetSurvivors(
        self, request: secure_aggregation_pb2.GetSurvivorsRequest, context: Context
    ) -> secure_aggregation_pb2.GetSurvivorsResponse:
        """Says whose updates are in the sum, once that is known."""
        session, masked = self._found(request)
        survivors = await masked.confirmable(session.client, _wait(request.max_wait))
        session.last_seen = time.monotonic()
        return secure_aggregation_pb2.GetSurvivorsResponse(survivors=survivors)

    async def ConfirmSurvivors(
        self, request: secure_aggregation_pb2.ConfirmSurvivorsRequest, context: Context
    ) -> secure_aggregation_pb2.ConfirmSurvivorsResponse:
        """Takes a signature of the list, and gives those of the others."""
        session, masked = self._found(request)
        _check_signed(session.client, request.signature, masked, self._signing_key)
        wait = _wait(request.max_wait)
        signatures = await masked.confirm(session.client, request.signature, wait)
        session.last_seen = time.monotonic()
        return secure_aggregation_pb2.ConfirmSurvivorsResponse(
            signatures=[
                secure_aggregation_pb2.SurvivorsSignature(client=name, signature=signature)
                for name, signature in (signatures or {}).items()
            ]
        )

    async def Unmask(
        self, request: secure_aggregation_pb2.UnmaskRequest, context: Context
    ) -> secure_aggregation_pb2.UnmaskResponse:
        """Takes the shares that a client reveals."""
        session, masked = self._found(request)
        if len(request.shares) > len(masked.order.cohort):
            raise _invalid("shares: there are more than clients in the round")
        revealed: Mapping[str, dict[str, bytes]] = {"seed": {}, "mask_key": {}}
        for share in request.shares:
            kind = share.WhichOneof("share")
            if kind is None or any(share.client in shares for shares in revealed.values()):
                raise _invalid("shares: one of one secret of each client is wanted")
            value = getattr(share, kind)
            _check_bytes(value, SHARE_BYTES, f"shares.{kind}")
            revealed[kind][share.client] = value
        masked.reveal(session.client, revealed["seed"], revealed["mask_key"])
        return secure_aggregation_pb2.UnmaskResponse()

    def _found(self, request: _Call) -> tuple[Session, MaskedRound]:
        """The caller's session and masked round. Raises FednotError, CLIENT_BARRED too."""
        session = session_of(self._cohort, request.session)
        self._federation.fences.check(session.client)
        masked = self._federation.masked_rounds
        return session, masked.find(session.client, request.work_id, request.attempt)

    def _signing_key(self, keys: PublicKeys) -> ec.EllipticCurvePublicKey:
        judge = self._judge
        if judge is None:
            raise FednotError(Reason.MASKING_FAILED, "over plaintext nobody can sign keys")
        now = dt.datetime.now(dt.UTC)
        return certified_key(keys, Trust.of_pem(judge.trust), judge.domain, now)


def _check_signed(
    client: str,
    signature: bytes,
    masked: MaskedRound,
    key_of: Callable[[PublicKeys], ec.EllipticCurvePublicKey],
) -> None:
    roster = masked.roster
    if roster is None or client not in masked.survivors:
        return  # the round says what is wrong with the call
    statement = survivors_statement(masked.order, roster.digest, masked.shared, masked.survivors)
    check_signature(signature, statement, key_of(roster[client]), client)


def _keys(message: secure_aggregation_pb2.AdvertisedKeys, client: str) -> PublicKeys:
    if message.client != client:
        raise FednotError(Reason.NOT_YOUR_NAME, f"the keys are those of {message.client!r}")
    for field in ("cipher_key", "mask_key"):
        _check_bytes(getattr(message, field), KEY_BYTES, f"keys.{field}")
    if len(message.certificate_chain) > LARGEST_CHAIN or len(message.signature) > LARGEST_SIGNATURE:
        raise _invalid("keys: certificates or signature are too large")
    return PublicKeys(
        client,
        message.cipher_key,
        message.mask_key,
        message.certificate_chain,
        message.signature,
    )


def _keys_message(keys: PublicKeys) -> secure_aggregation_pb2.AdvertisedKeys:
    return secure_aggregation_pb2.AdvertisedKeys(
        client=keys.client,
        cipher_key=keys.cipher_key,
        mask_key=keys.mask_key,
        certificate_chain=keys.certificate_chain,
        signature=keys.signature,
    )


def _check_bytes(value: bytes, size: int, field: str) -> None:
    if len(value) != size:
        raise _invalid(f"{field}: {size} bytes are wanted, not {len(value)}")


def _wait(max_wait: Duration) -> float:
    return min(max(max_wait.ToNanoseconds() / 1e9, 0.0), LONGEST_WAIT)


def _invalid(message: str) -> FednotError:
    return FednotError(Reason.INVALID_REQUEST, message)
