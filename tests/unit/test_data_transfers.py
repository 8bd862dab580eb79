"""One transfer of the data channel whose work ends in the middle of it."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from support.served import eventually
from support.upload_desk import Counter, counter, small_federation, update_of

from fednot import data_link
from fednot.data_link import DataLink
from fednot.data_messages import response_in
from fednot.errors import FednotError, Reason
from fednot.tensors import as_bytes
from fednot.v1 import data_channel_pb2, federation_pb2
from server.data_channel.event_loop import EventLoop
from server.data_channel.transfers import Call, Transfers
from server.services.door import Door
from server.services.downloads import DownloadDesk

SECONDS = 20.0


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Counter]:
    async with small_federation(tmp_path) as federation, counter(federation, "a") as found:
        yield found


@pytest.fixture
def ends() -> Iterator[tuple[DataLink, DataLink]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        here = socket.create_connection(listener.getsockname())
        there, _ = listener.accept()
    links = DataLink(here), DataLink(there)
    yield links
    for link in links:
        link.close()


class Interrupted(Call):
    """Calls `then` once its first answer was sent."""

    then: Callable[[], object] = staticmethod(lambda: None)

    def answer(self, response: data_channel_pb2.DataResponse) -> None:
        super().answer(response)
        then, self.then = self.then, lambda: None
        then()


def transfers(desk: Counter) -> Transfers:
    federation = desk.federation
    downloads = DownloadDesk(federation, desk.cohort)
    metrics = federation.metrics
    return Transfers(EventLoop(), Door(metrics), metrics, desk.desk, downloads)


async def test_bytes_that_come_after_the_end_of_a_round_are_told_of_it(
    desk: Counter, ends: tuple[DataLink, DataLink], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The buffer was closed with the round, and is what the thread sees first."""
    monkeypatch.setattr(data_link, "LOOK_SECONDS", SECONDS)
    update = update_of(desk.federation, 1.0)
    client, server = ends
    header = desk.header("a", update)
    serving = asyncio.create_task(
        asyncio.to_thread(transfers(desk).upload, Call(server, None), header)
    )
    raw = await asyncio.to_thread(client.receive, time.monotonic() + SECONDS)
    assert response_in(raw).grant.offset == 0
    client.send(as_bytes(update)[:8], SECONDS)
    arrivals = desk.desk._arrivals.values()
    await eventually("they are there", lambda: [each.received for each in arrivals] == [8])
    desk.work["a"][1].end()
    client.send(as_bytes(update)[8:16], SECONDS)
    with pytest.raises(FednotError) as error:
        await serving
    assert error.value.reason is Reason.ROUND_OVER


async def test_a_download_whose_round_ends_before_its_bytes_has_no_trailer(
    desk: Counter, ends: tuple[DataLink, DataLink]
) -> None:
    """Else the client takes the trailer for the first bytes of the model, and waits for more."""
    client, server = ends
    session, assignment = desk.work["a"]
    loop, call = asyncio.get_running_loop(), Interrupted(server, None)

    async def end() -> None:
        assignment.end()
        assignment.broadcast.close()

    call.then = lambda: asyncio.run_coroutine_threadsafe(end(), loop).result(SECONDS)
    message = federation_pb2.Session(client="a", id=session.id)
    request = federation_pb2.DownloadModelRequest(session=message, work_id=assignment.id)
    with pytest.raises(FednotError) as error:
        await asyncio.to_thread(transfers(desk).download, call, request)
    assert error.value.reason is Reason.ROUND_OVER
    raw = await asyncio.to_thread(client.receive, time.monotonic() + SECONDS)
    assert response_in(raw).header.num_bytes
    assert not client.has_news()
