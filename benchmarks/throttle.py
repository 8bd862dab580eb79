"""A TCP proxy on loopback that lets each connection send only so many bytes a second.

What comes back is not slowed. Its buffers are small, so that the sender feels it at once.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import socket
import time
from typing import Final

from benchmarks.processes import say

_PIECE: Final = 16 << 10
_BUFFER: Final = 64 << 10


async def _slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rate: float) -> None:
    due = time.monotonic()
    while piece := await reader.read(_PIECE):
        due = max(due, time.monotonic()) + len(piece) / rate
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        writer.write(piece)
        await writer.drain()


async def _freely(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(_PIECE * 16):
        writer.write(piece)
        await writer.drain()


async def _serve(to: str, rate: float) -> None:
    host, _, port = to.rpartition(":")

    async def carried(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            there, back = await asyncio.open_connection(host, int(port), limit=_BUFFER)
            tasks = [
                asyncio.create_task(_slowly(reader, back, rate)),
                asyncio.create_task(_freely(there, writer)),
            ]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
            back.close()
        writer.close()

    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
    server = await asyncio.start_server(carried, sock=listener, limit=_BUFFER)
    say({"port": listener.getsockname()[1]})
    async with server:
        await server.serve_forever()


def main() -> None:
    """Serves until it is ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--to", required=True, help="HOST:PORT")
    parser.add_argument("--rate", type=float, required=True, help="bytes a second")
    given = parser.parse_args()
    asyncio.run(_serve(given.to, given.rate))


if __name__ == "__main__":
    main()
