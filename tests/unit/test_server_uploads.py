"""The upload desk: slots, slow uploads, memory and disk, what is refused."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support.served import eventually
from support.upload_desk import SHORT, counter, small_federation, update_of

from fednot.errors import FednotError, Reason
from fednot.tensors import as_bytes
from fednot.v1 import federation_pb2, model_pb2
from server.blocks import Memory
from server.federation import Federation
from server.services.uploads import Part, UploadStream
from server.uploads import upload
from server.uploads.arrival import Arrival

LIMIT = 20.0
SPILLED = "fednot_spilled_uploads_total"


@pytest.fixture
async def federation(tmp_path: Path) -> AsyncIterator[Federation]:
    async with small_federation(tmp_path) as found:
        yield found


def ignored(_offset: int) -> asyncio.Future[None]:
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    done.set_result(None)
    return done


async def parts(*found: federation_pb2.UploadUpdateRequest | memoryview) -> AsyncIterator[Part]:
    for part in found:
        yield part
    await asyncio.sleep(5)


async def test_a_complete_update_counts_and_is_the_one_that_was_sent(
    federation: Federation,
) -> None:
    update = update_of(federation, 0.5)
    async with counter(federation, "a") as desk:
        assert await desk.whole("a", update) == 1
    assert torch.equal(desk.counted[0], update)


async def test_a_sender_that_falls_silent_is_cut(federation: Federation) -> None:
    update = update_of(federation, 0.5)
    async with counter(federation, "a") as desk:
        stream = UploadStream(desk.desk, federation.metrics, message_timeout=SHORT)
        before = desk.metric('fednot_updates_total{outcome="refused"}')
        header = federation_pb2.UploadUpdateRequest(header=desk.header("a", update))
        with pytest.raises(FednotError) as error:
            await stream.take(parts(header), ignored)
        assert error.value.reason is Reason.SLOW_SENDER
        assert desk.metric('fednot_updates_total{outcome="refused"}') == before + 1
        assert desk.metric('fednot_refused_updates_total{reason="SLOW_SENDER"}') >= 1
        assert await desk.whole("a", update) == 1, "the client may send again"


async def test_a_sender_below_the_slowest_rate_is_cut_and_may_go_on(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte now and then is no silence; what came stays for the next connection."""
    monkeypatch.setattr(upload, "PACE_SECONDS", SHORT)
    update = update_of(federation, 0.5)
    raw = as_bytes(update)

    async def dripping(header: federation_pb2.UploadUpdateRequest) -> AsyncIterator[Part]:
        yield header
        for place in range(len(raw)):
            yield raw[place : place + 1]
            await asyncio.sleep(SHORT / 4)

    async with counter(federation, "a", least=1000.0) as desk:
        stream = UploadStream(desk.desk, federation.metrics)
        header = federation_pb2.UploadUpdateRequest(header=desk.header("a", update))
        with pytest.raises(FednotError, match="slowest that is taken is 1000") as error:
            await stream.take(dripping(header), ignored)
        assert error.value.reason is Reason.SLOW_SENDER
        assert error.value.retry_after
        assert await desk.whole("a", update) == 1


async def test_an_update_beyond_the_servers_limit_is_refused_by_its_header(
    federation: Federation,
) -> None:
    update = update_of(federation, 0.5)
    async with counter(federation, "a", most_bytes=len(as_bytes(update)) - 1) as desk:
        with pytest.raises(FednotError) as error:
            await desk.open("a", update)
        assert error.value.reason is Reason.UPDATE_TOO_LARGE


async def test_the_stream_tells_where_to_begin_and_goes_on_there(federation: Federation) -> None:
    update = update_of(federation, 0.5)
    raw = as_bytes(update)
    offsets: list[int] = []

    async def announce(offset: int) -> None:
        offsets.append(offset)

    async with counter(federation, "a") as desk:
        stream = UploadStream(desk.desk, federation.metrics, message_timeout=SHORT)
        header = federation_pb2.UploadUpdateRequest(header=desk.header("a", update))
        with pytest.raises(FednotError):
            await stream.take(parts(header, raw[:33]), announce)
        digest = model_pb2.StreamTrailer(xxh3_128=header.header.xxh3_128)
        trailer = federation_pb2.UploadUpdateRequest(trailer=digest)
        assert await stream.take(parts(header, raw[33:], trailer), announce) == 1
    assert offsets == [0, 33]
    assert torch.equal(desk.counted[0], update)


async def test_a_sender_without_a_slot_is_told_when_to_come_again(federation: Federation) -> None:
    update = update_of(federation, 0.5)
    async with counter(federation, "a", "b", "c", slots=1, wait=SHORT, slowest=0) as desk:
        await desk.open("a", update)
        waiting = asyncio.create_task(desk.open("b", update))
        await asyncio.sleep(0)
        assert desk.metric('fednot_uploads{state="waiting"}') == 1
        with pytest.raises(FednotError, match="1 uploads are in flight, and 1 came before") as late:
            await desk.open("c", update)
        assert late.value.reason is Reason.SERVER_BUSY
        assert late.value.retry_after
        with pytest.raises(FednotError):
            await waiting


@pytest.mark.parametrize("end", ["counted", "refused", "wrong", "cut", "over"])
async def test_a_slot_comes_free_whatever_ended_the_upload(
    federation: Federation, end: str
) -> None:
    update = update_of(federation, 0.5)
    async with counter(federation, "a", "b", slots=1, wait=2.0) as desk:
        upload = await desk.open("a", update)
        if end == "refused":
            desk.refuse = FednotError(Reason.NOT_FINITE, "NaN")
        if end in ("counted", "refused", "wrong"):
            await desk.send(upload, update)
            digest = "0" * 32 if end == "wrong" else upload.header.xxh3_128
            await asyncio.gather(desk.desk.finish(upload, digest), return_exceptions=True)
        elif end == "cut":
            await desk.send(upload, update, 8)
            desk.desk.cut(upload)
        else:
            upload.assignment.end()
        await desk.open("b", update)


async def test_uploads_wait_in_the_order_in_which_they_came(federation: Federation) -> None:
    update = update_of(federation, 0.5)
    names = ("a", "b", "c", "d")
    async with counter(federation, *names, slots=1, wait=5.0) as desk:
        await asyncio.gather(
            *(desk.whole(name, update_of(federation, at)) for at, name in enumerate(names))
        )
    firsts = [float(found[:4].view(torch.float32)[0]) for found in desk.counted]
    assert firsts == [0.0, 1.0, 2.0, 3.0]
    assert update.numel()


async def test_a_slow_upload_moves_to_disk_when_another_waits(federation: Federation) -> None:
    """At 8 bytes in 0.1 s it is far below 8 MB/s; its slot goes to the one that waits."""
    slow, fast = update_of(federation, 1.0), update_of(federation, 2.0)
    async with counter(federation, "a", "b", slots=1, wait=5.0) as desk:
        upload = await desk.open("a", slow)
        await desk.send(upload, slow, 8)
        assert not upload.held().spilled
        assert await desk.whole("b", fast) == 1
        assert upload.held().spilled
        assert desk.metric(SPILLED) == 1
        await desk.send(upload, slow)
        assert await desk.desk.finish(upload, upload.header.xxh3_128) == 1
    assert torch.equal(desk.counted[1], slow)


async def test_a_slow_upload_stays_in_memory_while_nobody_waits(federation: Federation) -> None:
    slow = update_of(federation, 1.0)
    async with counter(federation, "a", "b", slots=2) as desk:
        upload = await desk.open("a", slow)
        await desk.whole("b", slow)
        await asyncio.sleep(SHORT)
        assert not upload.held().spilled


async def test_bytes_that_come_after_the_end_touch_no_buffer(federation: Federation) -> None:
    """A thread may be about to write when its round ends; the buffer is another upload's then."""
    update = update_of(federation, 1.0)
    async with counter(federation, "a", "b", slots=1) as desk:
        late = await desk.open("a", update)
        arrival = late.check()
        desk.work["a"][1].end()
        other = await desk.open("b", update_of(federation, 2.0))
        assert other.held().block is arrival.block, "buffers are used again"
        with pytest.raises(FednotError):
            arrival.write(as_bytes(update), late)
        assert other.offset == 0


async def test_bytes_that_wait_for_the_disk_are_not_written_for_a_newer_connection(
    federation: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newer one was told where to go on; the older one's thread may begin only then."""
    update, write = update_of(federation, 1.0), Arrival.write
    raw, begun, go_on = as_bytes(update), threading.Event(), threading.Event()

    def late(arrival: Arrival, *what: Any) -> None:
        begun.set()
        assert go_on.wait(LIMIT)
        write(arrival, *what)

    async with counter(federation, "a", memory=Memory(0, tmp_path / "more")) as desk:
        monkeypatch.setattr(Arrival, "write", late)
        stream = UploadStream(desk.desk, federation.metrics)
        header = federation_pb2.UploadUpdateRequest(header=desk.header("a", update))
        older = asyncio.create_task(stream.take(parts(header, raw[:33]), ignored))
        await asyncio.to_thread(begun.wait, LIMIT)
        newer = await desk.open("a", update)
        assert newer.offset == 0
        go_on.set()
        with pytest.raises(FednotError) as error:
            await older
        assert error.value.reason is Reason.UPLOAD_REPLACED
        newer.check().write(raw, newer)
        assert await desk.desk.finish(newer, newer.header.xxh3_128) == 1
    assert torch.equal(desk.counted[0], update)


async def test_too_many_bytes_are_refused(federation: Federation) -> None:
    update = update_of(federation, 1.0)
    async with counter(federation, "a") as desk:
        upload = await desk.open("a", update)
        with pytest.raises(FednotError, match="bytes were sent") as error:
            upload.check().write(memoryview(bytes(update.numel() + 1)), upload)
        assert error.value.reason is Reason.WRONG_SIZE


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"num_bytes": 8}, Reason.WRONG_SIZE),
        ({"num_bytes": 1 << 60}, Reason.WRONG_SIZE),
        ({"codec": model_pb2.UPDATE_CODEC_INT8}, Reason.INVALID_REQUEST),
        ({"codec": 99}, Reason.INVALID_REQUEST),
        ({"num_examples": 11}, Reason.WRONG_NUM_EXAMPLES),
        ({"generation": 9}, Reason.STALE_GENERATION),
        ({"base_version": 9}, Reason.WRONG_BASE_VERSION),
        ({"manifest_digest": "x"}, Reason.MANIFEST_MISMATCH),
    ],
)
async def test_a_wrong_header_is_refused_before_it_takes_a_slot(
    federation: Federation, changes: dict[str, int | str], reason: Reason
) -> None:
    update = update_of(federation, 1.0)
    async with counter(federation, "a", "b", slots=1, wait=SHORT) as desk:
        with pytest.raises(FednotError) as error:
            await desk.open("a", update, **changes)
        assert error.value.reason is reason
        await desk.open("b", update)


async def test_beyond_the_budget_updates_arrive_on_disk(
    federation: Federation, tmp_path: Path
) -> None:
    update = update_of(federation, 1.5)
    memory = Memory(update.numel() - 1, tmp_path / "more")
    async with counter(federation, "a", memory=memory) as desk:
        upload = await desk.open("a", update)
        assert upload.held().spilled
        await desk.send(upload, update)
        assert await desk.desk.finish(upload, upload.header.xxh3_128) == 1
    assert torch.equal(desk.counted[0], update)


async def test_a_full_disk_refuses_an_upload_and_keeps_its_slot_free(
    federation: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_file: int, _start: int, _length: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    update = update_of(federation, 1.5)
    async with counter(
        federation, "a", slots=1, wait=SHORT, memory=Memory(0, tmp_path / "more")
    ) as desk:
        for _ in range(2):
            with pytest.raises(FednotError, match="No space left on device") as error:
                await desk.open("a", update)
            assert error.value.reason is Reason.SERVER_BUSY


async def test_a_refused_update_may_be_sent_again_only_with_its_verdict(
    federation: Federation,
) -> None:
    update = update_of(federation, 1.0)
    async with counter(federation, "a", "b") as desk:
        desk.refuse = FednotError(Reason.NOT_FINITE, "the update of w holds NaN or Inf")
        for _ in range(2):
            with pytest.raises(FednotError) as error:
                await desk.whole("a", update)
            assert error.value.reason is Reason.NOT_FINITE


async def test_a_buffer_is_not_used_again_before_its_update_is_settled(
    federation: Federation,
) -> None:
    """The call may end while the round still reads the update."""
    first, second = update_of(federation, 1.0), update_of(federation, 2.0)
    async with counter(federation, "a", "b", slots=1, wait=5.0) as desk:
        desk.hold.clear()
        sending = asyncio.create_task(desk.whole("a", first))
        await eventually("a's is submitted", lambda: desk.work["a"][1].answered)
        sending.cancel()
        other = asyncio.create_task(desk.whole("b", second))
        await asyncio.sleep(0.05)
        assert not other.done()
        desk.hold.set()
        await other
    assert torch.equal(desk.counted[0], first)
