"""A real server and real clients, processes on loopback over mutual TLS, as the demonstration has.

Operations are not counted, since clients work out of sight; bytes are those of models and updates
by the rounds that the state tells, so a method's own steps are not among them.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final, TypeVar

from google.protobuf.duration_pb2 import Duration
from sqlalchemy import Connection

from fednot.cli.failures import CliError
from fednot.cli.output import Format, Output
from fednot.cli.session import Session as Caller
from fednot.demo.identities import HOST, Identities
from fednot.demo.processes import Process, ProcessError, free_port
from fednot.identity.subject import Role
from fednot.v1 import deletion_pb2, operator_pb2
from lab.costs import Costs
from lab.engines.engine import ANSWER_SECONDS, LabError, Opening, Session
from lab.federation import ask_of, defaults_of, run_of
from lab.scene import PROBES, TASK
from server.records import DeletionAsk, Round
from server.state import round_rows, version_rows
from server.state.database import Database

T = TypeVar("T")

POLL: Final = 1.0
START_SECONDS: Final = 300.0
HEARTBEAT_SECONDS: Final = 20.0
"""Who is not heard for three of these is given up, and its round done again from other seeds; that
a process has ended is seen without."""
MOST_ROUNDS: Final = 100_000
_ENDED: Final = (
    deletion_pb2.JOB_PHASE_COMPLETED,
    deletion_pb2.JOB_PHASE_FAILED,
    deletion_pb2.JOB_PHASE_CANCELLED,
)


class OverGrpc:
    """The engine of production's own processes."""

    name = "grpc"

    @asynccontextmanager
    async def opened(self, opening: Opening) -> AsyncIterator[Session]:
        """A server and its clients, until the end of the block."""
        with tempfile.TemporaryDirectory(prefix="fednot-lab-") as folder, ExitStack() as stack:
            yield Processes(opening, Path(folder), stack)


class Processes:
    """The server's process, those of the clients that are not gone, and who calls the server."""

    def __init__(self, opening: Opening, folder: Path, stack: ExitStack) -> None:
        self.costs = Costs({}, counted=False)
        self._opening = opening
        self._folder = folder
        self._stack = stack
        self._address = f"{HOST}:{free_port()}"
        self._identities = Identities(folder / "authority")
        self._spec = folder / "base.json"
        self._spec.write_text(opening.scene.spec.model_dump_json(), encoding="utf-8")
        self._processes: list[Process] = []

    async def train(self) -> None:
        """Trains the base to its end. Raises LabError if that fails."""
        await self._told(self._train)

    async def forget(self) -> str:
        """Deletes the client that is next and returns the job's id, the server being stopped."""
        return await self._told(self._forget)

    async def _told(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.to_thread(work)
        except (ProcessError, CliError) as error:
            raise LabError(str(error)) from error

    def _train(self) -> None:
        run = run_of(self._opening.scene)
        request = operator_pb2.StartTrainingRequest(rounds=run.rounds)
        request.policy.min_clients = run.policy.min_clients
        request.policy.quorum = run.policy.quorum
        request.policy.deadline.CopyFrom(Duration(seconds=int(run.policy.deadline)))
        request.config.update(dict(run.config))
        with self._serving() as session:
            session.call(session.operator.StartTraining, request)
            until = time.monotonic() + ANSWER_SECONDS * run.rounds
            while True:
                self._check(until)
                status = session.call(session.operator.GetStatus, operator_pb2.GetStatusRequest())
                self._opening.told(status.run.rounds_done)
                if status.run.state == operator_pb2.RUN_STATE_COMPLETED:
                    break
                if status.run.state != operator_pb2.RUN_STATE_ACTIVE:
                    raise LabError(f"the base was not trained: {status.run.failure}")
                time.sleep(POLL)
        self._count("")

    def _forget(self) -> str:
        ask = ask_of(self._opening)
        with self._serving() as session:
            deletion = session.call(session.deletions.Unlearn, _request(ask)).deletion
            until = time.monotonic() + ANSWER_SECONDS * (ask.policy.max_rounds + 10)
            request = deletion_pb2.GetDeletionRequest(request_id=ask.request_id)
            while deletion.job.phase not in _ENDED:
                self._check(until)
                time.sleep(POLL)
                deletion = session.call(session.deletions.GetDeletion, request).deletion
                self._opening.told(sum(len(each.rounds) for each in deletion.job.attempts))
        if deletion.job.phase != deletion_pb2.JOB_PHASE_COMPLETED:
            raise LabError(f"the deletion of {ask.client} failed: {deletion.job.failure}")
        self._count(deletion.job.id)
        return str(deletion.job.id)

    @contextmanager
    def _serving(self) -> Iterator[Caller]:
        """Starts all processes, and stops the server at the end of the block."""
        server = Process(self._server_arguments(), self._opening.folder.parent / "server.log")
        self._stack.callback(server.stop)
        self._processes = [server]
        gone = self._opening.gone[:-1]
        names = [name for name in self._opening.scene.clients if name not in gone]
        for name in names:
            log = self._opening.folder.parent / f"client-{name}.log"
            client = Process(self._client_arguments(name), log)
            self._stack.callback(client.stop)
            self._processes.append(client)
        role = Role.OPERATOR if self._opening.cell is None else Role.OFFICER
        caller = self._caller(role)
        try:
            self._await_clients(len(names))
            yield caller
        finally:
            caller.close()
            server.stop()

    def _caller(self, role: Role) -> Caller:
        credentials = self._identities.credentials(role)
        output = Output(Format.TABLE)
        return Caller(self._address, credentials=credentials, timeout=60.0, output=output)

    def _await_clients(self, count: int) -> None:
        until = time.monotonic() + START_SECONDS
        operator = self._caller(Role.OPERATOR)
        try:
            while self._connected(operator) < count:
                self._check(until)
                time.sleep(POLL)
        finally:
            operator.close()

    def _connected(self, operator: Caller) -> int:
        try:
            status = operator.call(operator.operator.GetStatus, operator_pb2.GetStatusRequest())
        except CliError as error:
            if error.lost:
                return -1
            raise
        return status.clients_connected

    def _check(self, until: float) -> None:
        for process in self._processes:
            process.check()
        if time.monotonic() > until:
            raise LabError(f"not over in time; see the logs in {self._opening.folder.parent}")

    def _server_arguments(self) -> list[str]:
        opening, defaults = self._opening, defaults_of(self._opening)
        state, spec = opening.folder, opening.scene.spec
        told = ["server", "--identity", str(self._identities.server), "--address", self._address]
        told += ["--http-address", "", "--state-dir", str(state)]
        told += ["--heartbeat-interval", str(HEARTBEAT_SECONDS)]
        told += ["--accumulator", "float64", "--seed", str(defaults.seed), "--quorum", "1.0"]
        told += ["--keep-versions", str(defaults.keep_versions), "--log-level", "info"]
        told += ["--recovery-momentum", str(defaults.recovery_momentum)]
        told += ["--keep-updates", str(spec.keep_updates)]
        told += ["--verify" if opening.undo else "--no-verify"]
        if opening.undo:
            told += ["--probes", str(state / PROBES), "--verification-examples", str(spec.examples)]
        forget = ",".join(opening.gone or opening.scene.targets[:1])
        return [*told, *self._task(f"forget={forget}")]

    def _client_arguments(self, name: str) -> list[str]:
        told = ["client", "--identity", str(self._identities.client(name)), "--device", "cpu"]
        told += ["--server", self._address, "--http-address", "", "--poll-wait", "2"]
        return [*told, "--state-dir", str(self._folder / name), *self._task(f"client={name}")]

    def _task(self, more: str) -> list[str]:
        return ["--task", TASK, "--task-arg", f"base={self._spec}", "--task-arg", more]

    def _count(self, job_id: str) -> None:
        """Counts the bytes of the rounds of a job, of training for "", from what the state says."""

        def command(connection: Connection) -> list[tuple[Round, int]]:
            found = []
            for played in round_rows.list_rounds(connection, 0, MOST_ROUNDS):
                version = version_rows.get_version(connection, played.base_version)
                if played.job_id == job_id and version is not None:
                    found.append((played, version.num_bytes))
            return found

        database = Database(self._opening.folder / "state.sqlite3")
        try:
            rounds = database.read_now(command)
        finally:
            database.close()
        for played, size in rounds:
            passes = 2 * len(played.cohort) - len(played.missing)
            self.costs.add_bytes(played.base_version, passes * size)


def _request(ask: DeletionAsk) -> deletion_pb2.UnlearnRequest:
    policy = ask.policy
    request = deletion_pb2.UnlearnRequest(
        request_id=ask.request_id,
        scope=deletion_pb2.Scope(client=ask.client),
        method=ask.method,
        layers=ask.layers,
        allow_unsafe_layers=ask.allow_unsafe_layers,
        recovery=deletion_pb2.RecoveryPolicy(
            min_rounds=policy.min_rounds,
            max_rounds=policy.max_rounds,
            tolerance=policy.tolerance,
            plateau_rounds=policy.plateau_rounds,
            full_budget=policy.full_budget,
            chance_rounds=policy.chance_rounds,
            min_clients=policy.min_clients,
        ),
    )
    request.recovery.round_deadline.CopyFrom(Duration(seconds=int(policy.round_deadline)))
    return request
