"""Uploads that are cut or overtaken by a newer connection: what goes on and what is dropped."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from support.served import eventually
from support.upload_desk import SHORT, counter, small_federation, update_of

from fednot.errors import FednotError, Reason
from server.blocks import Block
from server.federation import Federation
from server.uploads.buffers import Buffers


@pytest.fixture
async def federation(tmp_path: Path) -> AsyncIterator[Federation]:
    async with small_federation(tmp_path) as found:
        yield found


async def test_a_cut_upload_gives_its_slot_to_one_that_waits_and_goes_on(
    federation: Federation,
) -> None:
    cut, other = update_of(federation, 1.0), update_of(federation, 2.0)
    async with counter(federation, "a", "b", slots=1, wait=5.0) as desk:
        first = await desk.open("a", cut)
        await desk.send(first, cut, 100)
        desk.desk.cut(first)
        assert desk.metric('fednot_uploads{state="cut"}') == 1
        assert await desk.whole("b", other) == 1
        again = await desk.open("a", cut)
        assert again.offset == 100
        await desk.send(again, cut)
        assert await desk.desk.finish(again, again.header.xxh3_128) == 1
    assert torch.equal(desk.counted[1], cut)


async def test_a_newer_connection_takes_an_upload_over(federation: Federation) -> None:
    """A server may not know yet that the connection before is dead."""
    update = update_of(federation, 1.0)
    async with counter(federation, "a", slots=1) as desk:
        first = await desk.open("a", update)
        await desk.send(first, update, 50)
        second = await desk.open("a", update)
        assert second.offset == 50
        with pytest.raises(FednotError) as error:
            first.check()
        assert error.value.reason is Reason.UPLOAD_REPLACED
        desk.desk.cut(first)
        await desk.send(second, update)
        assert await desk.desk.finish(second, second.header.xxh3_128) == 1


async def test_a_newer_connection_takes_the_place_of_one_that_waits(
    federation: Federation,
) -> None:
    update = update_of(federation, 1.0)
    async with counter(federation, "a", "b", slots=1, wait=5.0, slowest=0) as desk:
        holding = await desk.open("a", update)
        waiting = asyncio.create_task(desk.open("b", update))
        await asyncio.sleep(0)
        newer = asyncio.create_task(desk.open("b", update))
        await asyncio.sleep(0)
        holding.assignment.end()
        with pytest.raises(FednotError, match="a newer upload of this work has begun"):
            await waiting
        assert (await newer).offset == 0


@pytest.mark.parametrize("overtaken_by", ["a newer connection", "the end of the round"])
async def test_what_comes_while_a_buffer_is_taken_leaves_no_slot_taken(
    federation: Federation, monkeypatch: pytest.MonkeyPatch, overtaken_by: str
) -> None:
    """The buffer is taken in a thread, and the event loop goes on meanwhile."""
    update, take, held = update_of(federation, 1.0), Buffers.take, threading.Event()
    taking: list[int] = []

    def slowly(buffers: Buffers, num_bytes: int) -> Block:
        taking.append(num_bytes)
        if len(taking) == 1:
            held.wait(10)
        return take(buffers, num_bytes)

    monkeypatch.setattr(Buffers, "take", slowly)
    async with counter(federation, "a", "b", slots=2, wait=2.0, slowest=0) as desk:
        first = asyncio.create_task(desk.open("a", update))
        await eventually("its buffer is being taken", lambda: taking)
        if overtaken_by == "a newer connection":
            newer = await desk.open("a", update)
        else:
            desk.work["a"][1].end()
        held.set()
        with pytest.raises(FednotError) as refused:
            await first
        if overtaken_by == "a newer connection":
            assert refused.value.reason is Reason.UPLOAD_REPLACED
            await desk.send(newer, update)
            assert await desk.desk.finish(newer, newer.header.xxh3_128) == 1
        else:
            assert refused.value.reason is Reason.ROUND_OVER
        assert desk.metric('fednot_uploads{state="receiving"}') == 0
        assert desk.desk._slots._free._value == 2


@pytest.mark.parametrize("announced", ["", "f" * 32])
async def test_another_update_does_not_go_on_where_one_was_cut(
    federation: Federation, announced: str
) -> None:
    update = update_of(federation, 1.0)
    async with counter(federation, "a") as desk:
        first = await desk.open("a", update)
        await desk.send(first, update, 100)
        desk.desk.cut(first)
        assert (await desk.open("a", update, xxh3_128=announced)).offset == 0


async def test_a_sender_that_cannot_go_on_leaves_nothing(federation: Federation) -> None:
    update = update_of(federation, 1.0)
    async with counter(federation, "a") as desk:
        first = await desk.open("a", update, xxh3_128="")
        await desk.send(first, update, 100)
        desk.desk.cut(first)
        assert desk.metric('fednot_uploads{state="cut"}') == 0


async def test_a_stale_partial_expires(federation: Federation) -> None:
    update = update_of(federation, 1.0)
    async with counter(federation, "a", expiry=SHORT) as desk:
        first = await desk.open("a", update)
        await desk.send(first, update, 100)
        desk.desk.cut(first)
        await asyncio.sleep(2 * SHORT)
        assert (await desk.open("a", update)).offset == 0


async def test_a_partial_that_goes_on_does_not_expire(federation: Federation) -> None:
    update = update_of(federation, 1.0)
    async with counter(federation, "a", expiry=SHORT) as desk:
        first = await desk.open("a", update)
        await desk.send(first, update, 100)
        desk.desk.cut(first)
        again = await desk.open("a", update)
        await asyncio.sleep(2 * SHORT)
        assert again.offset == 100


async def test_a_partial_that_is_cut_again_is_kept_as_long_again(federation: Federation) -> None:
    """What ends the first cut's time must not end the second's."""
    update = update_of(federation, 1.0)
    async with counter(federation, "a") as desk:
        first = await desk.open("a", update)
        await desk.send(first, update, 100)
        with patch.object(asyncio.get_running_loop(), "call_later") as later:
            desk.desk.cut(first)
            again = await desk.open("a", update)
            desk.desk.cut(again)
        timers = [(call.args[1], call.args[2:]) for call in later.call_args_list]
        ends = [(call, args) for call, args in timers if call == desk.desk._drop_if_cut]
        for (call, args), kept in zip(ends, (100, 0), strict=True):
            call(*args)
            third = await desk.open("a", update)
            assert third.offset == kept
            third.held().holder = None
