"""Uploads and downloads of a large model that are cut go on where they were."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from support.cutting_proxy import CuttingProxy, cutting_proxy
from support.upload_desk import small_federation

from client.connection import Connection
from client.dialler import Dialler
from client.metrics import ClientMetrics
from client.session import Session
from client.transfer import Expected, Transfer
from fednot.tensors import as_bytes
from fednot.v1 import federation_pb2
from fednot.wire import Receiver, checksum, manifest_message
from fednot.zoo import Mlp
from server.cohorts.cohort import Update, WorkKind, WorkPlan
from server.cohorts.remote import RemoteCohort
from server.coordinator import Coordinator
from server.federation import Federation
from server.listeners import Listeners
from server.records import RoundPhase
from server.settings import ServerSettings

WIDTH = 4000
"""A layer of 16 million weights: 64 MB."""
ALLOWED = 1.2
CUTS = 10
SECONDS = 60.0


@dataclass
class Server:
    """A server with a large model; `counted` is what the round was handed."""

    federation: Federation
    cohort: RemoteCohort
    port: int
    counted: list[torch.Tensor]

    def received(self) -> float:
        """The bytes of updates that came."""
        text = self.federation.metrics.render()[0].decode()
        _, _, found = text.partition('fednot_transfer_bytes_total{direction="received"} ')
        return float(found.split(maxsplit=1)[0])


@pytest.fixture(scope="module")
def big() -> Mlp:
    torch.manual_seed(0)
    return Mlp(in_features=WIDTH, hidden=(WIDTH,), num_classes=2)


@asynccontextmanager
async def serving(folder: Path, module: Mlp) -> AsyncIterator[Server]:
    settings = ServerSettings(
        insecure=True, model=folder / "none", address="127.0.0.1:0", stop_grace=0.1
    )
    cohort = RemoteCohort(lapse=60.0)
    async with small_federation(folder, module) as federation:
        listeners = Listeners(settings, federation, Coordinator(federation), cohort, None)
        await listeners.start()
        counted: list[torch.Tensor] = []
        work = asyncio.create_task(settled(federation, cohort, counted))
        try:
            yield Server(federation, cohort, listeners.ports[0], counted)
        finally:
            work.cancel()
            await listeners.stop()


async def settled(
    federation: Federation, cohort: RemoteCohort, counted: list[torch.Tensor]
) -> None:
    while not cohort.connected():
        await cohort.wait_for_change(1.0)
    model = federation.model
    plan = WorkPlan(
        WorkKind.TRAIN, 1, RoundPhase.TRAINING, model.current, model.flat, ("c1",), SECONDS
    )
    async with aclosing(cohort.work(plan)) as answers:
        async for answer in answers:
            if isinstance(answer, Update):
                counted.append(answer.payload.tensor.clone())
                answer.settle(None)


class Client:
    """The parts of a client that move bytes, behind a proxy; no trainer."""

    def __init__(self, server: Server, port: int) -> None:
        self.manifest = server.federation.model.manifest
        self.dialler = Dialler(f"127.0.0.1:{port}", None)
        self.connection = Connection(self.dialler.address, ClientMetrics.fresh())
        self.transfer = Transfer(self.dialler, self._moved)
        self.never = threading.Event()
        self.downloaded = 0

    def _moved(self, direction: str, num_bytes: int) -> None:
        self.connection.moved(direction, num_bytes)
        if direction == "download":
            self.downloaded += num_bytes

    async def join(self) -> federation_pb2.TrainWork:
        request = federation_pb2.JoinRequest(
            client="c1", manifest=manifest_message(self.manifest), num_train_examples=10
        )
        self.session = await Session.join(self.dialler, self.connection, request)
        return (await self.session.poll(10.0)).train

    async def download(self, work: federation_pb2.TrainWork) -> torch.Tensor:
        request = federation_pb2.DownloadModelRequest(
            session=self.session.message, work_id=work.work_id
        )
        expected = Expected(work.version, self.manifest.digest)
        receiver = Receiver(self.manifest)
        return await self.connection.call(
            lambda: self.transfer.download(request, expected, receiver, self.never)
        )

    async def upload(self, work: federation_pb2.TrainWork, update: torch.Tensor) -> None:
        payload = as_bytes(update)
        header = federation_pb2.UpdateHeader(
            session=self.session.message,
            work_id=work.work_id,
            base_version=work.version,
            manifest_digest=self.manifest.digest,
            num_examples=5,
            num_bytes=len(payload),
            xxh3_128=checksum(payload),
        )
        await self.connection.call(lambda: self.transfer.upload(header, payload, self.never))


def places(num_bytes: int) -> list[int]:
    """Ten random places of a transfer, as the bytes between one cut and the next."""
    draw = random.Random(4)
    found = sorted(draw.randrange(num_bytes) for _ in range(CUTS))
    return [end - start for start, end in zip([0, *found], found, strict=False)]


async def joined(server: Server, proxy: CuttingProxy) -> tuple[Client, federation_pb2.TrainWork]:
    client = Client(server, proxy.port)
    return client, await client.join()


async def test_an_upload_that_is_cut_at_ten_places_is_sent_about_once(
    tmp_path: Path, big: Mlp
) -> None:
    async with serving(tmp_path, big) as server:
        update = torch.randn(server.federation.model.flat.numel() // 4).view(torch.uint8)
        async with cutting_proxy(("127.0.0.1", server.port), []) as proxy:
            client, work = await joined(server, proxy)
            proxy.arrived = server.received
            proxy.cuts, before = places(update.numel()), proxy.sent
            begun = time.monotonic()
            await client.upload(work, update)
            print(f"{time.monotonic() - begun:.1f} s, {proxy.sent / update.numel():.3f} x")
            await client.dialler.close()
            assert proxy.cut == CUTS
            assert proxy.sent - before < ALLOWED * update.numel()
        assert torch.equal(server.counted[0], update)


async def test_a_download_that_is_cut_at_ten_places_is_sent_about_once(
    tmp_path: Path, big: Mlp
) -> None:
    async with serving(tmp_path, big) as server:
        model = server.federation.model.flat
        async with cutting_proxy(("127.0.0.1", server.port), [], downstream=True) as proxy:
            client, work = await joined(server, proxy)
            proxy.arrived = lambda: client.downloaded
            proxy.cuts, before = places(model.numel()), proxy.received
            found = await client.download(work)
            await client.dialler.close()
            assert proxy.cut == CUTS
            assert proxy.received - before < ALLOWED * model.numel()
        assert torch.equal(found, model)
