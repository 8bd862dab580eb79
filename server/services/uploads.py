"""Takes updates in: a bounded number at a time, each checked before it may count."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Final

from fednot.errors import FednotError, Reason
from fednot.v1 import federation_pb2
from fednot.wire import Receiver
from server.cohorts.cohort import Update, WorkKind
from server.cohorts.remote import Assignment, RemoteCohort, Session
from server.evaluation import finite
from server.federation import Federation
from server.services.admission import check_metrics, session_of

MESSAGE_TIMEOUT: Final = 30.0
SLOT_TIMEOUT: Final = 20.0
RETRY_AFTER: Final = 2.0

Stream = AsyncIterator[federation_pb2.UploadUpdateRequest]


class UploadDesk:
    """Buffers at most `slots` updates at once; further senders are held back by flow control."""

    def __init__(
        self,
        federation: Federation,
        cohort: RemoteCohort,
        *,
        slots: int,
        slot_timeout: float = SLOT_TIMEOUT,
        message_timeout: float = MESSAGE_TIMEOUT,
    ) -> None:
        self._federation = federation
        self._cohort = cohort
        self._slots = asyncio.Semaphore(slots)
        self._slot_timeout = slot_timeout
        self._message_timeout = message_timeout

    async def take(self, stream: Stream) -> int:
        """Takes one update and returns the round in which it counts.

        Raises FednotError with the reason if it does not; then it has changed nothing.
        """
        try:
            return await self._take(stream)
        except FednotError:
            self._federation.metrics.updates.labels("refused").inc()
            raise

    async def _take(self, stream: Stream) -> int:
        first = await self._next(stream)
        if first.WhichOneof("part") != "header":
            raise FednotError(Reason.INVALID_STREAM, "the first message must be the header")
        header = first.header
        session = session_of(self._cohort, header.session)
        self._federation.fences.check(session.client)
        assignment = self._cohort.assignment(session.client, header.work_id)
        self._check(header, session, assignment)
        await self._slot()
        try:
            update = await self._receive(stream, header, session, assignment)
            await assignment.submit(update)
        finally:
            self._slots.release()
        return assignment.plan.round

    async def _slot(self) -> None:
        try:
            async with asyncio.timeout(self._slot_timeout):
                await self._slots.acquire()
        except TimeoutError:
            raise FednotError(
                Reason.SERVER_BUSY,
                f"no upload slot came free in {self._slot_timeout:g} s",
                retry_after=RETRY_AFTER,
            ) from None

    def _check(
        self, header: federation_pb2.UpdateHeader, session: Session, assignment: Assignment
    ) -> None:
        assignment.check_open()
        plan, manifest = assignment.plan, self._federation.model.manifest
        if plan.kind is not WorkKind.TRAIN:
            raise FednotError(Reason.INVALID_REQUEST, "work_id: this work is evaluation")
        if header.manifest_digest != manifest.digest:
            raise FednotError(
                Reason.MANIFEST_MISMATCH,
                f"the update is for manifest {header.manifest_digest!r}, not {manifest.digest}",
            )
        if header.generation != plan.version.generation:
            raise FednotError(
                Reason.STALE_GENERATION,
                f"the update is of generation {header.generation}, not {plan.version.generation}",
            )
        if header.base_version != plan.version.number:
            raise FednotError(
                Reason.WRONG_BASE_VERSION,
                f"the update is against version {header.base_version}, not {plan.version.number}",
            )
        if not 1 <= header.num_examples <= session.num_train_examples:
            raise FednotError(
                Reason.WRONG_NUM_EXAMPLES,
                f"the update counts {header.num_examples} examples; "
                f"{session.client} joined with {session.num_train_examples}",
            )
        check_metrics(header.metrics)

    async def _receive(
        self,
        stream: Stream,
        header: federation_pb2.UpdateHeader,
        session: Session,
        assignment: Assignment,
    ) -> Update:
        receiver = Receiver(self._federation.model.manifest, header.num_bytes)
        received = self._federation.metrics.transfer.labels("received")
        while True:
            message = await self._next(stream)
            self._federation.fences.check(session.client)
            assignment.check_open()
            session.last_seen = time.monotonic()
            part = message.WhichOneof("part")
            if part == "chunk":
                receiver.add(message.chunk)
                received.inc(len(message.chunk))
            elif part == "trailer":
                flat = receiver.finish(message.trailer.xxh3_128)
                metrics = finite(dict(header.metrics))
                return Update(session.client, header.num_examples, flat, metrics, lambda _: None)
            else:
                raise FednotError(Reason.INVALID_STREAM, f"{part} cannot come here")

    async def _next(self, stream: Stream) -> federation_pb2.UploadUpdateRequest:
        try:
            async with asyncio.timeout(self._message_timeout):
                return await anext(stream)
        except StopAsyncIteration:
            raise FednotError(
                Reason.INVALID_STREAM, "the stream ended before its trailer"
            ) from None
        except TimeoutError:
            raise FednotError(
                Reason.SLOW_SENDER, f"nothing was sent for {self._message_timeout:g} s"
            ) from None
