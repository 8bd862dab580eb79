"""A link between a client and the server that a test cuts, or on which nothing moves any more."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from support.cutting_proxy import PART, CuttingProxy


@dataclass
class Link(CuttingProxy):
    """A proxy of which a test sees in its own thread what passes, and stops it.

    With `stall_after` everything stops once so many bytes have passed since that was set, counted
    to the client with `downstream`, else to the server. The connections stay open meanwhile.
    """

    stalled: bool = False
    stall_after: int | None = None

    async def _let_through(self, size: int, *, upstream: bool) -> None:
        self._count_down(size, upstream=upstream)
        while self.stalled:  # noqa: ASYNC110 - another thread says so
            await asyncio.sleep(0.01)

    def _count_down(self, size: int, *, upstream: bool) -> None:
        if self.stall_after is None or upstream is self.downstream:
            return
        self.stall_after -= size
        if self.stall_after <= 0:
            self.stalled, self.stall_after = True, None

    def resume(self) -> None:
        """Lets everything move again."""
        self.stalled, self.stall_after = False, None

    @property
    def flags(self) -> tuple[str, str]:
        """What makes a client dial this link."""
        return ("--server", f"127.0.0.1:{self.port}")


@contextmanager
def link_to(port: int, cuts: Sequence[int] = (), *, downstream: bool = False) -> Iterator[Link]:
    """A link to a port of this machine, which works in a thread of its own."""
    link = Link(("127.0.0.1", port), list(cuts), downstream)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def in_loop(work: Callable[[], None]) -> None:
        done = threading.Event()

        def run() -> None:
            work()
            done.set()

        loop.call_soon_threadsafe(run)
        done.wait(10)

    serving = asyncio.start_server(link.serve, "127.0.0.1", 0, limit=PART)
    server = asyncio.run_coroutine_threadsafe(serving, loop).result(10)
    link.port = server.sockets[0].getsockname()[1]
    try:
        yield link
    finally:
        in_loop(lambda: _close(server, link))
        asyncio.run_coroutine_threadsafe(_drain(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def _close(server: asyncio.Server, link: Link) -> None:
    server.close()
    link.resume()
    for writer in link._open:
        writer.transport.abort()


async def _drain() -> None:
    """Ends what still passes bytes on, so that the loop leaves no task behind."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
