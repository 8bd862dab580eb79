"""A server with a data channel in the test's process, and clients of it; work is given by hand."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import torch
from support.identities import Identities
from support.upload_desk import header_of, small_federation

from client.data_channel import DataChannel
from client.transfer import Expected
from fednot.identity.folder import read_credentials
from fednot.identity.subject import Role
from fednot.tensors import as_bytes
from fednot.v1 import federation_pb2
from fednot.wire import Receiver
from fednot.zoo import Mlp
from server.cohorts.cohort import Update, WorkKind, WorkPlan
from server.cohorts.remote import Assignment, RemoteCohort, Session
from server.coordinator import Coordinator
from server.federation import Federation
from server.identity import ServerIdentity, open_identity
from server.listeners import Listeners
from server.records import RoundPhase
from server.settings import ServerSettings

HOST = "127.0.0.1"
ANY_PORT = f"{HOST}:0"
WIDTH = 2000
"""A layer of 4 million weights: 16 MB, more than the sockets of a connection hold."""
EXAMPLES = 10


@dataclass
class DataServed:
    """`work` is what each client has to do, `counted` the updates that came to the round."""

    federation: Federation
    cohort: RemoteCohort
    listeners: Listeners
    identities: Identities | None
    identity: ServerIdentity | None
    work: dict[str, tuple[Session, Assignment]] = field(default_factory=dict)
    counted: list[torch.Tensor] = field(default_factory=list)
    hold: asyncio.Event = field(default_factory=asyncio.Event)
    round: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        return self.listeners.data.port

    @property
    def flat(self) -> torch.Tensor:
        return self.federation.model.flat

    async def give_work(self, *names: str) -> None:
        """Opens sessions and a round; the round settles what comes once `hold` is set."""
        self.hold.set()
        model = self.federation.model
        sessions = [Session(name, EXAMPLES, 0, "cpu", time.monotonic()) for name in names]
        for session in sessions:
            self.cohort.open(session)
        plan = WorkPlan(
            WorkKind.TRAIN, 1, RoundPhase.TRAINING, model.current, model.flat, names, 60.0
        )
        self.round = asyncio.create_task(self._settle(plan))
        for session in sessions:
            assignment = await self.cohort.next_assignment(session.client, 5)
            assert assignment is not None
            self.work[session.client] = (session, assignment)

    async def end_round(self) -> None:
        if self.round is not None:
            self.round.cancel()
            await asyncio.gather(self.round, return_exceptions=True)

    async def _settle(self, plan: WorkPlan) -> None:
        async with aclosing(self.cohort.work(plan)) as answers:
            async for answer in answers:
                if isinstance(answer, Update):
                    await self.hold.wait()
                    self.counted.append(answer.payload.tensor.clone())
                    answer.settle(None)

    def folder(self, name: str, role: Role = Role.CLIENT) -> Path | None:
        return self.identities.of(role, name) if self.identities else None

    def channel(
        self, name: str = "c1", role: Role = Role.CLIENT, port: int | None = None
    ) -> DataChannel:
        """A data channel with the certificate of a caller."""
        folder = self.folder(name, role)
        shown = read_credentials(folder) if folder else None
        return DataChannel(HOST, port or self.port, lambda: shown, lambda *_: None)

    def request(self, name: str = "c1") -> federation_pb2.DownloadModelRequest:
        session, assignment = self.work[name]
        message = federation_pb2.Session(client=name, id=session.id)
        return federation_pb2.DownloadModelRequest(session=message, work_id=assignment.id)

    def receiver(self) -> Receiver:
        return Receiver(self.federation.model.manifest)

    def expected(self) -> Expected:
        model = self.federation.model
        return Expected(model.current.number, model.manifest.digest)

    def header(
        self, update: torch.Tensor, name: str = "c1", **changes: object
    ) -> federation_pb2.UpdateHeader:
        return header_of(self.federation.model, self.work[name], update, **changes)

    def update(self, seed: int = 0) -> torch.Tensor:
        draw = torch.Generator().manual_seed(seed)
        return torch.randn(self.flat.numel() // 4, generator=draw).view(torch.uint8)

    def metric(self, sample: str) -> float:
        text, _ = self.federation.metrics.render()
        rows = [line for line in text.decode().splitlines() if line.startswith(sample + " ")]
        return float(rows[0].removeprefix(sample)) if rows else 0.0


async def download(served: DataServed, channel: DataChannel, name: str = "c1") -> torch.Tensor:
    never = threading.Event()
    return await channel.download(served.request(name), served.expected(), served.receiver(), never)


async def upload(
    served: DataServed, channel: DataChannel, update: torch.Tensor, name: str = "c1"
) -> int:
    never = threading.Event()
    answer = await channel.upload(served.header(update, name), as_bytes(update), never)
    return answer.round


@asynccontextmanager
async def data_served(
    folder: Path, *, tls: bool = False, width: int = WIDTH, **more: object
) -> AsyncIterator[DataServed]:
    """Listeners with a data channel; `more` are settings."""
    identities = Identities(folder) if tls else None
    settings = _settings(folder, identities, more)
    cohort = RemoteCohort(lapse=60.0)
    module = Mlp(in_features=width, hidden=(width,), num_classes=2)
    async with small_federation(folder, module) as federation:
        identity = None
        if settings.identity_folder is not None:
            identity = open_identity(settings.identity_folder, settings.revocations, None)
        listeners = Listeners(settings, federation, Coordinator(federation), cohort, identity)
        await listeners.start()
        looking = asyncio.create_task(identity.run() if identity else asyncio.sleep(0))
        found = DataServed(federation, cohort, listeners, identities, identity)
        try:
            with patch("server.identity.LOOK_EVERY", 0.1):
                yield found
        finally:
            await found.end_round()
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
            await listeners.stop()


def _settings(
    folder: Path, identities: Identities | None, more: dict[str, object]
) -> ServerSettings:
    how: dict[str, object] = {"insecure": True}
    if identities is not None:
        lists = identities.authority.directory / "revoked.pem"
        how = {"identity": identities.server, "revocations": lists}
    return ServerSettings.model_validate(
        {
            "address": ANY_PORT,
            "data_address": ANY_PORT,
            "stop_grace": 0.1,
            "model": folder / "none",
            "state_dir": folder,
            **how,
            **more,
        }
    )
