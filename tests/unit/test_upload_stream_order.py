"""The parts of an upload in any order, over several connections: what counts is whole, and once."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support.upload_desk import Counter, counter, small_federation, update_of

from fednot.errors import FednotError, Reason
from fednot.tensors import as_bytes
from fednot.v1 import federation_pb2, model_pb2
from server.services.uploads import Part, UploadStream

END = object()


class Connection:
    """One stream that is open: the machine puts parts, the server takes them."""

    def __init__(self, desk: Counter) -> None:
        self.parts: asyncio.Queue[Any] = asyncio.Queue()
        self.offset: int | None = None
        stream = UploadStream(desk.desk, desk.federation.metrics, message_timeout=30.0)
        self.task = asyncio.create_task(stream.take(self._stream(), self._announced))

    async def _announced(self, offset: int) -> None:
        self.offset = offset

    async def _stream(self) -> AsyncIterator[Part]:
        while (part := await self.parts.get()) is not END:
            yield part


class Uploads(RuleBasedStateMachine):
    """At any moment at most one connection; each may end at any part."""

    @initialize()
    def begin(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.stack = AsyncExitStack()
        self.folder = tempfile.TemporaryDirectory()
        self.connection: Connection | None = None
        self.told_counted = 0
        self.run(self._open())

    async def _open(self) -> None:
        federation = await self.stack.enter_async_context(small_federation(Path(self.folder.name)))
        self.update = update_of(federation, 0.5)
        self.model = federation.model.flat.clone()
        self.desk = await self.stack.enter_async_context(counter(federation, "a"))
        self.whole = bytes(as_bytes(self.update))

    def run(self, work: Any) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(work, 20))

    @precondition(lambda self: self.connection is None)
    @rule(resumable=st.booleans(), sound=st.sampled_from([True, True, False]))
    def connect(self, resumable: bool, sound: bool) -> None:
        changes: dict[str, Any] = {} if resumable else {"xxh3_128": ""}
        if not sound:
            changes["generation"] = 7
        header = self.desk.header("a", self.update, **changes)
        self.run(self._put(federation_pb2.UploadUpdateRequest(header=header)))

    @precondition(lambda self: self.connection is not None)
    @rule(share=st.floats(0, 1.2))
    def send(self, share: float) -> None:
        connection = self.connection
        assert connection is not None
        start = connection.offset or 0
        stop = min(len(self.whole), start + int(share * len(self.whole)))
        connection.offset = stop
        self.run(self._put(memoryview(self.whole[start:stop])))

    @rule(right=st.booleans())
    def trail(self, right: bool) -> None:
        checksum = self.desk.header("a", self.update).xxh3_128 if right else "0" * 32
        trailer = model_pb2.StreamTrailer(xxh3_128=checksum)
        self.run(self._put(federation_pb2.UploadUpdateRequest(trailer=trailer)))

    @precondition(lambda self: self.connection is not None)
    @rule()
    def hang_up(self) -> None:
        self.run(self._put(END))

    async def _put(self, part: Any) -> None:
        if self.connection is None:
            self.connection = Connection(self.desk)
        connection = self.connection
        connection.parts.put_nowait(part)
        for _ in range(200):
            await asyncio.sleep(0)
            if connection.task.done() or (part is not END and connection.parts.empty()):
                break
        await asyncio.sleep(0.005)
        if part is END or connection.task.done():
            self.connection = None
            (answer,) = await asyncio.gather(connection.task, return_exceptions=True)
            if isinstance(answer, FednotError):
                assert answer.reason is not Reason.INTERNAL
            else:
                assert answer == 1
                self.told_counted += 1

    @invariant()
    def counted_is_whole_and_once(self) -> None:
        if not hasattr(self, "desk"):
            return
        assert len(self.desk.counted) == self.told_counted <= 1
        assert all(torch.equal(found, self.update) for found in self.desk.counted)
        assert torch.equal(self.desk.federation.model.flat, self.model)

    def teardown(self) -> None:
        if not hasattr(self, "loop"):
            return
        if self.connection is not None:
            self.run(self._put(END))
        if not self.told_counted:
            self.run(self._whole_in_the_end())
        self.run(self.stack.aclose())
        self.loop.close()
        self.folder.cleanup()

    async def _whole_in_the_end(self) -> None:
        """Whatever came before, no slot is taken and a whole upload counts."""
        whole = self.desk.whole("a", self.update)
        (answer,) = await asyncio.gather(whole, return_exceptions=True)
        if isinstance(answer, FednotError):
            assert answer.reason is Reason.WRONG_CHECKSUM
            answer = await self.desk.whole("a", self.update)
        assert answer == 1


TestUploads = Uploads.TestCase
TestUploads.settings = settings(max_examples=40, stateful_step_count=12, deadline=None)
