"""A round of the full product: a real server process, clients that train nothing, durable state.

The server is `python -m server` with its state on the disk of `bench-out`, checks and audit as they
always are. A round is timed from the end of the one before it to its own end, as the server's list
of rounds says, so that everything in between counts: offers, broadcast, uploads, checks, the sum,
hash, files and transactions. The first round of a run is dropped.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import grpc

from benchmarks.contest import Work, contest
from benchmarks.identities import HOST, Identities
from benchmarks.measuring import Memory, MemoryWatch, connections_to
from benchmarks.models import write_model
from benchmarks.processes import ROOT, BenchmarkError, Child, await_port, free_port
from benchmarks.watched_server import VARIABLE
from fednot.channel import open_channel
from fednot.identity.folder import read_credentials
from fednot.v1 import operator_pb2, operator_pb2_grpc

OUT: Final = ROOT / "bench-out"
CALL_SECONDS: Final = 20.0
JOIN_SECONDS: Final = 120.0
DATA_SECONDS: Final = 5.0
ROUND_SECONDS: Final = 180.0
MOST_PROCESSES: Final = 8
_PAUSE: Final = 0.1


@dataclass(frozen=True)
class Variant:
    """How the product is run: `transport` is "grpc" or "data", the raw channel beside gRPC."""

    tls: bool = False
    transport: str = "grpc"
    flags: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What the tables call it."""
        how = "over mutual TLS" if self.tls else "in plaintext"
        data = ", data channel" if self.transport == "data" else ""
        return f"fednot {how}{data}"


class Federation:
    """One server and its bench clients, as a contestant."""

    def __init__(
        self,
        work: Work,
        variant: Variant | None = None,
        *,
        joining: int | None = None,
        watched: bool = False,
    ) -> None:
        """`joining` are the clients that join at once, if not all; `start_clients` adds others.

        A `watched` server writes `lag_file`, how late its event loop comes.
        """
        self._module = "benchmarks.watched_server" if watched else "server"
        self.variant = variant or Variant()
        self._joining = work.clients if joining is None else joining
        self.name = self.variant.name
        self.work = work
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        OUT.mkdir(exist_ok=True)
        with ExitStack() as stack:
            self._stack = stack
            self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=OUT)))
            self._identities = Identities(self.folder / "tls") if self.variant.tls else None
            self._start_server(stack)
            self._dial(stack)
            self._watch = stack.enter_context(MemoryWatch(self.server.pid))
            if self._joining:
                self.start_clients(self._joining)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def lag_file(self) -> Path:
        """What a watched server writes."""
        return self.folder / "lag.txt"

    def _start_server(self, stack: ExitStack) -> None:
        write_model(self.folder / "model.safetensors", self.work.nbytes)
        port = free_port()
        self.address = f"{HOST}:{port}"
        identity = ("--insecure",)
        if self._identities is not None:
            identity = ("--authority", str(self._identities.authority.directory))
        self._data_port = free_port()
        data = ()
        if self.variant.transport == "data":
            data = ("--data-address", f"{HOST}:{self._data_port}")
        self.server = Child(
            "server",
            [
                *(sys.executable, "-m", self._module, *identity, "--address", self.address),
                *("--http-address", "", "--state-dir", str(self.folder / "state")),
                *("--model", str(self.folder / "model.safetensors"), "--keep-versions", "2"),
                *("--round-retries", "0", "--log-level", "warning", *data, *self.variant.flags),
            ],
            self.folder,
            {VARIABLE: str(self.lag_file)},
        )
        stack.callback(self.server.end)
        await_port(self.server, port)
        if data:
            await_port(self.server, self._data_port, DATA_SECONDS)

    def _dial(self, stack: ExitStack) -> None:
        operator = self._identities.operator() if self._identities else None
        channel = open_channel(self.address, read_credentials(operator) if operator else None)
        stack.callback(channel.close)
        self.operator = operator_pb2_grpc.OperatorServiceStub(channel)

    def start_clients(self, count: int, *, first: int = 0, server: str = "") -> Child:
        """Starts clients, from an index on, and waits until all that were started have joined.

        `server` is the address that they dial, if not the server's own. Raises BenchmarkError.
        """
        identities = self._identities.clients(first + count) if self._identities else None
        clients = Child.module(
            f"clients-{first}",
            "benchmarks.bench_clients",
            *("--server", server or self.address, "--clients", str(count), "--first", str(first)),
            *("--processes", str(min(count, MOST_PROCESSES)), "--bytes", str(self.work.nbytes)),
            *("--folder", str(self.folder), "--record", str(self.folder / "record.jsonl")),
            *(("--identities", str(identities)) if identities else ()),
            folder=self.folder,
        )
        self._stack.callback(clients.end)
        until = time.monotonic() + JOIN_SECONDS
        while (joined := self.status().clients_connected) < first + count:
            if time.monotonic() > until or not clients.running:
                raise BenchmarkError(f"{joined} of {first + count} joined: {clients.tail()}")
            time.sleep(_PAUSE)
        return clients

    def status(self) -> operator_pb2.GetStatusResponse:
        """Where the server stands. Raises BenchmarkError if it does not answer."""
        try:
            return self.operator.GetStatus(operator_pb2.GetStatusRequest(), timeout=CALL_SECONDS)
        except grpc.RpcError as error:
            raise BenchmarkError(f"no status ({error.code()}): {self.server.tail()}") from error

    def rounds(self, count: int) -> list[float]:
        """A run of so many rounds, of which each client that joined must complete every one."""
        clients = self.status().clients_connected
        policy = operator_pb2.RoundPolicy(fraction=1, quorum=1, min_clients=clients)
        policy.deadline.FromSeconds(int(ROUND_SECONDS))
        request = operator_pb2.StartTrainingRequest(rounds=count, policy=policy)
        try:
            self.operator.StartTraining(request, timeout=CALL_SECONDS)
            self._await_end(count)
            listed = operator_pb2.ListRoundsRequest(page_size=count)
            found = self.operator.ListRounds(listed, timeout=CALL_SECONDS).rounds
        except grpc.RpcError as error:
            raise BenchmarkError(f"{error.code()}: {error.details()}") from error
        if self.variant.transport == "data" and not connections_to(self._data_port):
            raise BenchmarkError("no client used the data channel")
        return seconds_of(list(reversed(found)))

    def _await_end(self, count: int) -> None:
        until = time.monotonic() + count * ROUND_SECONDS
        while (run := self.status().run).state == operator_pb2.RUN_STATE_ACTIVE:
            if time.monotonic() > until:
                raise BenchmarkError(f"{run.rounds_done} of {count} rounds done in time")
            time.sleep(_PAUSE)
        if run.state != operator_pb2.RUN_STATE_COMPLETED:
            raise BenchmarkError(f"the run ended early: {run.failure}")

    def memory(self) -> Memory:
        """The server's."""
        return self._watch.memory()

    def record(self) -> list[dict[str, Any]]:
        """What the clients did, a row for each piece of work."""
        path = self.folder / "record.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()]


def seconds_of(rounds: list[operator_pb2.Round]) -> list[float]:
    """Seconds from the end of the round before to the end of each; oldest first.

    Raises BenchmarkError if not every client of each round counted.
    """
    found = []
    before = rounds[0].started_at.ToNanoseconds()
    for each in rounds:
        if each.outcome != operator_pb2.ROUND_OUTCOME_COMPLETED:
            missing = "; ".join(f"{one.client}: {one.reason}" for one in each.missing)
            raise BenchmarkError(f"round {each.number} is not complete; {missing}")
        ended = each.ended_at.ToNanoseconds()
        found.append((ended - before) / 1e9)
        before = ended
    return found


def bare_server_mb() -> float:
    """What an idle server has with a model of a few bytes, in MB. Raises BenchmarkError."""
    with Federation(Work(1, 0.001), joining=0) as federation:
        return federation.memory().idle


def has_data_channel() -> bool:
    """Whether this server can serve the raw data channel."""
    command = [sys.executable, "-m", "server", "--help"]
    said = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=CALL_SECONDS * 3, check=False
    )
    return "--data-address" in said.stdout


def main() -> None:
    """Measures one work; flags that it does not know go to the server."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--megabytes", type=float, default=10)
    parser.add_argument("--transport", choices=("grpc", "data"), default="grpc")
    parser.add_argument("--tls", action="store_true")
    given, flags = parser.parse_known_args()
    work = Work(given.clients, given.megabytes)
    variant = Variant(given.tls, given.transport, tuple(flags))
    for result in contest(work, [Federation(work, variant)]):
        print(result.row())


if __name__ == "__main__":
    main()
