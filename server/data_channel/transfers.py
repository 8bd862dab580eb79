"""Serves one download or one upload of a data connection, in the connection's thread."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from fednot.chunk_messages import DOWNLOAD, UPLOAD
from fednot.data_link import STEP_BYTES, DataLink, LinkClosedError
from fednot.data_messages import framed, trailer_in
from fednot.errors import FednotError, Reason
from fednot.v1 import data_channel_pb2, federation_pb2, model_pb2
from fednot.wire import MESSAGE_SECONDS, longest_transfer
from server.data_channel.event_loop import EventLoop
from server.metrics import Metrics
from server.records import Caller
from server.services import callers
from server.services.door import Door
from server.services.downloads import Download, DownloadDesk
from server.uploads.desk import UploadDesk
from server.uploads.upload import Upload

CUT_SECONDS: Final = 30.0


@dataclass
class Call:
    """One request of a connection that shows `pem`.

    `answerable` says that a message may be sent now, `in_step` that the client has nothing more to
    send and waits, so that the connection can serve another request.
    """

    link: DataLink
    pem: bytes | None
    answerable: bool = True
    in_step: bool = False

    def answer(self, response: data_channel_pb2.DataResponse) -> None:
        """Sends a message."""
        self.link.send(memoryview(framed(response)), MESSAGE_SECONDS)

    def still_there(self) -> None:
        """Raises LinkClosedError if the client has gone."""
        if self.link.hung_up():
            raise LinkClosedError("the client closed the connection")


class Transfers:
    """What the data channel serves; the same desks as over gRPC, and the same judgement."""

    def __init__(
        self,
        loop: EventLoop,
        door: Door,
        metrics: Metrics,
        uploads: UploadDesk,
        downloads: DownloadDesk,
    ) -> None:
        self._loop = loop
        self._door = door
        self._metrics = metrics
        self._uploads = uploads
        self._downloads = downloads

    def download(self, call: Call, request: federation_pb2.DownloadModelRequest) -> None:
        """Sends a version. Raises FednotError with the reason if it may not be sent."""
        call.in_step = True
        with self._door.admitted(DOWNLOAD, call.pem, id(call.link)) as caller:
            self._download(call, request, caller)

    def _download(
        self, call: Call, request: federation_pb2.DownloadModelRequest, caller: Caller
    ) -> None:
        found = self._loop.run(self._opened(call, request, caller), call.still_there)
        call.answer(data_channel_pb2.DataResponse(header=found.header))
        call.in_step = call.answerable = False
        self._send(call, found)
        digest = self._loop.run(found.assignment.broadcast.checksum(), call.still_there)
        call.in_step = call.answerable = True
        self._door.caller(call.pem)
        trailer = model_pb2.StreamTrailer(xxh3_128=digest)
        call.answer(data_channel_pb2.DataResponse(trailer=trailer))

    def upload(self, call: Call, header: federation_pb2.UpdateHeader) -> None:
        """Takes an update. Raises FednotError with the reason if it does not count."""
        with self._door.admitted(UPLOAD, call.pem, id(call.link)) as caller:
            self._upload(call, header, caller)

    def _upload(self, call: Call, header: federation_pb2.UpdateHeader, caller: Caller) -> None:
        async def opened() -> Upload:
            callers.begin(caller, call.pem)
            return await self._uploads.open(header)

        with self._uploads.counted():
            upload = self._loop.run(opened(), call.still_there, lost=self._uploads.cut)
            try:
                checksum = self._received(call, upload)
            except BaseException as error:
                self._cut(upload, error)
                raise
            call.in_step = True
            number = self._loop.run(self._uploads.finish(upload, checksum), call.still_there)
        self._door.judge_again(call.pem)
        counted = federation_pb2.UploadUpdateResponse(round=number)
        call.answer(data_channel_pb2.DataResponse(counted=counted))

    async def _opened(
        self, call: Call, request: federation_pb2.DownloadModelRequest, caller: Caller
    ) -> Download:
        callers.begin(caller, call.pem)
        return self._downloads.open(request)

    def _send(self, call: Call, found: Download) -> None:
        assignment, session, broadcast = found.assignment, found.session, found.assignment.broadcast
        num_bytes = found.header.num_bytes
        until = time.monotonic() + longest_transfer(num_bytes)

        def look() -> None:
            self._door.caller(call.pem)
            assignment.check_open()
            if time.monotonic() > until:
                raise TimeoutError("the download took longer than any may")

        with call.link.looking(look):
            for start in range(found.header.offset, num_bytes, STEP_BYTES):
                stop = min(start + STEP_BYTES, num_bytes)
                part = broadcast.view(start, stop)
                look()  # after the view, which is empty once the work has ended
                call.link.send(part, MESSAGE_SECONDS)
                broadcast.done_with(start, stop)
                self._metrics.transfers.moved_beside_grpc("sent", stop - start)
                session.last_seen = time.monotonic()

    def _received(self, call: Call, upload: Upload) -> str:
        """Takes the bytes; gives the checksum of the trailer behind them."""
        grant = data_channel_pb2.UploadGrant(offset=upload.offset)
        call.answer(data_channel_pb2.DataResponse(grant=grant))
        try:
            with upload.saying_why(), call.link.looking(self._watching(call, upload)):
                self._take_bytes(call, upload)
                raw = call.link.receive(time.monotonic() + MESSAGE_SECONDS)
        except TimeoutError:
            raise FednotError(
                Reason.SLOW_SENDER, f"nothing was sent for {MESSAGE_SECONDS:g} s"
            ) from None
        self._door.caller(call.pem)
        return trailer_in(raw).xxh3_128

    def _watching(self, call: Call, upload: Upload) -> Callable[[], None]:
        """For the time in which nothing comes: it marks nobody as seen."""

        def look() -> None:
            self._door.caller(call.pem)
            upload.assignment.check_open()
            upload.held()

        return look

    def _take_bytes(self, call: Call, upload: Upload) -> None:
        link = call.link

        def read(into: memoryview) -> int:
            upload.held()
            return link.read_some(into)

        arrival = upload.check()
        until = time.monotonic() + MESSAGE_SECONDS
        while arrival.received < arrival.num_bytes:
            count = arrival.read_from(read, STEP_BYTES)
            if not count:
                link.await_more(until)
                continue
            self._metrics.transfers.moved_beside_grpc("received", count)
            self._door.caller(call.pem)
            arrival = upload.check()
            until = time.monotonic() + MESSAGE_SECONDS
        upload.held()  # or a newer connection brought the rest

    def _cut(self, upload: Upload, why: BaseException) -> None:
        async def cut() -> None:
            self._uploads.cut(upload, why)

        self._loop.run(cut(), lambda: None, seconds=CUT_SECONDS)
