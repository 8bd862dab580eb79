"""This client's part in a masked round, over the service; each of its steps may be repeated."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

import torch
from google.protobuf import duration_pb2

from client.destroyed import Destroyed, destroy
from client.encoder import Encoded
from client.session import CALL_SECONDS, Session
from client.trainer import Update
from client.worker import Worker, WorkFailedError
from fednot.errors import FednotError, Reason
from fednot.manifest import Manifest
from fednot.secure_aggregation.participant import Advertised, Participant
from fednot.secure_aggregation.ring import quantised
from fednot.secure_aggregation.signing import Signer
from fednot.secure_aggregation.terms import Terms
from fednot.tensors import as_bytes
from fednot.training import WorkCancelledError
from fednot.v1 import federation_pb2
from fednot.v1 import secure_aggregation_pb2 as pb
from fednot.wire import checksum

if TYPE_CHECKING:
    from fednot.v1.secure_aggregation_pb2_grpc import SecureAggregationServiceAsyncStub

ASK_SECONDS: Final = 5.0
MOST_REVEALED: Final = 1024
STEP_SECONDS: Final = 3600.0
"""The longest that one step waits for the others, whatever the server says."""

_log = logging.getLogger("client")

T = TypeVar("T")
Part = TypeVar("Part")


class Masking:
    """One attempt at masking the update of an order.

    Raises FednotError (MASKING_FAILED) if the server asks for what would show a single update.
    """

    def __init__(
        self, order: federation_pb2.TrainWork, client: str, signer: Signer, manifest: Manifest
    ) -> None:
        self.attempt: Final = order.masked.attempt
        self._work_id = order.work_id
        self._manifest = manifest
        self._participant = Participant(client, terms_of(order), signer)
        self._payload: torch.Tensor | None = None
        self._encoded: Encoded | None = None

    async def masked(
        self, session: Session, update: Update, worker: Worker, cancelled: threading.Event
    ) -> Encoded:
        """Agrees on masks with the others and gives the masked update; the same at each call.

        Raises WorkFailedError if the update cannot be masked, WorkCancelledError, and as a
        session's calls do.
        """
        if self._encoded is None:
            roster = await self._roster(session, cancelled)
            given = await worker.run(lambda: self._participant.shares_for(roster))
            shares = await self._shares(session, given, cancelled)
            return await worker.run(lambda: self._mask(update, shares))
        return self._encoded

    async def unmask(
        self,
        session: Session,
        cancelled: threading.Event,
        before: Callable[[], Awaitable[None]],
    ) -> None:
        """Helps to take the masks off the sum, once it is said whose updates are in it.

        `before` is awaited before anything is revealed. Raises as `masked` and `before` do.
        """
        survivors = await self._survivors(session, cancelled)
        signature = self._participant.signed(survivors)
        signatures = await self._signatures(session, signature, cancelled)
        await before()
        shares = [
            pb.RevealedShare(client=each.client, seed=each.seed)
            if each.seed
            else pb.RevealedShare(client=each.client, mask_key=each.mask_key)
            for each in self._participant.revealed(signatures)
        ]
        request = pb.UnmaskRequest(**self._who(session), shares=shares)  # type: ignore[arg-type]
        await session.mask(lambda stub: stub.Unmask(request, timeout=CALL_SECONDS), cancelled)

    def destroy(self) -> list[Destroyed]:
        """Ends the attempt, drops its secrets and overwrites the masked update."""
        self._participant.close()
        payload, self._payload, self._encoded = self._payload, None, None
        return [destroy("payload", payload)] if payload is not None else []

    def _mask(self, update: Update, shares: Mapping[str, bytes]) -> Encoded:
        if self._encoded is not None:  # by the thread of a session that ended meanwhile
            return self._encoded
        scale = self._participant.terms.scale
        try:
            payload, clipped = quantised(update.flat, self._manifest, update.num_examples, scale)
        except ValueError as error:
            raise WorkFailedError(f"the update cannot be masked: {error}") from error
        if clipped:
            _log.warning(
                "%d elements of the update were clipped to ±%g to be masked; the server's "
                "--mask-range allows no larger ones",
                clipped,
                scale.value_range,
            )
        try:
            self._payload = self._participant.masked(payload, shares)
        except FednotError:
            payload.zero_()
            raise
        view = as_bytes(self._payload)
        self._encoded = Encoded(view, checksum(view))
        return self._encoded

    async def _roster(self, session: Session, cancelled: threading.Event) -> list[Advertised]:
        own = self._participant.advertised()
        request = pb.AdvertiseKeysRequest(
            **self._who(session),  # type: ignore[arg-type]
            keys=pb.AdvertisedKeys(
                client=own.client,
                cipher_key=own.cipher_key,
                mask_key=own.mask_key,
                certificate_chain=own.chain,
                signature=own.signature,
            ),
            max_wait=_wait(),
        )
        found = await self._asked(
            session,
            lambda stub: stub.AdvertiseKeys(request, timeout=ASK_SECONDS + CALL_SECONDS),
            lambda response: response.roster,
            cancelled,
        )
        return [
            Advertised(
                each.client,
                each.cipher_key,
                each.mask_key,
                each.certificate_chain,
                each.signature,
            )
            for each in found
        ]

    async def _shares(
        self, session: Session, given: Mapping[str, bytes], cancelled: threading.Event
    ) -> dict[str, bytes]:
        request = pb.ShareKeysRequest(
            **self._who(session),  # type: ignore[arg-type]
            shares=[pb.EncryptedShare(client=name, ciphertext=x) for name, x in given.items()],
            max_wait=_wait(),
        )
        found = await self._asked(
            session,
            lambda stub: stub.ShareKeys(request, timeout=ASK_SECONDS + CALL_SECONDS),
            lambda response: response.shares,
            cancelled,
        )
        return {each.client: each.ciphertext for each in found}

    async def _survivors(self, session: Session, cancelled: threading.Event) -> list[str]:
        request = pb.GetSurvivorsRequest(
            **self._who(session),  # type: ignore[arg-type]
            max_wait=_wait(),
        )
        found = await self._asked(
            session,
            lambda stub: stub.GetSurvivors(request, timeout=ASK_SECONDS + CALL_SECONDS),
            lambda response: response.survivors,
            cancelled,
        )
        return list(found)

    async def _signatures(
        self, session: Session, own: bytes, cancelled: threading.Event
    ) -> dict[str, bytes]:
        request = pb.ConfirmSurvivorsRequest(
            **self._who(session),  # type: ignore[arg-type]
            signature=own,
            max_wait=_wait(),
        )
        found = await self._asked(
            session,
            lambda stub: stub.ConfirmSurvivors(request, timeout=ASK_SECONDS + CALL_SECONDS),
            lambda response: response.signatures,
            cancelled,
        )
        return {each.client: each.signature for each in found}

    async def _asked(
        self,
        session: Session,
        ask: Callable[[SecureAggregationServiceAsyncStub], Awaitable[T]],
        part: Callable[[T], Sequence[Part]],
        cancelled: threading.Event,
    ) -> Sequence[Part]:
        until = time.monotonic() + STEP_SECONDS
        while time.monotonic() < until:
            found = part(await session.mask(ask, cancelled))
            if cancelled.is_set():
                raise WorkCancelledError("the work no longer counts")
            if found:
                return found
        raise WorkFailedError(f"a step of the masking took longer than {STEP_SECONDS:g} s")

    def _who(self, session: Session) -> dict[str, object]:
        return {"session": session.message, "work_id": self._work_id, "attempt": self.attempt}


class RevealedWork:
    """For which pieces of work shares were revealed, the last MOST_REVEALED of them.

    Two sums of one update, with other clients' in each, tell somebody's by their difference.
    """

    def __init__(self) -> None:
        self._ids: dict[str, None] = {}

    def check(self, order: federation_pb2.TrainWork, attempt: bytes | None) -> None:
        """Raises WorkFailedError if an order wants another attempt than the one in hand, after
        shares were revealed for its work.
        """
        if order.work_id in self._ids and attempt != order.masked.attempt:
            raise WorkFailedError(
                "shares were revealed for this work, so it is not masked again; it must be given "
                "anew"
            )

    def note(self, order: federation_pb2.TrainWork) -> None:
        """Takes note before anything is revealed."""
        while len(self._ids) >= MOST_REVEALED:
            self._ids.pop(next(iter(self._ids)))
        self._ids[order.work_id] = None


def terms_of(order: federation_pb2.TrainWork) -> Terms:
    """The terms of an order's masked round. Raises FednotError (MASKING_FAILED)."""
    masked = order.masked
    try:
        return Terms(
            attempt=masked.attempt,
            round=order.round,
            version=order.version,
            generation=order.generation,
            threshold=masked.threshold,
            cohort=tuple(masked.cohort),
            value_range=masked.value_range,
            most_examples=masked.most_examples,
        )
    except ValueError as error:
        raise FednotError(
            Reason.MASKING_FAILED, f"the server's terms would not hide an update: {error}"
        ) from error


def _wait() -> duration_pb2.Duration:
    return duration_pb2.Duration(seconds=int(ASK_SECONDS))
