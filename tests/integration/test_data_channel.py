"""Model bytes over the data channel, in plaintext and over mutual TLS, and what cuts them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest
import torch
from grpc import aio
from sqlalchemy import select
from support.cutting_proxy import cutting_proxy
from support.data_served import HOST, DataServed, data_served, download, upload
from support.served import eventually, refusal

from client.connection import BrokenStreamError
from client.data_channel import DataChannel, NoDataChannelError
from client.dialler import Dialler
from client.transfer import Transfer
from fednot.errors import FednotError, Reason
from fednot.identity.folder import read_credentials
from fednot.identity.subject import Role
from fednot.rpc_errors import from_rpc_error
from fednot.tensors import as_bytes
from fednot.training import WorkCancelledError
from server.state import schema
from server.state.database import StateError

SECONDS = 20.0
TINY = 8
RECEIVED = 'fednot_data_channel_bytes_total{direction="received"}'

T = TypeVar("T")


@pytest.fixture(params=["plaintext", "tls"])
async def served(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[DataServed]:
    async with data_served(tmp_path, tls=request.param == "tls") as found:
        await found.give_work("c1", "c2")
        yield found


@pytest.fixture
async def over_tls(tmp_path: Path) -> AsyncIterator[DataServed]:
    async with data_served(tmp_path, tls=True) as found:
        await found.give_work("c1", "c2")
        yield found


@pytest.fixture
async def plain(tmp_path: Path) -> AsyncIterator[DataServed]:
    async with data_served(tmp_path) as found:
        await found.give_work("c1", "c2")
        yield found


class Paced(DataChannel):
    """Stops after so many bytes until it is told to go on."""

    def pause_at(self, num_bytes: int) -> None:
        self.paused, self.go_on = threading.Event(), threading.Event()
        left = [num_bytes]

        def moved(_: str, count: int) -> None:
            left[0] -= count
            if left[0] <= 0 and not self.paused.is_set():
                self.paused.set()
                self.go_on.wait(SECONDS)

        self._moved = moved


def paced(served: DataServed, name: str = "c1") -> Paced:
    folder = served.folder(name)
    shown = read_credentials(folder) if folder else None
    return Paced(HOST, served.port, lambda: shown, lambda *_: None)


async def paused(channel: Paced) -> None:
    assert await asyncio.to_thread(channel.paused.wait, SECONDS), "it never moved so much"


async def test_versions_and_updates_go_over_one_connection(served: DataServed) -> None:
    channel, update = served.channel(), served.update()
    for _ in range(2):
        assert torch.equal(await download(served, channel), served.flat)
    assert await upload(served, channel, update) == 1
    assert torch.equal(served.counted[0], update)
    assert served.metric("fednot_data_connections") == 1
    size = update.numel()
    assert served.metric('fednot_data_channel_bytes_total{direction="sent"}') == 2 * size
    assert served.metric(RECEIVED) == size
    assert served.metric('fednot_transfer_bytes_total{direction="received"}') == size
    channel.close()
    await eventually("it is gone", lambda: served.metric("fednot_data_connections") == 0)


async def test_what_is_cut_goes_on_where_it_was(served: DataServed) -> None:
    """A cut in the middle of each quarter; the proxy counts what went over the wire."""
    update, size = served.update(), served.flat.numel()
    quarters = [size // 4 + 1] * 3
    async with cutting_proxy((HOST, served.port), quarters) as proxy:
        proxy.arrived = lambda: served.metric(RECEIVED)
        channel = served.channel(port=proxy.port)
        await again(lambda: upload(served, channel, update))
        assert proxy.cut == len(quarters)
        assert proxy.sent < 1.2 * size
    assert torch.equal(served.counted[0], update)
    async with cutting_proxy((HOST, served.port), quarters, downstream=True) as proxy:
        channel, receiver = served.channel("c2", port=proxy.port), served.receiver()
        request, never = served.request("c2"), threading.Event()
        proxy.arrived = lambda: receiver.filled
        found = await again(lambda: channel.download(request, served.expected(), receiver, never))
        assert proxy.cut == len(quarters)
        assert proxy.received < 1.2 * size
    assert torch.equal(found, served.flat)


async def again(attempt: Callable[[], Awaitable[T]]) -> T:
    """Tries until it succeeds, as the client's connection does."""
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        try:
            return await attempt()
        except (BrokenStreamError, NoDataChannelError):
            await asyncio.sleep(0.02)
    raise AssertionError("it did not succeed in time")


async def test_an_upload_that_was_wrong_is_refused_and_the_connection_goes_on(
    served: DataServed,
) -> None:
    """The bytes were all read, so the next upload takes the same connection."""
    channel, update, never = served.channel(), served.update(), threading.Event()
    wrong = served.header(update, xxh3_128="0" * 32)
    found = await refusal(channel.upload(wrong, as_bytes(update), never))
    assert found.reason is Reason.WRONG_CHECKSUM
    assert served.metric('fednot_updates_total{outcome="refused"}') == 1
    assert served.metric('fednot_refusals_total{reason="WRONG_CHECKSUM"}') == 1
    kept = channel._kept
    assert await upload(served, channel, update) == 1
    assert channel._kept is kept is not None


async def test_an_upload_that_may_not_begin_sends_no_bytes(served: DataServed) -> None:
    channel, update, never = served.channel(), served.update(), threading.Event()
    header = served.header(update, generation=7)
    found = await refusal(channel.upload(header, as_bytes(update), never))
    assert found.reason is Reason.STALE_GENERATION
    assert served.metric(RECEIVED) == 0


async def test_the_end_of_a_round_cuts_uploads_and_downloads(served: DataServed) -> None:
    up, down = paced(served), paced(served, "c2")
    up.pause_at(1 << 20)
    down.pause_at(1 << 20)
    sending = asyncio.create_task(upload(served, up, served.update()))
    receiving = asyncio.create_task(download(served, down, "c2"))
    await paused(up)
    await paused(down)
    await served.end_round()
    await asyncio.sleep(0.5)
    up.go_on.set()
    down.go_on.set()
    assert (await refusal(sending)).reason is Reason.ROUND_OVER
    with pytest.raises(BrokenStreamError):
        await receiving
    assert (await refusal(download(served, served.channel("c2"), "c2"))).reason in (
        Reason.UNKNOWN_WORK,
        Reason.ROUND_OVER,
    )


async def test_a_cancelled_transfer_stops_at_once(served: DataServed) -> None:
    channel, cancelled = paced(served), threading.Event()
    channel.pause_at(1 << 20)
    update = served.update()
    sending = asyncio.create_task(
        channel.upload(served.header(update), as_bytes(update), cancelled)
    )
    await paused(channel)
    cancelled.set()
    channel.go_on.set()
    with pytest.raises(WorkCancelledError):
        await sending


async def test_a_newer_upload_takes_over_from_an_older_one(served: DataServed) -> None:
    older, update = paced(served), served.update()
    older.pause_at(4 << 20)
    sending = asyncio.create_task(upload(served, older, update))
    await paused(older)
    assert await upload(served, served.channel(), update) == 1
    older.go_on.set()
    assert (await refusal(sending)).reason in (Reason.UPLOAD_REPLACED, Reason.DUPLICATE_UPDATE)
    assert torch.equal(served.counted[0], update)


async def test_a_revoked_certificate_is_cut_while_bytes_flow(over_tls: DataServed) -> None:
    assert over_tls.identities is not None
    up, down = paced(over_tls), paced(over_tls, "c2")
    up.pause_at(1 << 20)
    down.pause_at(1 << 20)
    sending = asyncio.create_task(upload(over_tls, up, over_tls.update()))
    receiving = asyncio.create_task(download(over_tls, down, "c2"))
    await paused(up)
    await paused(down)
    for name in ("c1", "c2"):
        folder = over_tls.identities.of(Role.CLIENT, name)
        over_tls.identities.authority.revoke(read_credentials(folder).subject)
    refused = 'fednot_refusals_total{reason="CERTIFICATE_REVOKED"}'
    await eventually("both are cut", lambda: over_tls.metric(refused) == 2, 20)
    up.go_on.set()
    down.go_on.set()
    assert (await refusal(sending)).reason is Reason.CERTIFICATE_REVOKED
    with pytest.raises(BrokenStreamError):
        await receiving
    found = await refusal(upload(over_tls, over_tls.channel(), over_tls.update()))
    assert found.reason is Reason.CERTIFICATE_REVOKED
    assert not over_tls.counted


@pytest.mark.parametrize("kind", ["download", "upload"])
@pytest.mark.parametrize(
    ("role", "name", "reason"),
    [
        (Role.OPERATOR, "olga", Reason.WRONG_ROLE),
        (Role.CLIENT, "c2", Reason.NOT_YOUR_NAME),
    ],
)
async def test_what_is_refused_is_refused_as_over_grpc(
    over_tls: DataServed, kind: str, role: Role, name: str, reason: Reason
) -> None:
    data = over_tls.channel(name, role)
    found = [
        await _refused(over_tls, data, kind),
        await _refused_by_grpc(over_tls, kind, role, name),
    ]
    assert found[0].reason is reason
    assert [(e.message, e.metadata, e.code) for e in found[:1]] == [
        (e.message, e.metadata, e.code) for e in found[1:]
    ]
    assert over_tls.metric(f'fednot_refusals_total{{reason="{reason}"}}') == 2


async def _refused(served: DataServed, channel: DataChannel, kind: str) -> FednotError:
    moved = download(served, channel) if kind == "download" else None
    return await refusal(moved or upload(served, channel, served.update()))


async def _refused_by_grpc(served: DataServed, kind: str, role: Role, name: str) -> FednotError:
    folder = served.folder(name, role)
    assert folder is not None
    dialler = Dialler(f"{HOST}:{served.listeners.ports[0]}", read_credentials(folder))
    try:
        return await _refused(served, Transfer(dialler, lambda *_: None), kind)  # type: ignore[arg-type]
    finally:
        await dialler.close()


async def test_refusals_are_in_the_audit_under_the_names_of_grpc(over_tls: DataServed) -> None:
    await refusal(download(over_tls, over_tls.channel("olga", Role.OPERATOR)))
    await over_tls.listeners.refusals.flush()
    rows = await over_tls.federation.database.read(
        lambda c: c.execute(select(schema.audit.c.action, schema.audit.c.reason)).all()
    )
    assert ("FederationService.DownloadModel", "WRONG_ROLE") in [tuple(row) for row in rows]


async def test_a_server_under_another_name_is_not_spoken_to(over_tls: DataServed) -> None:
    shown = read_credentials(over_tls.identities.of(Role.CLIENT, "c1"))  # type: ignore[union-attr]
    channel = DataChannel("127.0.0.2", over_tls.port, lambda: shown, lambda *_: None)
    with pytest.raises(NoDataChannelError):
        await download(over_tls, channel)


async def test_a_client_in_plaintext_gets_nothing_of_a_server_over_tls(
    over_tls: DataServed,
) -> None:
    channel = DataChannel(HOST, over_tls.port, lambda: None, lambda *_: None)
    with pytest.raises(NoDataChannelError):
        await download(over_tls, channel)


async def test_new_credentials_are_shown_by_the_next_connection(over_tls: DataServed) -> None:
    assert over_tls.identities is not None
    shown = read_credentials(over_tls.identities.of(Role.CLIENT, "c1"))
    channel = DataChannel(HOST, over_tls.port, lambda: shown, lambda *_: None)
    await download(over_tls, channel)
    before = channel._kept
    shown = read_credentials(over_tls.identities.issue(Role.CLIENT, "c1"))
    await download(over_tls, channel)
    assert channel._kept is not before


async def test_a_renewed_identity_of_the_server_is_served_with(over_tls: DataServed) -> None:
    assert over_tls.identities is not None
    assert over_tls.identity is not None
    authority, before = over_tls.identities.authority, over_tls.identity.own
    authority.issue(before.subject, over_tls.identities.server, hosts=(HOST,))
    await over_tls.identity.refresh()
    assert over_tls.identity.own is not before
    channel = over_tls.channel()
    await download(over_tls, channel)
    kept = channel._kept
    assert kept is not None
    seen = kept.link.certificate()
    assert seen is not None
    assert seen.strip() == over_tls.identity.own.chain.strip()


async def test_a_stop_ends_idle_and_stalled_connections_soon(served: DataServed) -> None:
    idle, stalled = served.channel("c2"), paced(served)
    await download(served, idle, "c2")
    stalled.pause_at(1 << 20)
    sending = asyncio.create_task(upload(served, stalled, served.update()))
    await paused(stalled)
    await asyncio.wait_for(served.listeners.data.stop(0.2), SECONDS)
    assert served.metric("fednot_data_connections") == 0
    stalled.go_on.set()
    with pytest.raises(BrokenStreamError):
        await sending
    with pytest.raises(NoDataChannelError, match="refused"):
        await download(served, idle, "c2")


async def test_a_client_that_leaves_while_it_waits_for_a_slot_gives_its_turn_up(
    tmp_path: Path,
) -> None:
    async with data_served(tmp_path, upload_slots=1, slow_upload=0) as served:
        await served.give_work("c1", "c2")
        first, second, gone = paced(served), served.channel("c2"), threading.Event()
        first.pause_at(1 << 20)
        sending = asyncio.create_task(upload(served, first, served.update()))
        await paused(first)
        update = served.update(1)
        waiting = asyncio.create_task(
            second.upload(served.header(update, "c2"), as_bytes(update), gone)
        )
        slots = served.listeners._uploads._slots
        await eventually("the second waits", lambda: slots.waiting == 1)
        gone.set()
        with pytest.raises(WorkCancelledError):
            await waiting
        await eventually("nobody waits", lambda: slots.waiting == 0)
        first.go_on.set()
        assert await sending == 1
        assert await upload(served, second, update, "c2") == 1


async def test_a_fault_of_the_server_stays_in_its_log(
    served: DataServed, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("the secret of the house")

    monkeypatch.setattr("server.uploads.desk.check_header", broken)
    with pytest.raises(aio.AioRpcError) as caught:
        await upload(served, served.channel(), served.update())
    found = from_rpc_error(caught.value)
    assert found is not None
    assert found.reason is Reason.INTERNAL
    assert "secret" not in str(caught.value)
    assert "the secret of the house" in caplog.text


async def test_an_address_that_is_taken_is_told(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    async with data_served(tmp_path / "one", width=TINY) as first:
        taken = f"{HOST}:{first.port}"
        with pytest.raises(StateError, match="is the port taken"):
            async with data_served(tmp_path / "two", width=TINY, data_address=taken):
                pass
