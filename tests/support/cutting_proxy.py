"""A TCP proxy that counts what clients send and cuts their connections where it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

PART = 64 << 10
ARRIVING = 0.05
"""The seconds that what was passed on gets to arrive before a cut; else the kernel's buffers, which
grow to megabytes on loopback, decide how much of it is lost."""
LOOKS = 5
MOST_LOOKS = 100


@dataclass
class CuttingProxy:
    """Cuts the connection after each number of bytes that clients have sent since the cut before.

    `sent` counts all bytes from clients, `received` those to them; with `downstream` it is the
    bytes to the clients that cut. With `arrived`, which says how many bytes the receiver has, a cut
    waits until that has stood still over LOOKS looks, at most over MOST_LOOKS.
    """

    target: tuple[str, int]
    cuts: list[int]
    downstream: bool = False
    sent: int = 0
    received: int = 0
    port: int = 0
    cut: int = 0
    arrived: Callable[[], float] | None = None
    _since: int = 0
    _open: set[asyncio.StreamWriter] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Passes one connection on until either side, or a cut, ends it."""
        with suppress(OSError):
            other_reader, other_writer = await asyncio.open_connection(*self.target)
            self._open |= {writer, other_writer}
            await asyncio.gather(
                self._pass_on(reader, other_writer, upstream=True),
                self._pass_on(other_reader, writer, upstream=False),
            )

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, upstream: bool
    ) -> None:
        with suppress(OSError):
            while part := await reader.read(PART):
                await self._let_through(len(part), upstream=upstream)
                writer.write(part)
                await writer.drain()
                await self._count(len(part), upstream=upstream)
        writer.close()

    async def _let_through(self, size: int, *, upstream: bool) -> None:
        """Returns once so many bytes may pass."""

    async def _count(self, size: int, *, upstream: bool) -> None:
        if upstream:
            self.sent += size
        else:
            self.received += size
        if upstream is self.downstream:
            return
        self._since += size
        if self.cuts and self._since >= self.cuts[0]:
            self.cuts.pop(0)
            self.cut += 1
            self._since = 0
            await self._arrive()
            for writer in self._open:
                writer.transport.abort()
            self._open.clear()

    async def _arrive(self) -> None:
        await asyncio.sleep(ARRIVING)
        if self.arrived is None:
            return
        seen = [self.arrived()]
        while len(seen) < MOST_LOOKS and not (len(seen) >= LOOKS and len(set(seen[-LOOKS:])) == 1):
            await asyncio.sleep(ARRIVING)
            seen.append(self.arrived())


@asynccontextmanager
async def cutting_proxy(
    target: tuple[str, int], cuts: Sequence[int], *, downstream: bool = False
) -> AsyncIterator[CuttingProxy]:
    """A proxy before an address of this machine."""
    proxy = CuttingProxy(target, list(cuts), downstream)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0, limit=PART)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        for writer in proxy._open:
            writer.transport.abort()
