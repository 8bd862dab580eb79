"""Updates over gRPC: a header, chunks and a trailer on a stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from fednot.errors import FednotError, Reason
from fednot.v1 import federation_pb2
from fednot.wire import MESSAGE_SECONDS
from server.metrics import Metrics
from server.uploads.desk import UploadDesk
from server.uploads.upload import Upload

Part = federation_pb2.UploadUpdateRequest | memoryview
Stream = AsyncIterator[Part]
Announce = Callable[[int], Awaitable[None]]


class UploadStream:
    """Reads the streams of clients for the desk."""

    def __init__(
        self, desk: UploadDesk, metrics: Metrics, *, message_timeout: float = MESSAGE_SECONDS
    ) -> None:
        self._desk = desk
        self._transfers = metrics.transfers
        self._message_timeout = message_timeout

    async def take(self, stream: Stream, announce: Announce) -> int:
        """Takes one update and returns the round in which it counts.

        `announce` is told from which byte on the sender is to send. Raises FednotError with the
        reason if the update does not count; then it has changed nothing.
        """
        with self._desk.counted():
            first = await self._next(stream)
            if isinstance(first, memoryview) or first.WhichOneof("part") != "header":
                raise FednotError(Reason.INVALID_STREAM, "the first message must be the header")
            upload = await self._desk.open(first.header)
            try:
                await announce(upload.offset)
                checksum = await self._receive(stream, upload)
            except BaseException as error:
                self._desk.cut(upload, error)
                raise
            return await self._desk.finish(upload, checksum)

    async def _receive(self, stream: Stream, upload: Upload) -> str:
        while True:
            part = await self._next(stream)
            arrival = upload.check()
            if not isinstance(part, memoryview):
                return _checksum(part)
            with upload.saying_why():
                if arrival.spilled:
                    await asyncio.to_thread(arrival.write, part, upload)
                else:
                    arrival.write(part, upload)
            self._transfers.moved("received", len(part))

    async def _next(self, stream: Stream) -> Part:
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


def _checksum(part: federation_pb2.UploadUpdateRequest) -> str:
    if part.WhichOneof("part") != "trailer":
        raise FednotError(
            Reason.INVALID_STREAM, f"{part.WhichOneof('part') or 'nothing'} cannot come here"
        )
    return part.trailer.xxh3_128
