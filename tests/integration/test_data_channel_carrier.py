"""The client's choice between the data channel and gRPC, over real sockets."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import torch
from support.cutting_proxy import cutting_proxy
from support.data_served import HOST, DataServed, data_served
from support.served import eventually

from client import data_channel
from client.carrier import MOST_BREAKS, Carrier
from client.connection import Connection
from client.dialler import Dialler
from client.metrics import ClientMetrics
from client.transfer import Transfer
from fednot.data_messages import framed
from fednot.identity.folder import Credentials, read_credentials
from fednot.tensors import as_bytes
from fednot.v1 import data_channel_pb2, model_pb2

NARROW = 200
SENT = 'fednot_data_channel_bytes_total{direction="sent"}'
RECEIVED = 'fednot_data_channel_bytes_total{direction="received"}'
ALL_RECEIVED = 'fednot_transfer_bytes_total{direction="received"}'


@pytest.fixture(params=["plaintext", "tls"])
async def served(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[DataServed]:
    async with data_served(tmp_path, tls=request.param == "tls", width=NARROW) as found:
        await found.give_work("c1")
        yield found


@pytest.fixture
async def plain(tmp_path: Path) -> AsyncIterator[DataServed]:
    async with data_served(tmp_path, width=NARROW) as found:
        await found.give_work("c1")
        yield found


class Client:
    """The parts of a client that move bytes."""

    def __init__(self, served: DataServed, clock: Callable[[], float], *, wanted: bool) -> None:
        folder = served.folder("c1")
        self.shown: Credentials | None = read_credentials(folder) if folder else None
        self.served = served
        self.never = threading.Event()
        self.dialler = Dialler(f"{HOST}:{served.listeners.ports[0]}", self.shown)
        self.connection = Connection(self.dialler.address, ClientMetrics.fresh())
        self.carrier = Carrier(
            Transfer(self.dialler, self.connection.moved),
            self.dialler.address,
            lambda: self.shown,
            self.connection.moved,
            data_channel=wanted,
            clock=clock,
        )

    async def download(self) -> torch.Tensor:
        request, receiver = self.served.request(), self.served.receiver()
        expected = self.served.expected()
        return await self.connection.call(
            lambda: self.carrier.download(request, expected, receiver, self.never)
        )

    async def download_at(self, moment: float, clock: Clock) -> None:
        """For another piece of work than the last."""
        clock.now, self.carrier._left_out = moment, ""
        assert torch.equal(await self.download(), self.served.flat)

    async def upload(self, update: torch.Tensor) -> int:
        header, payload = self.served.header(update), as_bytes(update)
        answer = await self.connection.call(
            lambda: self.carrier.upload(header, payload, self.never)
        )
        return answer.round


class Clock:
    """Goes on by `step` each time it is asked, which it is before and after a failed dial."""

    def __init__(self, step: float) -> None:
        self.now, self.step = 0.0, step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


class Stranger:
    """Answers each connection with the same bytes, whatever it is asked, and hangs up."""

    def __init__(self, listener: socket.socket, answer: bytes) -> None:
        self.dials = 0
        self.port = int(listener.getsockname()[1])
        self._listener, self._answer = listener, answer

    def serve(self) -> None:
        while True:
            try:
                accepted, _ = self._listener.accept()
            except OSError:
                return
            self.dials += 1
            with accepted:
                accepted.recv(1 << 16)
                if self._answer:
                    accepted.sendall(self._answer)
                else:
                    accepted.recv(1)


@contextmanager
def answering(answer: bytes) -> Iterator[Stranger]:
    """A stranger; one without an answer waits until the other side hangs up."""
    with socket.create_server((HOST, 0)) as listener:
        made = Stranger(listener, answer)
        thread = threading.Thread(target=made.serve)
        thread.start()
        yield made
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(5)


@asynccontextmanager
async def client_of(
    served: DataServed, clock: Callable[[], float] = time.monotonic, *, wanted: bool = True
) -> AsyncIterator[Client]:
    made = Client(served, clock, wanted=wanted)
    try:
        yield made
    finally:
        made.carrier.close()
        await made.dialler.close()


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that is held, so that nobody else listens on it either."""
    with socket.socket() as silent:
        silent.bind((HOST, 0))
        yield int(silent.getsockname()[1])


async def test_all_goes_over_the_data_channel_that_the_server_has(served: DataServed) -> None:
    update = served.update()
    async with client_of(served) as client:
        client.carrier.joined(served.port)
        assert torch.equal(await client.download(), served.flat)
        assert await client.upload(update) == 1
    assert served.metric(SENT) == served.metric(RECEIVED) == update.numel()
    assert torch.equal(served.counted[0], update)


@pytest.mark.parametrize("wanted", [True, False])
async def test_all_goes_over_grpc_without_one_or_if_none_is_wanted(
    plain: DataServed, wanted: bool
) -> None:
    async with client_of(plain, wanted=wanted) as client:
        client.carrier.joined(0 if wanted else plain.port)
        assert torch.equal(await client.download(), plain.flat)
        assert await client.upload(plain.update()) == 1
    assert plain.metric(SENT) == plain.metric(RECEIVED) == 0
    assert plain.metric(ALL_RECEIVED) == plain.flat.numel()


async def test_a_port_that_is_closed_is_told_once_in_a_session_and_left_out(
    served: DataServed, closed_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    def told() -> list[str]:
        return [row.message for row in caplog.records if "go over gRPC" in row.message]

    async with client_of(served) as client:
        client.carrier.joined(closed_port)
        for _ in range(2):
            assert torch.equal(await client.download(), served.flat)
        assert len(told()) == 1
        assert "Connection refused" in told()[0]
        client.carrier.joined(closed_port)
        assert torch.equal(await client.download(), served.flat)
        assert await client.upload(served.update()) == 1
        assert len(told()) == 2
    assert served.metric(SENT) == 0


async def test_a_server_that_does_not_answer_costs_a_twentieth_of_the_time(
    plain: DataServed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dial costs 0.2 s here, so the next one may come after 4 s: 20 times as long."""
    monkeypatch.setattr(data_channel, "MESSAGE_SECONDS", 0.2)
    clock = Clock(0.2)
    with answering(b"") as stranger:
        async with client_of(plain, clock) as client:
            client.carrier.joined(stranger.port)
            for later, dials in ((0.0, 1), (4.0, 1), (4.5, 2)):
                await client.download_at(later, clock)
                await eventually("it dialled", lambda n=dials: stranger.dials == n)
    assert plain.metric(SENT) == 0


async def test_a_client_that_stood_still_while_it_dialled_does_without_for_minutes_only(
    plain: DataServed,
) -> None:
    """No transfer of so few bytes takes more than a minute: the hour was no price of the dial."""
    clock = Clock(3600.0)
    with answering(b"nothing") as stranger:
        async with client_of(plain, clock) as client:
            client.carrier.joined(stranger.port)
            await client.download_at(0.0, clock)
            clock.step = 0.0
            for minutes, dials in ((19, 1), (25, 2)):
                await client.download_at(2 * 3600.0 + 60 * minutes, clock)
                await eventually("it dialled", lambda n=dials: stranger.dials == n)


async def test_what_answers_something_else_is_left_out(plain: DataServed) -> None:
    """An HTTP server, say: its first bytes would be a size that no message has."""
    with answering(b"HTTP/1.1 400 Bad Request\r\n\r\n") as stranger:
        async with client_of(plain) as client:
            client.carrier.joined(stranger.port)
            assert torch.equal(await client.download(), plain.flat)
    assert (stranger.dials, plain.metric(SENT)) == (1, 0)


async def test_one_that_breaks_again_and_again_before_a_byte_moved_is_left_out(
    plain: DataServed,
) -> None:
    """It answers with a header and hangs up; each of three breaks counts fourfold."""
    header = model_pb2.ModelHeader(
        version=plain.federation.model.current.number,
        manifest_digest=plain.federation.model.manifest.digest,
        num_bytes=plain.flat.numel(),
    )
    with answering(framed(data_channel_pb2.DataResponse(header=header))) as stranger:
        async with client_of(plain) as client:
            client.carrier.joined(stranger.port)
            assert torch.equal(await client.download(), plain.flat)
    assert stranger.dials == MOST_BREAKS // 4


async def test_a_transfer_that_is_cut_half_way_goes_on_over_grpc(tmp_path: Path) -> None:
    """After the cut the proxy leads nowhere, so that the rest has to take the other way."""
    async with data_served(tmp_path) as served:
        await served.give_work("c1")
        update = served.update()
        async with (
            AsyncExitStack() as stack,
            cutting_proxy((HOST, served.port), [update.numel() // 2]) as proxy,
            client_of(served) as client,
        ):
            nowhere = stack.enter_context(answering(b"nothing"))
            client.carrier.joined(proxy.port)

            def moved(direction: str, count: int) -> None:
                client.connection.moved(direction, count)
                proxy.target = (HOST, nowhere.port)

            client.carrier._tell_moved = moved
            assert await client.upload(update) == 1
        assert 0 < served.metric(RECEIVED) < update.numel()
        assert served.metric(ALL_RECEIVED) == update.numel()
        assert torch.equal(served.counted[0], update)
