"""Those who dial the data channel and are no good clients: they are told why, or cut in time."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import torch
from support.data_served import HOST, DataServed, data_served, download
from support.served import eventually, refusal

from client.data_channel import refused
from fednot.data_messages import MOST_BYTES, framed, response_in
from fednot.errors import Reason
from fednot.rpc_errors import from_rpc_error
from fednot.v1 import data_channel_pb2
from server.data_channel import connection, listener, transfers

CONNECTIONS = "fednot_data_connections"
SOON = 0.3
TINY = 8


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[DataServed]:
    async with data_served(tmp_path, width=TINY) as found:
        await found.give_work("c1")
        yield found


@pytest.fixture
async def over_tls(tmp_path: Path) -> AsyncIterator[DataServed]:
    async with data_served(tmp_path, width=TINY, tls=True) as found:
        await found.give_work("c1")
        yield found


class Guest:
    """A plain socket to the data channel."""

    def __init__(self, served: DataServed) -> None:
        self.socket = socket.create_connection((HOST, served.port), timeout=10)

    async def says(self, raw: bytes) -> None:
        await asyncio.to_thread(self.socket.sendall, raw)

    async def hears(self) -> bytes:
        """All that comes until the server closes the connection."""
        found = b""
        while part := await asyncio.to_thread(self._part):
            found += part
        return found

    def _part(self) -> bytes:
        try:
            return self.socket.recv(1 << 16)
        except ConnectionError:
            return b""

    async def is_told(self) -> Reason:
        """The reason of the one message that comes before the connection's end."""
        raw = await self.hears()
        (size,) = struct.unpack(">I", raw[:4])
        assert len(raw) == 4 + size
        response = response_in(raw[4:])
        assert response.HasField("refusal"), response
        error = from_rpc_error(refused(response.refusal.status))
        assert error is not None
        return error.reason

    async def sees_the_end(self) -> None:
        assert await self.hears() == b""


@pytest.mark.parametrize(
    "raw",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\xff\xff\xff\xff",
        (MOST_BYTES + 1).to_bytes(4, "big"),
        (20).to_bytes(4, "big") + b"\xff" * 20,
        (0).to_bytes(4, "big"),
    ],
)
async def test_garbage_is_told_what_it_is_and_the_connection_ends(
    served: DataServed, raw: bytes
) -> None:
    guest = Guest(served)
    await guest.says(raw)
    assert await guest.is_told() is Reason.INVALID_STREAM
    guest.socket.close()
    await eventually("it is gone", lambda: served.metric(CONNECTIONS) == 0)


async def test_garbage_in_the_place_of_a_handshake_is_cut(over_tls: DataServed) -> None:
    guest = Guest(over_tls)
    await guest.says(b"\x00" * 64)
    await guest.hears()
    await eventually("it is gone", lambda: over_tls.metric(CONNECTIONS) == 0)
    assert torch.equal(await download(over_tls, over_tls.channel()), over_tls.flat)


async def test_a_half_open_handshake_is_cut_in_time(
    over_tls: DataServed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "HANDSHAKE_SECONDS", SOON)
    await Guest(over_tls).sees_the_end()


async def test_an_idle_connection_is_closed(
    served: DataServed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "IDLE_SECONDS", SOON)
    await Guest(served).sees_the_end()


async def test_half_a_request_is_cut_in_time(
    served: DataServed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "MESSAGE_SECONDS", SOON)
    guest = Guest(served)
    await guest.says(b"\x00\x00\x00\x50half")
    await guest.sees_the_end()


async def test_a_sender_who_falls_silent_is_told_so(
    served: DataServed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfers, "MESSAGE_SECONDS", SOON)
    guest = Guest(served)
    update = served.update()
    request = data_channel_pb2.DataRequest(upload=served.header(update))
    await guest.says(framed(request) + update.numpy().tobytes()[:100])
    granted = await asyncio.to_thread(guest.socket.recv, 6)
    assert granted == framed(
        data_channel_pb2.DataResponse(grant=data_channel_pb2.UploadGrant(offset=0))
    )
    assert await guest.is_told() is Reason.SLOW_SENDER
    assert served.metric('fednot_uploads{state="cut"}') == 1


async def test_a_reader_who_takes_nothing_is_cut_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfers, "MESSAGE_SECONDS", SOON)
    async with data_served(tmp_path) as served:
        await served.give_work("c1")
        guest = Guest(served)
        await guest.says(framed(data_channel_pb2.DataRequest(download=served.request())))
        await asyncio.to_thread(guest.socket.recv, 4)  # else it might not have been let in yet
        await eventually("it is gone", lambda: served.metric(CONNECTIONS) == 0)
        assert len(await guest.hears()) < served.flat.numel()


async def test_bytes_beyond_the_announced_ones_are_no_trailer(served: DataServed) -> None:
    guest = Guest(served)
    update = served.update()
    request = data_channel_pb2.DataRequest(upload=served.header(update))
    await guest.says(framed(request) + update.numpy().tobytes() + b"\xff" * 100)
    await asyncio.to_thread(guest.socket.recv, 6)
    assert await guest.is_told() is Reason.INVALID_STREAM
    assert not served.counted


async def test_a_guest_that_hangs_up_leaves_what_it_sent_to_be_gone_on_with(
    served: DataServed,
) -> None:
    guest, update = Guest(served), served.update()
    request = data_channel_pb2.DataRequest(upload=served.header(update))
    await guest.says(framed(request) + update.numpy().tobytes()[:100])
    await asyncio.to_thread(guest.socket.recv, 6)
    received = 'fednot_data_channel_bytes_total{direction="received"}'
    await eventually("100 bytes are there", lambda: served.metric(received) == 100)
    guest.socket.close()
    await eventually("it is kept", lambda: served.metric('fednot_uploads{state="cut"}') == 1)
    again = Guest(served)
    await again.says(framed(request))
    granted = data_channel_pb2.UploadGrant(offset=100)
    wanted = framed(data_channel_pb2.DataResponse(grant=granted))
    assert await asyncio.to_thread(again.socket.recv, len(wanted)) == wanted


async def test_the_longest_idle_connection_makes_room(
    served: DataServed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "MOST_CONNECTIONS", 2)
    first = Guest(served)
    await eventually("the first is in", lambda: served.metric(CONNECTIONS) == 1)
    await asyncio.sleep(0.05)
    channel = served.channel()
    await download(served, channel)
    assert torch.equal(await download(served, served.channel()), served.flat)
    await first.sees_the_end()


async def test_one_more_than_all_busy_ones_is_told_to_come_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader who takes nothing is busy; the next one is turned away, over TLS as well."""
    monkeypatch.setattr(listener, "MOST_CONNECTIONS", 1)
    async with data_served(tmp_path, tls=True) as served:
        await served.give_work("c1")
        go_on, begun = threading.Event(), threading.Event()

        def moved(*_: object) -> None:
            begun.set()
            go_on.wait(10)

        busy = served.channel()
        busy._moved = moved
        reading = asyncio.create_task(download(served, busy))
        assert await asyncio.to_thread(begun.wait, 10)
        found = await refusal(download(served, served.channel()))
        assert found.reason is Reason.SERVER_BUSY
        assert found.retry_after == listener.RETRY_AFTER
        monkeypatch.setattr(listener, "MOST_TURNED_AWAY", 0)
        await Guest(served).sees_the_end()
        go_on.set()
        await reading


async def test_many_connections_come_and_go(served: DataServed) -> None:
    """No thread is left behind."""
    before = threading.active_count()
    channels = [served.channel() for _ in range(20)]
    found = await asyncio.gather(*(download(served, channel) for channel in channels))
    assert all(torch.equal(each, served.flat) for each in found)
    for channel in channels:
        channel.close()
    await eventually("they are gone", lambda: served.metric(CONNECTIONS) == 0)
    await eventually("no thread is left", lambda: threading.active_count() <= before + 1)
