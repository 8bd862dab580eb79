"""The data channel's address: who is let in, how many at once, and the end of all of them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Final

from fednot import address as addresses
from fednot.data_link import DataLink
from fednot.errors import FednotError, Reason
from fednot.tls_contexts import serving_context
from server.cohorts.remote import RemoteCohort
from server.data_channel.connection import Connection
from server.data_channel.event_loop import EventLoop
from server.data_channel.transfers import Transfers
from server.federation import Federation
from server.identity import ServerIdentity
from server.limits.callers import CallerLimits
from server.services.door import Door, Refusals
from server.services.downloads import DownloadDesk
from server.state.database import StateError
from server.uploads.desk import UploadDesk

MOST_CONNECTIONS: Final = 256
MOST_TURNED_AWAY: Final = 16
RETRY_AFTER: Final = 2.0
END_SECONDS: Final = 5.0
_BACKLOG: Final = 128
_PAUSE: Final = 0.02
_ACCEPT_PAUSE: Final = 0.1

log = logging.getLogger("server.data_channel")


class DataChannel:
    """Serves from `start` to `stop`; in plaintext without an identity.

    At most `most` are open, if it is given, and never more than MOST_CONNECTIONS: the longest idle
    one makes room for a new one, and if none is idle, the new one is told to come again.
    """

    def __init__(
        self,
        federation: Federation,
        cohort: RemoteCohort,
        uploads: UploadDesk,
        identity: ServerIdentity | None = None,
        refusals: Refusals | None = None,
        limits: CallerLimits | None = None,
        most: int | None = None,
    ) -> None:
        self.port = 0
        self._limit = most
        self._metrics = federation.metrics
        self._door = Door(federation.metrics, identity, refusals, limits=limits)
        self._uploads = uploads
        self._downloads = DownloadDesk(federation, cohort)
        self._context = _Context(identity)
        self._serving: set[Connection] = set()
        self._turning_away: set[Connection] = set()
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None

    async def start(self, address: str) -> None:
        """Listens on HOST:PORT. Raises StateError if that cannot be."""
        try:
            self._listener = _listening(address)
        except OSError as error:
            raise StateError(
                f"cannot serve the data channel on {address}: {error.strerror}; is the port taken?"
            ) from error
        self._listener.setblocking(False)
        self.port = self._listener.getsockname()[1]
        loop = EventLoop()
        transfers = Transfers(loop, self._door, self._metrics, self._uploads, self._downloads)
        self._accepting = asyncio.create_task(self._accept(self._listener, loop, transfers))

    async def stop(self, grace: float) -> None:
        """Lets no new requests in, gives those in flight `grace` seconds, and cuts the rest."""
        if self._accepting is None or self._listener is None:
            return
        self._accepting.cancel()
        await asyncio.gather(self._accepting, return_exceptions=True)
        self._listener.close()
        await self._ended(grace, lambda connection: connection.idle_since is not None)
        await self._ended(END_SECONDS, lambda _: True)
        if self._serving:
            log.warning("%d data connections did not end", len(self._serving))

    async def _ended(self, seconds: float, cut: Callable[[Connection], bool]) -> None:
        until = time.monotonic() + seconds
        while True:
            for connection in (*self._serving, *self._turning_away):
                if cut(connection):
                    connection.cut()
            if not self._serving or time.monotonic() > until:
                return
            await asyncio.sleep(_PAUSE)

    async def _accept(self, listener: socket.socket, loop: EventLoop, transfers: Transfers) -> None:
        running = asyncio.get_running_loop()
        while True:
            try:
                accepted, _ = await running.sock_accept(listener)
            except OSError as error:  # no file handle is free, say
                log.warning("no data connection can be accepted: %s", error)
                await asyncio.sleep(_ACCEPT_PAUSE)
                continue
            try:
                link = DataLink(accepted)
            except OSError:  # it has gone already
                accepted.close()
                continue
            self._welcome(
                Connection(link, self._context.present, loop, self._door, transfers), running
            )

    def _welcome(self, connection: Connection, loop: asyncio.AbstractEventLoop) -> None:
        if self._has_room():
            self._begin(self._serving, connection, connection.serve, loop)
        elif len(self._turning_away) < MOST_TURNED_AWAY:
            refusal = FednotError(
                Reason.SERVER_BUSY,
                f"{self._most} data connections are busy",
                retry_after=RETRY_AFTER,
            )
            away = self._turning_away
            self._begin(away, connection, lambda: connection.turn_away(refusal), loop)
        else:
            connection.abandon()

    @property
    def _most(self) -> int:
        return min(self._limit or MOST_CONNECTIONS, MOST_CONNECTIONS)

    def _has_room(self) -> bool:
        """Whether one more may come, for which the longest idle one goes."""
        open_now = [connection for connection in self._serving if not connection.is_cut]
        if len(open_now) < self._most:
            return True
        idle = [(since, c) for c in open_now if (since := c.idle_since) is not None]
        if not idle:
            return False
        min(idle, key=lambda pair: pair[0])[1].cut()
        return True

    def _begin(
        self,
        among: set[Connection],
        connection: Connection,
        work: Callable[[], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        def body() -> None:
            try:
                work()
            finally:
                with contextlib.suppress(RuntimeError):  # the loop has ended
                    loop.call_soon_threadsafe(self._end, among, connection)

        among.add(connection)
        try:
            threading.Thread(target=body, name="fednot-data", daemon=True).start()
        except RuntimeError as error:
            log.warning("no thread can be started for a data connection: %s", error)
            connection.abandon()
            among.discard(connection)
        self._metrics.transfers.show_connections(len(self._serving))

    def _end(self, among: set[Connection], connection: Connection) -> None:
        among.discard(connection)
        self._metrics.transfers.show_connections(len(self._serving))


class _Context:
    """What TLS serves with: made anew when the identity's files were replaced. Thread-safe."""

    def __init__(self, identity: ServerIdentity | None) -> None:
        self._identity = identity
        self._made: ssl.SSLContext | None = None
        self._made_of: object = None
        self._lock = threading.Lock()

    def present(self) -> ssl.SSLContext | None:
        """The context for the next handshake; None for plaintext."""
        if self._identity is None:
            return None
        with self._lock:
            own = self._identity.own
            if own is not self._made_of:
                self._made, self._made_of = serving_context(own), own
            return self._made


def _listening(address: str) -> socket.socket:
    host, port = addresses.split(address)
    family, _, _, _, place = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    both = family == socket.AF_INET6 and host == "::" and socket.has_dualstack_ipv6()
    return socket.create_server(place[:2], family=family, backlog=_BACKLOG, dualstack_ipv6=both)
