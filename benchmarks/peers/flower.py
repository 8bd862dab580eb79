"""Flower's older bidirectional gRPC as a contestant."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Final, Self

from benchmarks.contest import Work
from benchmarks.measuring import Memory, MemoryWatch
from benchmarks.peers.venvs import python_of
from benchmarks.processes import Child, await_port, free_port

PACKAGES: Final = ("flwr==1.41.0", "numpy")
ROUND_SECONDS: Final = 120.0
QUIET: Final = {"FLWR_TELEMETRY_ENABLED": "0"}


class FlowerGrpc:
    """`start_server` and `start_client`: one server process, a process for each client."""

    name = "Flower, older gRPC"

    def __init__(self, work: Work) -> None:
        self._work = work
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        python = str(python_of("flower", *PACKAGES))
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            port = free_port()
            arguments = [
                *("--address", f"127.0.0.1:{port}", "--clients", str(self._work.clients)),
                *("--bytes", str(self._work.nbytes)),
            ]
            module = [python, "-m", "benchmarks.peers.flower_grpc"]
            self._server = Child("flower-server", [*module, "serve", *arguments], folder, QUIET)
            stack.callback(self._server.end)
            await_port(self._server, port)
            self._watch = stack.enter_context(MemoryWatch(self._server.pid))
            clients = Child("flower-clients", [*module, "send", *arguments], folder, QUIET)
            stack.callback(clients.end)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def rounds(self, count: int) -> list[float]:
        """Does so many rounds; the first of all waits for the clients, too."""
        self._server.tell(str(count))
        seconds: list[float] = self._server.hear((count + 1) * ROUND_SECONDS)
        return seconds

    def memory(self) -> Memory:
        """The server's."""
        return self._watch.memory()
