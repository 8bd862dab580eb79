"""Takes updates in, whatever carries them: who may send, into which buffer, and what became of it.

A few uploads are in memory at once; the rest wait their turn. While somebody waits, whoever sends
slowly, or not at all since its connection was cut, moves to a spill file and gives the slot back.
A cut upload is kept until it goes on, until its time is over, or until its round ends.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import structlog

from fednot import calls
from fednot.errors import FednotError, Reason
from fednot.v1 import federation_pb2
from server.anomalies import kind_of
from server.blocks import Block
from server.cohorts.cohort import Update
from server.cohorts.remote import Assignment, RemoteCohort, Session
from server.evaluation import finite
from server.federation import Federation
from server.services.admission import session_of
from server.uploads.arrival import Arrival
from server.uploads.buffers import Buffers
from server.uploads.checks import check_header
from server.uploads.slots import RETRY_AFTER, Slots
from server.uploads.upload import Upload

LOOK_EVERY: Final = 0.02
PACE_OVER: Final = 0.05
IDLE_SECONDS: Final = 60.0

log = logging.getLogger("server.uploads")


@dataclass(frozen=True)
class UploadLimits:
    """At most `slots` uploads in memory, each at `slowest` bytes a second or more while others
    wait, which they do for at most `wait` seconds; a cut one is kept for `expiry` seconds. One that
    brings fewer than `least` bytes a second is cut off, one of more than `most_bytes` refused.
    """

    slots: int = 2
    wait: float = 20.0
    slowest: float = 8e6
    expiry: float = 300.0
    least: float = 0.0
    most_bytes: int | None = None


class UploadDesk:
    """The one place that uploads go through; it lives on the event loop."""

    def __init__(self, federation: Federation, cohort: RemoteCohort, limits: UploadLimits) -> None:
        self._federation = federation
        self._cohort = cohort
        self._limits = limits
        self._slots = Slots(limits.slots, limits.wait, self._show)
        self._buffers = Buffers(federation.memory, limits.slots)
        self._arrivals: dict[str, Arrival] = {}
        self._newest: dict[str, Upload] = {}
        self._watch: asyncio.Task[None] | None = None
        self._idle: asyncio.TimerHandle | None = None

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Counts an upload that is refused."""
        try:
            yield
        except FednotError as error:
            self._federation.metrics.rounds.update_refused(error.reason)
            raise

    async def open(self, header: federation_pb2.UpdateHeader) -> Upload:
        """Admits an upload; `offset` of what is returned says where it begins.

        Raises FednotError with the reason if the update cannot count, or SERVER_BUSY.
        """
        origin = calls.of_message(header.origin)
        if origin.call_id:
            structlog.contextvars.bind_contextvars(call_id=origin.call_id)
        session = session_of(self._cohort, header.session)
        with self._noting(session.client):
            return await self._admitted(header, session)

    @contextmanager
    def _noting(self, client: str) -> Iterator[None]:
        """Counts what a refusal says about the client's update."""
        try:
            yield
        except FednotError as error:
            self._note(client, error)
            raise

    def _note(self, client: str, error: BaseException | None) -> None:
        kind = kind_of(error)
        if kind is not None:
            self._federation.notes(client, kind)

    async def _admitted(self, header: federation_pb2.UpdateHeader, session: Session) -> Upload:
        federation = self._federation
        assignment = self._assignment(session.client, header.work_id)
        await assignment.judged()
        assignment.check_fence(federation.fences)
        check_header(header, session, assignment, federation.model.manifest)
        _check_size(header.num_bytes, self._limits.most_bytes)
        upload = Upload(header, session, assignment, federation.fences, self._limits.least)
        if assignment.id not in self._newest:
            assignment.at_its_end(lambda: self._newest.pop(assignment.id))
        self._newest[assignment.id] = upload
        upload.holds(self._kept(upload) or await self._begun(upload))
        self._show()
        return upload

    def _assignment(self, client: str, work_id: str) -> Assignment:
        try:
            return self._cohort.assignment(client, work_id)
        except FednotError:
            self._federation.fences.check(client)  # says more than that the work is unknown
            raise

    async def finish(self, upload: Upload, checksum: str) -> int:
        """Hands a complete update to its round and returns the round's number once it counts.

        Raises FednotError with the reason if it does not.
        """
        arrival, header = upload.check(), upload.header
        try:
            arrival.finish(checksum)
        except FednotError as error:
            self._note(upload.session.client, error)
            self._drop(upload.assignment.id, arrival)
            raise
        update = Update(
            client=upload.session.client,
            num_examples=header.num_examples,
            payload=arrival.block,
            codec=upload.session.codec,
            metrics={} if upload.assignment.plan.masked else finite(dict(header.metrics)),
            settle=lambda _refusal: self._drop(upload.assignment.id, arrival),
        )
        await upload.assignment.submit(update)
        counted_in = upload.assignment.plan.round
        fields = {
            "client": update.client,
            "round": counted_in,
            "num_bytes": header.num_bytes,
            "call_id": calls.of_message(header.origin).call_id,
        }
        log.info("the update of %s counts", update.client, extra=fields)
        return counted_in

    def cut(self, upload: Upload, why: BaseException | None = None) -> None:
        """The connection ended early: keeps what came for a while, if the sender can go on.

        `why` is counted if it says something about the update.
        """
        self._note(upload.session.client, why)
        arrival = upload.arrival
        if arrival is None or arrival.holder is not upload or upload.assignment.answered:
            return
        work_id = upload.assignment.id
        arrival.holder = None
        if not arrival.checksum or not arrival.received:
            self._drop(work_id, arrival)
            return
        log.info(
            "the upload of %s was cut at byte %d of %d; it can go on",
            upload.session.client,
            arrival.received,
            arrival.num_bytes,
        )
        arrival.cuts += 1
        asyncio.get_running_loop().call_later(
            self._limits.expiry, self._drop_if_cut, work_id, arrival, arrival.cuts
        )
        self._show()

    def _drop_if_cut(self, work_id: str, arrival: Arrival, cuts: int) -> None:
        if arrival.holder is None and arrival.cuts == cuts:
            self._drop(work_id, arrival)

    def _kept(self, upload: Upload) -> Arrival | None:
        """What an upload that was cut left of the same update."""
        header, work_id = upload.header, upload.assignment.id
        arrival = self._arrivals.get(work_id)
        if arrival is None:
            return None
        if header.xxh3_128 and header.xxh3_128 == arrival.checksum:
            return arrival
        self._drop(work_id, arrival)
        return None

    async def _begun(self, upload: Upload) -> Arrival:
        await self._slot()
        try:
            self._check_newest(upload)
            header = upload.header
            block = await asyncio.to_thread(self._buffers.take, header.num_bytes)
        except OSError as error:
            self._slots.release()
            raise FednotError(
                Reason.SERVER_BUSY,
                f"there is no space for the update: {error.strerror}",
                retry_after=RETRY_AFTER,
            ) from error
        except BaseException:
            self._slots.release()
            raise
        try:
            self._check_newest(upload)  # again: the buffer took its time
        except FednotError:
            self._buffers.give(block)
            self._slots.release()
            raise
        arrival = Arrival(block, header.num_bytes, header.xxh3_128)
        work_id = upload.assignment.id
        self._arrivals[work_id] = arrival
        upload.assignment.at_its_end(lambda: self._drop(work_id, arrival))
        return arrival

    def _check_newest(self, upload: Upload) -> None:
        upload.assignment.check_open()
        if self._newest.get(upload.assignment.id) is not upload:
            raise FednotError(Reason.UPLOAD_REPLACED, "a newer upload of this work has begun")

    async def _slot(self) -> None:
        if self._watch is None or self._watch.done():
            self._watch = asyncio.create_task(self._look_for_slow_ones())
        await self._slots.acquire()

    async def _look_for_slow_ones(self) -> None:
        await asyncio.sleep(0)
        while self._slots.waiting:
            now = time.monotonic()
            for arrival in tuple(self._arrivals.values()):
                since = arrival.mark[1]
                if arrival.in_slot and now - since >= PACE_OVER and self._is_slow(arrival, now):
                    await self._spill(arrival)
            await asyncio.sleep(LOOK_EVERY)

    def _is_slow(self, arrival: Arrival, now: float) -> bool:
        return arrival.pace(now) < self._limits.slowest and arrival.received < arrival.num_bytes

    async def _spill(self, arrival: Arrival) -> None:
        try:
            before = await asyncio.to_thread(self._moved, arrival)
        except OSError as error:
            log.warning("a slow upload cannot move to a spill file: %s", error)
            return
        if before is not None:
            self._buffers.give(before)
            self._federation.metrics.transfers.spilled()
            self._leave_slot(arrival)
        self._show()

    def _moved(self, arrival: Arrival) -> Block | None:
        return arrival.move(lambda: self._buffers.take_spilled(arrival.num_bytes))

    def _drop(self, work_id: str, arrival: Arrival) -> None:
        """Gives back what an arrival holds, however often it is called."""
        if self._arrivals.get(work_id) is not arrival:
            return
        del self._arrivals[work_id]
        self._buffers.give(arrival.close())
        self._leave_slot(arrival)
        self._show()

    def _leave_slot(self, arrival: Arrival) -> None:
        if arrival.in_slot:
            arrival.in_slot = False
            self._slots.release()

    def _show(self) -> None:
        arrivals = self._arrivals.values()
        cut = sum(arrival.holder is None for arrival in arrivals)
        self._federation.metrics.transfers.show_uploads(
            receiving=len(arrivals) - cut, waiting=self._slots.waiting, cut=cut
        )
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        if not arrivals:
            loop = asyncio.get_running_loop()
            self._idle = loop.call_later(IDLE_SECONDS, self._buffers.clear)


def _check_size(num_bytes: int, most: int | None) -> None:
    if most is not None and num_bytes > most:
        raise FednotError(
            Reason.UPDATE_TOO_LARGE,
            f"the update has {num_bytes} bytes; this server takes {most} at most",
        )
