"""The stream of an upload: parts in any order, of any content, against the real desk.

An input is a program of parts. Whatever comes, an update counts if and only if it is whole, once,
and it is the one that was sent; nothing else has changed, and no slot stays taken.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from support.upload_desk import Counter, counter, small_federation, update_of

from fednot.errors import FednotError, Reason
from fednot.tensors import as_bytes
from fednot.v1 import federation_pb2, model_pb2
from server.federation import Federation
from server.services.uploads import Part, UploadStream

MOST_PARTS: Final = 24
MOST_CHUNK: Final = 1 << 16
CHANGES: Final[tuple[dict[str, Any], ...]] = (
    {},
    {},
    {},
    {"num_examples": 0},
    {"num_examples": 1 << 40},
    {"num_bytes": 1 << 60},
    {"generation": 9},
    {"base_version": 99},
    {"work_id": "another"},
    {"manifest_digest": "x"},
    {"xxh3_128": ""},
    {"xxh3_128": "00"},
    {"codec": model_pb2.UPDATE_CODEC_MASKED},
    {"session": federation_pb2.Session(client="a", id="none")},
)


@dataclass
class Bench:
    """A federation that outlives the inputs; each input gets a desk of its own."""

    loop: asyncio.AbstractEventLoop
    federation: Federation
    update: torch.Tensor
    model: bytes


def _opened() -> Bench:
    loop = asyncio.new_event_loop()
    stack = AsyncExitStack()
    folder = tempfile.mkdtemp(prefix="fednot-fuzz-")
    opening = stack.enter_async_context(small_federation(Path(folder)))
    federation = loop.run_until_complete(opening)
    model = bytes(as_bytes(federation.model.flat))
    return Bench(loop, federation, update_of(federation, 0.5), model)


_bench: list[Bench] = []


def try_one(data: bytes) -> None:
    """Sends the parts that an input describes; a broken promise is a finding."""
    if not _bench:
        _bench.append(_opened())
    bench = _bench[0]
    bench.loop.run_until_complete(_sent(bench, data))


async def _sent(bench: Bench, data: bytes) -> None:
    async with counter(bench.federation, "a") as desk:
        sent = bytearray()
        stream = UploadStream(desk.desk, bench.federation.metrics, message_timeout=5.0)
        counted = False
        with suppress(FednotError):
            counted = await stream.take(_parts(desk, bench, data, sent), _ignored) == 1
        whole = bytes(as_bytes(bench.update))
        if counted != (len(desk.counted) == 1):
            raise AssertionError("what the sender is told is not what counts")
        if counted and bytes(as_bytes(desk.counted[0])) != whole:
            raise AssertionError("another update counts than was sent")
        if len(desk.counted) > 1:
            raise AssertionError("an update counts twice")
        if bytes(as_bytes(bench.federation.model.flat)) != bench.model:
            raise AssertionError("the model has changed")
        await _check_that_the_desk_is_free(desk, bench, counted=counted)


async def _check_that_the_desk_is_free(desk: Counter, bench: Bench, *, counted: bool) -> None:
    """Whoever comes next is served, unless its update counts already.

    It goes on where it was cut; if what came before was other bytes, it begins again.
    """
    for reason in (Reason.WRONG_CHECKSUM, None):
        try:
            async with asyncio.timeout(15):
                await desk.whole("a", bench.update)
            return
        except FednotError as error:
            if counted:
                return
            if error.reason is not reason:
                raise AssertionError(f"the next upload is refused: {error}") from error


async def _ignored(_offset: int) -> None:
    return None


async def _parts(desk: Counter, bench: Bench, data: bytes, sent: bytearray) -> AsyncIterator[Part]:
    whole = as_bytes(bench.update)
    reader = iter(data)
    for _ in range(MOST_PARTS):
        kind = next(reader, None)
        if kind is None:
            return
        if kind % 4 == 0:
            changes = CHANGES[next(reader, 0) % len(CHANGES)]
            yield federation_pb2.UploadUpdateRequest(
                header=desk.header("a", bench.update, **changes)
            )
        elif kind % 4 == 1:
            chunk = whole[len(sent) :][: _number(reader) % (len(whole) + 1)]
            sent += chunk
            yield memoryview(bytes(chunk))
        elif kind % 4 == 2:
            yield memoryview(bytes([next(reader, 0)]) * (_number(reader) % MOST_CHUNK))
        else:
            header = desk.header("a", bench.update)
            checksum = header.xxh3_128 if next(reader, 0) % 4 else "0" * 32
            trailer = model_pb2.StreamTrailer(xxh3_128=checksum)
            yield federation_pb2.UploadUpdateRequest(trailer=trailer)


def _number(reader: Iterator[int]) -> int:
    return next(reader, 0) | next(reader, 0) << 8


def seeds() -> list[bytes]:
    """A whole upload in one chunk, in two, and one without its end."""
    everything = bytes([1, 255, 255])
    return [
        bytes([0, 0, *everything, 3, 1]),
        bytes([0, 0, 1, 9, 0, *everything, 3, 1]),
        bytes([0, 0, *everything]),
        bytes([0, 5, *everything, 3, 1]),
    ]
