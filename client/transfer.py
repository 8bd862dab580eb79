"""Model bytes between client and server: a checked download, an upload, both bounded in time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import torch
from grpc import aio

from client.connection import BrokenStreamError, FinalRefusalError
from client.dialler import Dialler
from fednot.errors import FednotError
from fednot.manifest import Manifest
from fednot.tensors import as_bytes
from fednot.training import WorkCancelledError
from fednot.v1 import federation_pb2, model_pb2
from fednot.wire import Receiver, checksum, chunks

STALL_SECONDS: Final = 30.0
SLOWEST_BYTES_PER_SECOND: Final = 50_000

T = TypeVar("T")


def deadline_for(num_bytes: int) -> float:
    """Seconds that moving so many bytes may take: a minute, and 50 kB/s."""
    return 60.0 + num_bytes / SLOWEST_BYTES_PER_SECOND


class Transfer:
    """Moves flat models of one manifest; `moved` is told the direction and size of every chunk."""

    def __init__(
        self,
        dialler: Dialler,
        manifest: Manifest,
        moved: Callable[[str, int], None],
    ) -> None:
        self._dialler = dialler
        self._manifest = manifest
        self._moved = moved

    async def download(
        self,
        session: federation_pb2.Session,
        work_id: str,
        version: int,
        cancelled: threading.Event,
    ) -> torch.Tensor:
        """The flat model of the version that the work names, uint8 [manifest.nbytes].

        Raises BrokenStreamError, TimeoutError or AioRpcError, which a retry may mend;
        FinalRefusalError if the server's model has another manifest; WorkCancelledError.
        """
        request = federation_pb2.DownloadModelRequest(session=session, work_id=work_id)
        with self._dialler.line() as line:
            timeout = deadline_for(self._manifest.nbytes)
            call = line.federation.DownloadModel(request, timeout=timeout)
            try:
                return await self._received(call, version, cancelled)
            except FednotError as error:
                raise BrokenStreamError(f"the download is broken: {error.message}") from error
            finally:
                call.cancel()

    async def upload(
        self,
        header: federation_pb2.UpdateHeader,
        update: torch.Tensor,
        cancelled: threading.Event,
    ) -> federation_pb2.UploadUpdateResponse:
        """Streams an update and waits for the server's word that it counts.

        Raises AioRpcError, TimeoutError, or WorkCancelledError before the last byte was sent.
        """
        payload = as_bytes(update)
        trailer = model_pb2.StreamTrailer(xxh3_128=checksum(payload))
        with self._dialler.line() as line:
            call = line.federation.UploadUpdate(timeout=deadline_for(len(payload)))
            try:
                if await _written(call, federation_pb2.UploadUpdateRequest(header=header)):
                    await self._send(call, payload, cancelled)
                    await _written(call, federation_pb2.UploadUpdateRequest(trailer=trailer))
                await call.done_writing()
                return await call
            finally:
                call.cancel()

    async def _send(
        self,
        call: aio.StreamUnaryCall[federation_pb2.UploadUpdateRequest, Any],
        payload: memoryview,
        cancelled: threading.Event,
    ) -> None:
        for chunk in chunks(payload):
            _check(cancelled)
            if not await _written(call, federation_pb2.UploadUpdateRequest(chunk=chunk)):
                return
            self._moved("upload", len(chunk))

    async def _received(
        self,
        call: aio.UnaryStreamCall[Any, federation_pb2.DownloadModelResponse],
        version: int,
        cancelled: threading.Event,
    ) -> torch.Tensor:
        receiver = self._receiver(await _part(call, "header"), version)
        while True:
            _check(cancelled)
            part = await _part(call, "chunk", "trailer")
            if part.HasField("trailer"):
                break
            receiver.add(part.chunk)
            self._moved("download", len(part.chunk))
        if await _in_time(call.read()) is not aio.EOF:
            raise BrokenStreamError("the download goes on after its trailer")
        return receiver.finish(part.trailer.xxh3_128)

    def _receiver(self, part: federation_pb2.DownloadModelResponse, version: int) -> Receiver:
        if part.header.version != version:
            raise BrokenStreamError(
                f"version {part.header.version} came; the work is on version {version}"
            )
        if part.header.manifest_digest != self._manifest.digest:
            raise FinalRefusalError(
                "the server's model has another manifest than the one this client's Task builds; "
                "give server and client the same Task"
            )
        return Receiver(self._manifest, part.header.num_bytes)


async def _part(
    call: aio.UnaryStreamCall[Any, federation_pb2.DownloadModelResponse], *expected: str
) -> federation_pb2.DownloadModelResponse:
    part = await _in_time(call.read())
    if not isinstance(part, federation_pb2.DownloadModelResponse):
        raise BrokenStreamError("the download ended before its trailer")
    if part.WhichOneof("part") not in expected:
        raise BrokenStreamError(f"the download has {part.WhichOneof('part')} out of order")
    return part


async def _written(
    call: aio.StreamUnaryCall[federation_pb2.UploadUpdateRequest, Any],
    request: federation_pb2.UploadUpdateRequest,
) -> bool:
    """False once the server has ended the call; awaiting the call then tells why."""
    try:
        await _in_time(call.write(request))
    except (aio.AioRpcError, asyncio.InvalidStateError):
        return False
    return True


async def _in_time(step: Awaitable[T]) -> T:
    try:
        async with asyncio.timeout(STALL_SECONDS):
            return await step
    except TimeoutError as error:
        raise TimeoutError(f"no bytes moved for {STALL_SECONDS:.0f} s") from error


def _check(cancelled: threading.Event) -> None:
    if cancelled.is_set():
        raise WorkCancelledError("the work no longer counts")
