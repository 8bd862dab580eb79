"""An upload over gRPC whose call ends in the midst of it."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from grpc import aio

from client.dialler import Dialler
from client.transfer import Transfer
from fednot.chunk_messages import OFFSET_KEY
from fednot.v1 import federation_pb2


class Ended:
    """A call that runs out of time once all is written; grpcio says so by an error of its own."""

    def __init__(self) -> None:
        self.written = 0

    async def initial_metadata(self) -> aio.Metadata:
        return aio.Metadata((OFFSET_KEY, "0"))

    async def write(self, _: object) -> None:
        self.written += 1

    async def done_writing(self) -> None:
        raise RuntimeError('Failed "execute_batch": SendCloseFromClientOperation')

    def cancel(self) -> None:
        """Has ended already."""

    def __await__(self) -> Generator[Any, None, None]:
        code, nothing = grpc.StatusCode.DEADLINE_EXCEEDED, aio.Metadata()
        raise aio.AioRpcError(code, nothing, nothing, details="Deadline Exceeded")
        yield


class OneCall(Dialler):
    """Has one call for whoever uploads."""

    def __init__(self, call: Ended) -> None:
        self._call = call

    @contextmanager
    def line(self) -> Iterator[Any]:
        yield self

    def upload(self, **_: object) -> Ended:
        return self._call


async def test_a_call_that_ends_before_its_stream_fails_as_any_other() -> None:
    call = Ended()
    transfer = Transfer(OneCall(call), lambda *_: None)
    header = federation_pb2.UpdateHeader()
    with pytest.raises(aio.AioRpcError) as error:
        await transfer.upload(header, memoryview(b"weights"), threading.Event())
    assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert call.written == 3, "header, chunk and trailer"
