"""A federation whose server is killed once at a named place, and started again."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import grpc
import pytest
from support.faults.witness import Sightings
from support.federation import CALL, LocalFederation

from fednot.rpc_errors import from_rpc_error
from fednot.v1 import operator_pb2
from server.failpoints import ARMED

T = TypeVar("T")
KILLED = -9
CONNECTED = (
    operator_pb2.CLIENT_STATE_IDLE,
    operator_pb2.CLIENT_STATE_WORKING,
    operator_pb2.CLIENT_STATE_BARRED,
)
FLAGS = (
    *("--task-arg", "trace=no", "--min-clients", "2", "--destruction-wait", "0.5"),
    *("--verification-wait", "2", "--undo-rounds", "1", "--quorum", "0.6"),
)


class MortalFederation(LocalFederation):
    """Whoever calls it repeats the call until it is answered, as callers of a server do."""

    def __init__(
        self,
        folder: Path,
        place: str,
        flags: tuple[str, ...] = (),
        *,
        insecure: bool = False,
        arms_server: bool = True,
    ) -> None:
        armed = {ARMED: place} if place and arms_server else {}
        super().__init__(
            folder, server_flags=(*FLAGS, *flags), server_environment=armed, insecure=insecure
        )
        self.place = place
        self.deaths: list[int] = []
        self.sightings = Sightings()

    def begin(self) -> None:
        """Starts the server, which may die of it."""
        self.launch_server()
        self.revive()

    def revive(self, seconds: float = 60.0) -> None:
        """Starts a server that has died, unarmed now, and waits until it listens."""
        until = time.monotonic() + seconds
        while self.exit_code("server") is not None or not self.takes_connections():
            code = self.exit_code("server")
            if code is not None:
                self._note_death(code)
                self.launch_server()
            assert time.monotonic() < until, f"no server in {seconds:g} s: {self.log('server')}"
            time.sleep(0.02)

    def _note_death(self, code: int) -> None:
        self.deaths.append(code)
        if code != KILLED or len(self.deaths) > 1:
            pytest.fail(f"the server ended with {code}: {self.log('server')}")
        self.server_environment.pop(ARMED, None)
        for stubs in self._stubs.values():
            stubs.channel.close()
        self._stubs.clear()

    def persist(self, call: Callable[[], T], seconds: float = 30.0) -> T:
        """The answer of a call that is repeated as long as it is lost; what it is refused with."""
        until = time.monotonic() + seconds
        while True:
            self.revive()
            try:
                return call()
            except grpc.RpcError as error:
                if from_rpc_error(error) is not None or time.monotonic() > until:
                    raise
            time.sleep(0.02)

    def await_that(self, what: str, condition: Callable[[], Any], seconds: float = 45.0) -> Any:
        """The first true value of a condition, with all rows looked at meanwhile."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.persist(lambda: self.sightings.look(self))
            value = self.persist(condition)
            if value:
                return value
            time.sleep(0.05)
        raise AssertionError(f"not in {seconds:g} s: {what}\n{self.log('server')}")

    def await_clients(self, *names: str) -> None:
        self.await_that(
            f"{', '.join(names)} are connected",
            lambda: set(names) <= self._connected(),
        )

    def _connected(self) -> set[str]:
        found = self.operator.ListClients(operator_pb2.ListClientsRequest(), timeout=CALL).clients
        return {client.name for client in found if client.state in CONNECTED}

    def begin_run(self, rounds: int) -> None:
        """Starts a run once, however often it takes to hear that it was."""
        before = self.persist(self.status).run.id

        def started() -> bool:
            if self.status().run.id == before:
                self.start_training(rounds)
            return True

        self.persist(started)

    def run_through(self, rounds: int) -> operator_pb2.TrainingRun:
        """Trains so many rounds and gives the run at its end."""
        self.begin_run(rounds)
        return self.run_ended()

    def run_ended(self) -> operator_pb2.TrainingRun:

        def ended() -> operator_pb2.TrainingRun | None:
            run = self.status().run
            return None if run.state == operator_pb2.RUN_STATE_ACTIVE else run

        found: operator_pb2.TrainingRun = self.await_that("the run ends", ended)
        return found
