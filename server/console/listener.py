"""The console's address: a thread with an event loop of its own, so that handshakes, slow browsers
and pages take no turn of the loop on which rounds and deletions run.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from typing import Final

import uvicorn
from starlette.types import ASGIApp
from uvicorn.server import ServerState

from fednot.tls_contexts import browsers_context
from server.console.protocol import MOST_HEADERS, ConsoleProtocol
from server.data_channel.listener import listening
from server.identity import ServerIdentity
from server.present_context import PresentContext
from server.state.database import StateError

MOST_CONNECTIONS: Final = 64
HANDSHAKE_SECONDS: Final = 10.0
GOODBYE_SECONDS: Final = 2.0
KEEP_ALIVE_SECONDS: Final = 15
_END_SECONDS: Final = 5.0
_ACCEPT_PAUSE: Final = 0.1

log = logging.getLogger("server.console")


class ConsoleListener:
    """Serves an application from `start` to `stop`, over TLS with the server's identity; in
    plaintext without one. At most MOST_CONNECTIONS are open; more are closed at once.
    """

    def __init__(self, identity: ServerIdentity | None) -> None:
        self.port = 0
        self._context = PresentContext(identity, browsers_context)
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._state = ServerState()
        self._handshakes: set[asyncio.Task[None]] = set()

    async def start(self, address: str, application: ASGIApp, grace: float) -> None:
        """Listens on HOST:PORT. Raises StateError if that cannot be.

        `grace` is how many seconds requests get to end at the stop.
        """
        try:
            listener = listening(address)
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            raise StateError(
                f"cannot serve the console on {address}: {why}; is the port taken?"
            ) from error
        listener.setblocking(False)
        self.port = listener.getsockname()[1]
        begun = threading.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(listener, application, grace, begun)),
            name="fednot-console",
            daemon=True,
        )
        self._thread.start()
        await asyncio.to_thread(begun.wait, _END_SECONDS)

    async def stop(self, grace: float) -> None:
        """Takes no more connections, gives requests `grace` seconds, and cuts the rest."""
        thread, self._thread = self._thread, None
        if thread is None or self._loop is None or self._stopping is None:
            return
        with contextlib.suppress(RuntimeError):  # it has ended
            self._loop.call_soon_threadsafe(self._stopping.set)
        await asyncio.to_thread(thread.join, grace + _END_SECONDS)
        if thread.is_alive():
            log.warning("the console did not end")

    async def _serve(
        self,
        listener: socket.socket,
        application: ASGIApp,
        grace: float,
        begun: threading.Event,
    ) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        config = _config(application)
        accepting = asyncio.create_task(self._accept(listener, config))
        begun.set()
        await self._stopping.wait()
        accepting.cancel()
        await asyncio.gather(accepting, *self._cancelled_handshakes(), return_exceptions=True)
        listener.close()
        await self._say_goodbye(grace)

    async def _say_goodbye(self, grace: float) -> None:
        for connection in list(self._state.connections):
            connection.shutdown()
        if self._state.tasks:
            await asyncio.wait(self._state.tasks, timeout=grace)
        for connection in list(self._state.connections):
            if isinstance(connection, ConsoleProtocol):
                connection.transport.abort()

    def _cancelled_handshakes(self) -> list[asyncio.Task[None]]:
        for each in self._handshakes:
            each.cancel()
        return list(self._handshakes)

    async def _accept(self, listener: socket.socket, config: uvicorn.Config) -> None:
        running = asyncio.get_running_loop()
        while True:
            try:
                accepted, _ = await running.sock_accept(listener)
            except OSError as error:  # no file handle is free, say
                log.warning("no connection to the console can be accepted: %s", error)
                await asyncio.sleep(_ACCEPT_PAUSE)
                continue
            if len(self._handshakes) + len(self._state.connections) >= MOST_CONNECTIONS:
                accepted.close()
                continue
            task = asyncio.create_task(self._welcome(accepted, config))
            self._handshakes.add(task)
            task.add_done_callback(self._handshakes.discard)

    async def _welcome(self, accepted: socket.socket, config: uvicorn.Config) -> None:
        try:
            context = self._context.present()
        except OSError as error:
            accepted.close()
            log.warning("the console has no TLS to serve with: %s", error)
            return
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: ConsoleProtocol(config, self._state, {}),
                accepted,
                ssl=context,
                ssl_handshake_timeout=HANDSHAKE_SECONDS if context else None,
                ssl_shutdown_timeout=GOODBYE_SECONDS if context else None,
            )
        except OSError as error:  # a handshake that fails or takes too long
            log.debug("a connection to the console came to nothing: %s", error)


def _config(application: ASGIApp) -> uvicorn.Config:
    config = uvicorn.Config(
        application,
        http=ConsoleProtocol,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        h11_max_incomplete_event_size=MOST_HEADERS,
    )
    config.load()
    return config
