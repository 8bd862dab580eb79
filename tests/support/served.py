"""The server's listeners within the test's process, over real sockets and certificates."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from unittest.mock import patch

import grpc
import pytest
from grpc import aio
from sqlalchemy import select
from support.identities import Identities
from support.small_digits import SmallDigits

from fednot.channel import CLIENT_OPTIONS, open_aio_channel
from fednot.errors import FednotError
from fednot.identity.subject import Role
from fednot.rpc_errors import from_rpc_error
from server import initial_model
from server.blocks import Memory
from server.cohorts.remote import RemoteCohort
from server.coordinator import Coordinator
from server.federation import Federation
from server.global_model import GlobalModel
from server.identity import ServerIdentity, open_identity
from server.ledger.opening import open_ledger
from server.listeners import Listeners
from server.metrics import Metrics, new_registry
from server.settings import ServerSettings
from server.state import schema
from server.state.database import Database
from server.state.stores.directory import DirectoryStore

ANY_PORT = "127.0.0.1:0"
LOOK_EVERY = 0.1
"""The seconds between two looks of the server at its identity's files; in production it is one."""
CALL = 30.0
LEAST_LOOKS = 20
"""A process that stood still for all of its time has not waited yet."""


class Served:
    """What serves, and channels to it."""

    def __init__(
        self,
        identities: Identities,
        federation: Federation,
        cohort: RemoteCohort,
        identity: ServerIdentity | None,
        listeners: Listeners,
    ) -> None:
        self.identities = identities
        self.federation = federation
        self.cohort = cohort
        self._identity = identity
        self._listeners = listeners
        self._channels: list[aio.Channel] = []

    @property
    def identity(self) -> ServerIdentity:
        assert self._identity is not None, "over plaintext the server has no identity"
        return self._identity

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._listeners.ports[0]}"

    @property
    def console_port(self) -> int:
        return self._listeners.console.port

    @property
    def enrolment_address(self) -> str:
        return f"127.0.0.1:{self._listeners.ports[1]}"

    def dial(self, role: Role | None, name: str = "") -> aio.Channel:
        """A new channel of an identity, which is issued if it is new; plaintext without a role."""
        return self.dial_with(self.identities.of(role, name) if role else None)

    def dial_with(self, identity: Path | None) -> aio.Channel:
        """A new channel with what an identity folder holds now, whatever that is."""
        if identity is None:
            return self._kept(open_aio_channel(self.address, None))
        files = ((identity / name).read_bytes() for name in ("ca.pem", "key.pem", "cert.pem"))
        tls = grpc.ssl_channel_credentials(*files)
        return self._kept(aio.secure_channel(self.address, tls, options=CLIENT_OPTIONS))

    def dial_enrolment(self, trust: bytes | None = None) -> aio.Channel:
        tls = grpc.ssl_channel_credentials(trust or self.identities.authority.trust_pem)
        return self._kept(aio.secure_channel(self.enrolment_address, tls, options=CLIENT_OPTIONS))

    async def audited(self) -> list[tuple[str, str, str, str]]:
        """Role, action, outcome and reason of every entry, once repeats were written."""
        await self._listeners.refusals.flush()
        rows = await self.federation.database.read(
            lambda c: c.execute(select(schema.audit).order_by(schema.audit.c.sequence)).all()
        )
        return [(row.role, row.action, row.outcome, row.reason) for row in rows]

    async def hang_up(self) -> None:
        for channel in self._channels:
            await channel.close()

    def _kept(self, channel: aio.Channel) -> aio.Channel:
        self._channels.append(channel)
        return channel


@asynccontextmanager
async def served(
    folder: Path, *, insecure: bool = False, signs: bool = True, **more: object
) -> AsyncIterator[Served]:
    """Listeners of a new federation, with an authority that the server signs with if `signs`."""
    identities = Identities(folder)
    settings = _settings(folder, identities, more, insecure=insecure, signs=signs)
    database = Database(folder / "state.sqlite3")
    ledger = await open_ledger(folder / "ledger.jsonl", database)
    initial = initial_model.from_task(SmallDigits(trace="no"), 0)
    cohort = RemoteCohort(lapse=30.0)
    federation = Federation(
        database=database,
        model=await GlobalModel.open(database, DirectoryStore(folder / "versions"), initial),
        cohort=cohort,
        evaluator=None,
        defaults=settings.defaults(),
        metrics=Metrics(new_registry(), "test"),
        memory=Memory(None, folder / "spill"),
        ledger=ledger,
    )
    identity = None
    if settings.identity_folder is not None:
        lists = settings.revocations
        identity = open_identity(settings.identity_folder, lists, settings.authority)
    listeners = Listeners(settings, federation, Coordinator(federation), cohort, identity)
    await listeners.start()
    looking = asyncio.create_task(identity.run() if identity else asyncio.sleep(0))
    found = Served(identities, federation, cohort, identity, listeners)
    try:
        with patch("server.identity.LOOK_EVERY", LOOK_EVERY):
            yield found
    finally:
        await found.hang_up()
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
        await listeners.stop()
        database.close()
        ledger.close()


def _settings(
    folder: Path, identities: Identities, given: dict[str, object], *, insecure: bool, signs: bool
) -> ServerSettings:
    directory = identities.authority.directory
    more: dict[str, object] = {"insecure": True}
    if not insecure and signs:
        more = {"authority": directory, "enrolment_address": ANY_PORT}
    elif not insecure:
        more = {"identity": identities.server, "revocations": directory / "revoked.pem"}
    return ServerSettings.model_validate(
        {
            "address": ANY_PORT,
            "stop_grace": 0,
            "task": "t.py:T",
            "state_dir": folder,
            **more,
            **given,
        }
    )


async def eventually(what: str, condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Waits for a condition; fails the test when it does not come true in time."""
    until, looks = time.monotonic() + seconds, 0
    while not condition():
        looks += 1
        if time.monotonic() > until and looks > LEAST_LOOKS:
            raise AssertionError(f"not in {seconds:g} s: {what}")
        await asyncio.sleep(0.05)


async def refusal(call: Awaitable[object]) -> FednotError:
    """The reason with which the server refuses a call; fails the test if it does not."""
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    error = from_rpc_error(caught.value)
    assert error is not None, f"{caught.value} carries no reason"
    return error
