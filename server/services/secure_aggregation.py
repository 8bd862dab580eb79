"""The service of secure aggregation: the steps of a masked round beside the upload."""

from __future__ import annotations

from typing import Any, Final

from google.protobuf import duration_pb2
from grpc import aio

from fednot.errors import FednotError, Reason
from fednot.secure_aggregation.participant import Advertised, Revealed
from fednot.secure_aggregation.signing import MOST_CHAIN_BYTES
from fednot.v1 import federation_pb2
from fednot.v1 import secure_aggregation_pb2 as pb
from fednot.v1.secure_aggregation_pb2_grpc import SecureAggregationServiceServicer
from server.cohorts.remote import RemoteCohort
from server.federation import Federation
from server.secure_aggregation.attempt import Attempt
from server.services.admission import session_of

MAX_WAIT_SECONDS: Final = 30.0
LONGEST_SIGNATURE: Final = 256

Context = aio.ServicerContext[Any, Any]


class SecureAggregationServicer(SecureAggregationServiceServicer):
    """Brings clients' calls to the attempt that they name."""

    def __init__(self, federation: Federation, cohort: RemoteCohort) -> None:
        self._federation = federation
        self._cohort = cohort

    async def AdvertiseKeys(
        self, request: pb.AdvertiseKeysRequest, context: Context
    ) -> pb.AdvertiseKeysResponse:
        """Takes keys and gives the roster."""
        client, attempt = self._found(request.session, request.attempt, request.work_id)
        keys = request.keys
        _check_signature(keys.signature)
        if len(keys.certificate_chain) > MOST_CHAIN_BYTES:
            raise _invalid("keys.certificate_chain", f"has at most {MOST_CHAIN_BYTES} bytes")
        own = Advertised(
            keys.client or client,
            keys.cipher_key,
            keys.mask_key,
            keys.certificate_chain,
            keys.signature,
        )
        roster = await attempt.advertise(client, own, _seconds(request.max_wait))
        return pb.AdvertiseKeysResponse(
            roster=[
                pb.AdvertisedKeys(
                    client=each.client,
                    cipher_key=each.cipher_key,
                    mask_key=each.mask_key,
                    certificate_chain=each.chain,
                    signature=each.signature,
                )
                for each in roster
            ]
        )

    async def ShareKeys(
        self, request: pb.ShareKeysRequest, context: Context
    ) -> pb.ShareKeysResponse:
        """Takes encrypted shares and gives those of the others."""
        client, attempt = self._found(request.session, request.attempt, request.work_id)
        given = {each.client: each.ciphertext for each in request.shares}
        if len(given) != len(request.shares):
            raise _invalid("shares", "names a client twice")
        shares = await attempt.share(client, given, _seconds(request.max_wait))
        return pb.ShareKeysResponse(
            shares=[pb.EncryptedShare(client=name, ciphertext=x) for name, x in shares.items()]
        )

    async def GetSurvivors(
        self, request: pb.GetSurvivorsRequest, context: Context
    ) -> pb.GetSurvivorsResponse:
        """Says whose updates are in the sum."""
        client, attempt = self._found(request.session, request.attempt, request.work_id)
        survivors = await attempt.list_survivors(client, _seconds(request.max_wait))
        return pb.GetSurvivorsResponse(survivors=survivors)

    async def ConfirmSurvivors(
        self, request: pb.ConfirmSurvivorsRequest, context: Context
    ) -> pb.ConfirmSurvivorsResponse:
        """Takes a signature of the list and gives those of the others."""
        client, attempt = self._found(request.session, request.attempt, request.work_id)
        _check_signature(request.signature)
        signed = await attempt.confirm(client, request.signature, _seconds(request.max_wait))
        return pb.ConfirmSurvivorsResponse(
            signatures=[pb.SurvivorsSignature(client=x, signature=y) for x, y in signed.items()]
        )

    async def Unmask(self, request: pb.UnmaskRequest, context: Context) -> pb.UnmaskResponse:
        """Takes the shares that take the masks off the sum."""
        client, attempt = self._found(request.session, request.attempt, request.work_id)
        attempt.reveal(
            client, [Revealed(each.client, each.seed, each.mask_key) for each in request.shares]
        )
        return pb.UnmaskResponse()

    def _found(
        self, message: federation_pb2.Session, name: bytes, work_id: str
    ) -> tuple[str, Attempt]:
        session = session_of(self._cohort, message)
        self._federation.fences.check(session.client)
        return session.client, self._federation.attempts.of(name, session.client, work_id)


def _seconds(wait: duration_pb2.Duration) -> float:
    return min(max(wait.ToNanoseconds() / 1e9, 0.0), MAX_WAIT_SECONDS)


def _check_signature(signature: bytes) -> None:
    if not 1 <= len(signature) <= LONGEST_SIGNATURE:
        raise _invalid("signature", f"has 1 to {LONGEST_SIGNATURE} bytes")


def _invalid(field: str, why: str) -> FednotError:
    return FednotError(Reason.INVALID_REQUEST, f"{field}: {why}")
