"""The limit: the same round over raw TCP sockets, without protocol, checksum, check or state.

The server sends the model from one buffer to each client and adds what each sends back to a float32
sum, by `torch.add_` with alpha, in pieces of 1 MiB as they come; the sum over the clients moves the
model. A client has its random update ready and trains nothing. A thread per client serves it.
"""

from __future__ import annotations

import argparse
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from benchmarks.contest import Result, Work, contest
from benchmarks.measuring import Memory, MemoryWatch
from benchmarks.processes import BenchmarkError, Child, fork, say

if TYPE_CHECKING:
    import torch

PIECE: Final = 1 << 20
ROUND_SECONDS: Final = 120.0
_WEIGHT: Final = 3


class TcpLimit:
    """The yardstick as a contestant."""

    name = "raw TCP"

    def __init__(self, work: Work) -> None:
        self._work = work
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            size = ("--clients", str(self._work.clients), "--bytes", str(self._work.nbytes))
            module = "benchmarks.tcp_limit"
            self._server = Child.module("tcp-server", module, "serve", *size, folder=folder)
            stack.callback(self._server.end)
            port = self._server.hear()["port"]
            self._watch = stack.enter_context(MemoryWatch(self._server.pid))
            clients = Child.module(
                "tcp-clients", module, "send", *size, "--port", str(port), folder=folder
            )
            stack.callback(clients.end)
            self._server.hear()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def rounds(self, count: int) -> list[float]:
        """Does so many rounds, each from the one before it to its own new model."""
        self._server.tell(str(count))
        seconds: list[float] = self._server.hear(count * ROUND_SECONDS)
        return seconds

    def memory(self) -> Memory:
        """The server's."""
        return self._watch.memory()


class Server:
    """Model, sum and next model, and a piece for each client."""

    def __init__(self, clients: int, nbytes: int) -> None:
        import torch

        torch.set_num_threads(1)
        self._model = torch.randn(nbytes // 4)
        self._next = torch.zeros_like(self._model)
        self._sum = torch.zeros_like(self._model)
        self._pieces = [torch.empty(PIECE // 4) for _ in range(clients)]
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._threads = ThreadPoolExecutor(clients)

    def accept(self, listener: socket.socket) -> None:
        """Waits for every client."""
        for _ in self._pieces:
            connection, _ = listener.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets.append(connection)

    def round(self) -> None:
        """Sends the model to all, adds what comes, makes the new model."""
        import torch

        list(self._threads.map(self._served, self._sockets, self._pieces))
        scale = 1 / (_WEIGHT * len(self._sockets))
        torch.add(self._model, self._sum, alpha=scale, out=self._next)
        self._model, self._next = self._next, self._model
        self._sum.zero_()

    def _served(self, connection: socket.socket, piece: torch.Tensor) -> None:
        connection.sendall(self._model.numpy().data)
        values = PIECE // 4
        for start in range(0, self._sum.numel(), values):
            into = piece[: min(values, self._sum.numel() - start)]
            receive(connection, memoryview(into.numpy().data).cast("B"))
            with self._lock:
                self._sum[start : start + into.numel()].add_(into, alpha=_WEIGHT)


def receive(connection: socket.socket, into: memoryview) -> None:
    """Fills a buffer. Raises BenchmarkError if the other side hangs up."""
    got = 0
    while got < len(into):
        count = connection.recv_into(into[got:], 0, socket.MSG_WAITALL)
        if not count:
            raise BenchmarkError(f"hung up after {got} of {len(into)} bytes")
        got += count


def _serve(clients: int, nbytes: int) -> None:
    import torch  # noqa: F401 - an idle server has it loaded

    with socket.create_server(("127.0.0.1", 0), backlog=clients) as listener:
        say({"port": listener.getsockname()[1]})
        server = Server(clients, nbytes)
        server.accept(listener)
    say({"clients": clients})
    for line in sys.stdin:
        seconds = []
        for _ in range(int(line)):
            begun = time.perf_counter()
            server.round()
            seconds.append(time.perf_counter() - begun)
        say(seconds)


def _send(port: int, nbytes: int) -> None:
    import numpy as np

    update = np.random.default_rng().standard_normal(nbytes // 4, dtype=np.float32)
    model = np.empty_like(update)
    into = memoryview(model.data).cast("B")
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            while True:
                for start in range(0, nbytes, PIECE):
                    receive(connection, into[start : start + PIECE])
                connection.sendall(update.data)
        except (BenchmarkError, OSError):
            return


def results(works: tuple[Work, ...] = (Work(8, 10),)) -> Iterator[Result]:
    """The limit for each work, alone."""
    for work in works:
        yield from contest(work, [TcpLimit(work)])


def main() -> None:
    """`serve` and `send` are its processes; without them it measures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("role", nargs="?", default="", choices=("", "serve", "send"))
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--bytes", type=int, default=10_000_000)
    parser.add_argument("--port", type=int, default=0)
    given = parser.parse_args()
    if given.role == "serve":
        _serve(given.clients, given.bytes)
    elif given.role == "send":
        import numpy  # noqa: F401 - so that the forked need not

        fork(given.clients, lambda _: _send(given.port, given.bytes))
    else:
        for result in results((Work(given.clients, given.bytes / 1e6),)):
            print(result.row())


if __name__ == "__main__":
    main()
