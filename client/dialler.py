"""The channel that new calls take, and its replacement while calls are in flight."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypeVar

from fednot import chunk_messages
from fednot.channel import open_aio_channel
from fednot.identity.folder import Credentials
from fednot.v1 import deletion_pb2, federation_pb2
from fednot.v1.deletion_pb2_grpc import DeletionServiceStub
from fednot.v1.federation_pb2_grpc import FederationServiceStub
from fednot.v1.identity_pb2_grpc import IdentityServiceStub
from fednot.v1.secure_aggregation_pb2_grpc import SecureAggregationServiceStub

if TYPE_CHECKING:
    from fednot.v1.deletion_pb2_grpc import DeletionServiceAsyncStub
    from fednot.v1.federation_pb2_grpc import FederationServiceAsyncStub
    from fednot.v1.identity_pb2_grpc import IdentityServiceAsyncStub
    from fednot.v1.secure_aggregation_pb2_grpc import SecureAggregationServiceAsyncStub

CLOSE_SECONDS: Final = 2.0
UNLEARN_SECONDS: Final = 15.0

T = TypeVar("T")


def _request_bytes(request: federation_pb2.DownloadModelRequest) -> bytes:
    return request.SerializeToString()


class Line:
    """One channel, and how many calls are in flight on it.

    `upload` and `download` are the two calls that move chunks, without protobuf's copies of them.
    """

    def __init__(self, address: str, credentials: Credentials | None) -> None:
        self._channel = open_aio_channel(address, credentials)
        self.federation: FederationServiceAsyncStub = FederationServiceStub(self._channel)
        self.identity: IdentityServiceAsyncStub = IdentityServiceStub(self._channel)
        self.deletion: DeletionServiceAsyncStub = DeletionServiceStub(self._channel)
        self.masking: SecureAggregationServiceAsyncStub = SecureAggregationServiceStub(
            self._channel
        )
        self.upload: Final = self._channel.stream_unary(
            chunk_messages.UPLOAD,
            request_serializer=chunk_messages.upload_bytes,
            response_deserializer=federation_pb2.UploadUpdateResponse.FromString,
        )
        self.download: Final = self._channel.unary_stream(
            chunk_messages.DOWNLOAD,
            request_serializer=_request_bytes,
            response_deserializer=chunk_messages.download_part,
        )
        self.calls = 0

    async def close(self) -> None:
        """Closes the channel, and ends whatever is still in flight."""
        await self._channel.close(grace=None)


class Dialler:
    """Dials the server: over TLS with credentials, in plaintext without.

    Whoever calls takes the present line for one call and gives it back. A line that was replaced is
    closed when its last call has ended, which the call's own deadline bounds. It has to be made and
    used in one event loop.
    """

    def __init__(self, address: str, credentials: Credentials | None) -> None:
        self.address: Final = address
        self._line = Line(address, credentials)
        self._replaced: set[Line] = set()
        self._closing: set[asyncio.Task[None]] = set()

    @contextmanager
    def line(self) -> Iterator[Line]:
        """The present line, for the length of one call."""
        line = self._line
        line.calls += 1
        try:
            yield line
        finally:
            line.calls -= 1
            self._close_if_done(line)

    async def call(self, method: Callable[[FederationServiceAsyncStub], Awaitable[T]]) -> T:
        """Makes a call of the federation's service; its errors come through."""
        with self.line() as line:
            return await method(line.federation)

    async def mask(self, method: Callable[[SecureAggregationServiceAsyncStub], Awaitable[T]]) -> T:
        """Makes a call of secure aggregation's service; its errors come through."""
        with self.line() as line:
            return await method(line.masking)

    async def unlearn(self, request: deletion_pb2.UnlearnRequest) -> deletion_pb2.UnlearnResponse:
        """Asks for a deletion; its errors come through."""
        with self.line() as line:
            return await line.deletion.Unlearn(request, timeout=UNLEARN_SECONDS)

    def redial(self, credentials: Credentials) -> None:
        """Takes a new line from the next call on."""
        before, self._line = self._line, Line(self.address, credentials)
        self._replaced.add(before)
        self._close_if_done(before)

    async def close(self) -> None:
        """Closes every line; calls in flight are cancelled."""
        for line in (self._line, *self._replaced):
            await line.close()
        if self._closing:
            await asyncio.wait(self._closing, timeout=CLOSE_SECONDS)

    def _close_if_done(self, line: Line) -> None:
        if line.calls or line not in self._replaced:
            return
        self._replaced.discard(line)
        task = asyncio.get_running_loop().create_task(line.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
