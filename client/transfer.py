"""Model bytes between client and server over gRPC: what was cut goes on where it was."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from grpc import aio

from client.connection import BrokenStreamError, FinalRefusalError
from client.dialler import Dialler
from fednot import calls
from fednot.chunk_messages import OFFSET_KEY, framed
from fednot.errors import FednotError
from fednot.training import WorkCancelledError
from fednot.v1 import federation_pb2, model_pb2
from fednot.wire import CHUNK_BYTES, MESSAGE_SECONDS, Receiver, longest_transfer

T = TypeVar("T")

UploadCall = aio.StreamUnaryCall[
    federation_pb2.UploadUpdateRequest | bytes, federation_pb2.UploadUpdateResponse
]
DownloadCall = aio.UnaryStreamCall[
    federation_pb2.DownloadModelRequest, federation_pb2.DownloadModelResponse | memoryview
]


@dataclass(frozen=True)
class Expected:
    """The version that a download must be of, and the digest of its manifest."""

    version: int
    manifest_digest: str

    def check(self, header: model_pb2.ModelHeader) -> None:
        """Raises BrokenStreamError for another version, FinalRefusalError for another manifest."""
        if header.version != self.version:
            raise BrokenStreamError(
                f"version {header.version} came; the work is on version {self.version}"
            )
        if header.manifest_digest != self.manifest_digest:
            raise FinalRefusalError(
                "the server's model has another manifest than the one this client's Task builds; "
                "give server and client the same Task"
            )


class Transfer:
    """Moves flat models and updates; `moved` is told the direction and size of every chunk."""

    def __init__(self, dialler: Dialler, moved: Callable[[str, int], None]) -> None:
        self._dialler = dialler
        self._moved = moved

    async def download(
        self,
        request: federation_pb2.DownloadModelRequest,
        version: Expected,
        receiver: Receiver,
        cancelled: threading.Event,
    ) -> torch.Tensor:
        """The flat model of the version that the work names, uint8 [manifest.nbytes].

        `receiver` keeps what came over calls that were cut; the next one goes on from there. Raises
        BrokenStreamError, TimeoutError or AioRpcError, which a retry may mend; FinalRefusalError if
        the server's model has another manifest; WorkCancelledError.
        """
        request.offset = receiver.filled
        with self._dialler.line() as line:
            timeout = longest_transfer(receiver.num_bytes)
            call = line.download(request, timeout=timeout, metadata=calls.current().metadata())
            try:
                return await self._received(call, version, receiver, cancelled)
            except FednotError as error:
                raise BrokenStreamError(f"the download is broken: {error.message}") from error
            finally:
                call.cancel()

    async def upload(
        self,
        header: federation_pb2.UpdateHeader,
        payload: memoryview,
        cancelled: threading.Event,
    ) -> federation_pb2.UploadUpdateResponse:
        """Streams an encoded update and waits for the server's word that it counts.

        Raises AioRpcError, TimeoutError, or WorkCancelledError before the last byte was sent.
        """
        trailer = model_pb2.StreamTrailer(xxh3_128=header.xxh3_128)
        with self._dialler.line() as line:
            call = line.upload(
                timeout=longest_transfer(len(payload)), metadata=calls.current().metadata()
            )
            try:
                if await _written(call, federation_pb2.UploadUpdateRequest(header=header)):
                    offset = await _granted(call)
                    if offset is not None:
                        await self._send(call, payload, offset, cancelled)
                        await _written(call, federation_pb2.UploadUpdateRequest(trailer=trailer))
                        await _ended(call)
                return await call
            finally:
                call.cancel()

    async def _send(
        self, call: UploadCall, payload: memoryview, offset: int, cancelled: threading.Event
    ) -> None:
        for start in range(offset, len(payload), CHUNK_BYTES):
            _check(cancelled)
            chunk = payload[start : start + CHUNK_BYTES]
            if not await _written(call, framed(chunk)):
                return
            self._moved("upload", len(chunk))

    async def _received(
        self,
        call: DownloadCall,
        version: Expected,
        receiver: Receiver,
        cancelled: threading.Event,
    ) -> torch.Tensor:
        header = await _part(call)
        if isinstance(header, memoryview) or not header.HasField("header"):
            raise BrokenStreamError("the download does not begin with its header")
        version.check(header.header)
        receiver.begin(header.header.num_bytes, header.header.offset)
        while isinstance(part := await _part(call), memoryview):
            _check(cancelled)
            receiver.add(part)
            self._moved("download", len(part))
        if not part.HasField("trailer"):
            raise BrokenStreamError(f"the download has {part.WhichOneof('part')} out of order")
        if await _in_time(call.read()) is not aio.EOF:
            raise BrokenStreamError("the download goes on after its trailer")
        return receiver.finish(part.trailer.xxh3_128)


async def _part(call: DownloadCall) -> federation_pb2.DownloadModelResponse | memoryview:
    part = await _in_time(call.read())
    if not isinstance(part, federation_pb2.DownloadModelResponse | memoryview):
        raise BrokenStreamError("the download ended before its trailer")
    return part


async def _granted(call: UploadCall) -> int | None:
    """The byte to send from, once the server lets the upload begin; the call's deadline bounds it.

    None if it was refused: nothing may be written then, since gRPC would take the failed write for
    the call's outcome and lose the server's reason.
    """
    value = (await call.initial_metadata()).get(OFFSET_KEY)
    return None if value is None else int(value)


async def _written(call: UploadCall, request: federation_pb2.UploadUpdateRequest | bytes) -> bool:
    """False once the server has ended the call; awaiting the call then tells why."""
    try:
        await _in_time(call.write(request))
    except (aio.AioRpcError, asyncio.InvalidStateError):
        return False
    return True


async def _ended(call: UploadCall) -> None:
    """Ends the stream; if the call has ended just now, awaiting it tells why."""
    with contextlib.suppress(Exception):  # an error of grpcio's own, which has no public name
        await call.done_writing()


async def _in_time(step: Awaitable[T]) -> T:
    try:
        async with asyncio.timeout(MESSAGE_SECONDS):
            return await step
    except TimeoutError as error:
        raise TimeoutError(f"no bytes moved for {MESSAGE_SECONDS:.0f} s") from error


def _check(cancelled: threading.Event) -> None:
    if cancelled.is_set():
        raise WorkCancelledError("the work no longer counts")
