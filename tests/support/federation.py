"""A real federation of processes on loopback, for tests."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, Self
from urllib.request import urlopen

import grpc
import pytest
from support.forked import CLIENT, SERVER, Command, Forked
from support.identities import Identities, Stubs
from support.ports import free_port

from fednot.errors import FednotError
from fednot.identity.subject import Role
from fednot.rpc_errors import from_rpc_error
from fednot.v1 import deletion_pb2, deletion_pb2_grpc, operator_pb2, operator_pb2_grpc
from server.failpoints import ARMED

ROOT = Path(__file__).resolve().parents[2]
TASK = f"{ROOT / 'tests' / 'support' / 'small_digits.py'}:SmallDigits"
CALL = 30.0
LEAST_LOOKS = 20
"""A process that stood still for all of its time has not waited yet."""
PATIENCE = ("--verification-wait", "5")
"""How long a deletion waits for the client that it forgets, which is gone in many tests."""
OPERATOR = (Role.OPERATOR, "olga")
OFFICER = (Role.OFFICER, "dora")
ENDED = (
    deletion_pb2.JOB_PHASE_COMPLETED,
    deletion_pb2.JOB_PHASE_FAILED,
    deletion_pb2.JOB_PHASE_CANCELLED,
)


def eventually(what: str, condition: Callable[[], Any], seconds: float = 30.0) -> Any:
    """The first true value of a condition; fails the test when there is none in time."""
    until, looks = time.monotonic() + seconds, 0
    while time.monotonic() < until or looks < LEAST_LOOKS:
        looks += 1
        try:
            value = condition()
        except grpc.RpcError as error:
            value = None
            what = f"{what} (last: {error.code()})"
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError(f"not in {seconds:g} s: {what}")


def refusal(call: Callable[[], Any]) -> FednotError:
    """The reason with which the server refuses a call; fails the test if it does not."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    error = from_rpc_error(caught.value)
    assert error is not None, f"{caught.value} carries no reason"
    return error


def run_server(*flags: str) -> subprocess.CompletedProcess[str]:
    """Runs a server that is expected to end by itself."""
    return Command(SERVER, flags).ended(90)


class LocalFederation:
    """One server and its clients, each a process of its own, in a folder of a test.

    Over mutual TLS with an authority of its own, which the server signs with unless `signs` is
    False; with `insecure` over plaintext. `server_environment` is what its next start gets beside
    the environment of the tests.
    """

    def __init__(
        self,
        folder: Path,
        *,
        server_flags: tuple[str, ...] = (),
        task: bool = True,
        host: str = "127.0.0.1",
        insecure: bool = False,
        signs: bool = True,
        server_environment: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.state = folder / "server"
        self.hold = folder / "hold"
        self.fail = folder / "fail"
        self._host = host
        self.port = free_port()
        self.http_port = free_port()
        self.server_environment = dict(server_environment or {})
        self._flags = (*(("--task", TASK) if task else ()), *PATIENCE, *server_flags)
        self._processes: dict[str, Forked] = {}
        self._made = None if insecure else Identities(folder)
        self._signs = signs
        self._stubs: dict[tuple[Role, str], Stubs] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self._processes):
            self.kill(name)
        for stubs in self._stubs.values():
            stubs.channel.close()

    @property
    def identities(self) -> Identities:
        assert self._made is not None, "over plaintext nobody has an identity"
        return self._made

    def identity_of(self, role: Role, name: str) -> Path:
        """The identity folder of a caller, which is made when it is first asked for."""
        return self.identities.of(role, name)

    def stubs_for(self, role: Role, name: str) -> Stubs:
        """Stubs over a caller's own channel."""
        if (role, name) not in self._stubs:
            identity = self.identity_of(role, name) if self._made else None
            self._stubs[role, name] = Stubs.of(self.address, identity)
        return self._stubs[role, name]

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def move(self) -> None:
        """Has the server that is started next listen elsewhere, and everybody dial it there."""
        self.port = free_port()
        for stubs in self._stubs.values():
            stubs.channel.close()
        self._stubs.clear()

    def reconnect(self, role: Role, name: str) -> Stubs:
        """Stubs over a new channel, with what the caller's identity folder holds now."""
        present = self._stubs.pop((role, name), None)
        if present is not None:
            present.channel.close()
        return self.stubs_for(role, name)

    @property
    def channel(self) -> grpc.Channel:
        return self.stubs_for(*OPERATOR).channel

    @property
    def operator(self) -> operator_pb2_grpc.OperatorServiceStub:
        return self.stubs_for(*OPERATOR).operator

    @property
    def deletions(self) -> deletion_pb2_grpc.DeletionServiceStub:
        return self.stubs_for(*OFFICER).deletions

    def start_server(self, *flags: str) -> None:
        """Starts the server and waits until it answers."""
        self.launch_server(*flags)
        eventually("the server listens", self._listens, 90)
        eventually("the server answers", self.status)

    def launch_server(self, *flags: str) -> None:
        """Starts the server and waits for nothing."""
        arguments = self.server_arguments(*flags)
        self._start("server", SERVER, *arguments)

    def server_arguments(self, *flags: str) -> tuple[str, ...]:
        """What the server's command line says; `flags` come last."""
        return (
            *(*self.server_identity, "--address", f"{self._host}:{self.port}"),
            *("--http-address", f"127.0.0.1:{self.http_port}"),
            *("--state-dir", str(self.state), "--heartbeat-interval", "2"),
            *("--retry-wait", "0.1", "--stop-grace", "0.2", *self._flags, *flags),
        )

    @property
    def server_identity(self) -> tuple[str, ...]:
        """The server's flags that say with what identity it serves."""
        if self._made is None:
            return ("--insecure",)
        if self._signs:
            return ("--authority", str(self._made.authority.directory))
        return ("--identity", str(self._made.server))

    def flag(self, name: str) -> str:
        """What a flag of the server was given; "" without it."""
        return dict(pairwise(self._flags)).get(name, "")

    def run_command(self, *words: str, armed: str = "") -> subprocess.CompletedProcess[str]:
        """Runs a command of `fednot-server` on this state, which may die at a failpoint."""
        places = {"--state-dir": str(self.state)}
        places |= {name: self.flag(name) for name in ("--ledger", "--database", "--versions")}
        flags = [part for name, value in places.items() if value for part in (name, value)]
        environment = os.environ | self.server_environment | {ARMED: armed}
        return Command(SERVER, (*words, *flags), environment=environment).ended(90)

    def _listens(self) -> bool:
        """Asks the port itself, since a channel that fails waits longer before each attempt."""
        code = self.exit_code("server")
        if code is not None:
            pytest.fail(f"the server ended with {code}: {self.log('server')}")
        return self.takes_connections()

    def takes_connections(self) -> bool:
        """Whether something listens on the server's port."""
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def start_client(
        self,
        index: int,
        *task_arguments: str,
        held: bool = False,
        failing: bool = False,
        flags: tuple[str, ...] = (),
        twin: bool = False,
    ) -> str:
        """Starts the client of an index; a held one trains only once `release` was called.

        Training of a failing one raises as long as the file `fail` exists. `flags` come last, in
        place of those that they repeat. Over mutual TLS its certificate tells its name. A twin has
        the same identity and a state directory of its own; what is returned names the process.
        """
        name = f"c{index}"
        process = f"{name}-twin" if twin else name
        arguments = [f"client={index}", *task_arguments]
        if held:
            self.hold.touch()
            arguments.append(f"hold={self.hold}")
        if failing:
            arguments.append(f"fail={self.fail}")
        identity: tuple[str, ...] = ("--insecure", "--name", name)
        if self._made:
            identity = ("--identity", str(self.identity_of(Role.CLIENT, name)))
        self._start(
            process,
            CLIENT,
            *(*identity, "--server", self.address, "--http-address", ""),
            *("--state-dir", str(self.folder / process), "--device", "cpu", "--task", TASK),
            *(part for argument in arguments for part in ("--task-arg", argument)),
            *flags,
        )
        return process

    def start_plain_client(self, index: int, *flags: str) -> None:
        """Starts the client of an index with flags alone; they name its Task."""
        name = f"c{index}"
        identity = ("--identity", str(self.identity_of(Role.CLIENT, name)))
        self._start(
            name,
            CLIENT,
            *(*identity, "--server", self.address, "--http-address", ""),
            *("--state-dir", str(self.folder / name), "--device", "cpu", *flags),
        )

    def hold_from(self, number: int) -> None:
        """Holds clients back from a round on; touching `hold` in mid-run leaves it to chance."""
        self.hold.write_text(str(number))

    def release(self) -> None:
        """Lets held clients train."""
        self.hold.unlink(missing_ok=True)

    def await_connected(self, count: int) -> None:
        eventually(
            f"{count} clients are connected", lambda: self.status().clients_connected == count, 60
        )

    def train(self, rounds: int, **policy: Any) -> operator_pb2.TrainingRun:
        """Starts a run and waits for its end."""
        self.start_training(rounds, **policy)
        return self.await_run()

    def start_training(self, rounds: int, **policy: Any) -> operator_pb2.TrainingRun:
        request = operator_pb2.StartTrainingRequest(
            rounds=rounds, policy=operator_pb2.RoundPolicy(**policy)
        )
        return self.operator.StartTraining(request, timeout=CALL).run

    def await_run(self, seconds: float = 60.0) -> operator_pb2.TrainingRun:
        def ended() -> operator_pb2.TrainingRun | None:
            run = self.status().run
            return None if run.state == operator_pb2.RUN_STATE_ACTIVE else run

        found: operator_pb2.TrainingRun = eventually("the run ends", ended, seconds)
        return found

    def unlearn(
        self, client: str, request_id: str, *, method: str = "", layers: str = "", **recovery: Any
    ) -> deletion_pb2.Deletion:
        request = deletion_pb2.UnlearnRequest(
            request_id=request_id,
            scope=deletion_pb2.Scope(client=client),
            method=method,
            layers=layers,
            recovery=deletion_pb2.RecoveryPolicy(**recovery),
        )
        return self.deletions.Unlearn(request, timeout=CALL).deletion

    def deletion(self, request_id: str) -> deletion_pb2.Deletion:
        request = deletion_pb2.GetDeletionRequest(request_id=request_id)
        return self.deletions.GetDeletion(request, timeout=CALL).deletion

    def await_job(self, request_id: str, seconds: float = 90.0) -> deletion_pb2.Deletion:
        """The deletion once its job has ended."""

        def ended() -> deletion_pb2.Deletion | None:
            found = self.deletion(request_id)
            return found if found.job.phase in ENDED else None

        found: deletion_pb2.Deletion = eventually(f"deletion {request_id} ends", ended, seconds)
        return found

    def status(self) -> operator_pb2.GetStatusResponse:
        return self.operator.GetStatus(operator_pb2.GetStatusRequest(), timeout=CALL)

    def rounds(self) -> list[operator_pb2.Round]:
        """Every round, oldest first."""
        request = operator_pb2.ListRoundsRequest(page_size=1000)
        return list(reversed(self.operator.ListRounds(request, timeout=CALL).rounds))

    def versions(self) -> dict[int, Any]:
        """Every version by number."""
        request = operator_pb2.ListVersionsRequest(page_size=1000)
        found = self.operator.ListVersions(request, timeout=CALL).versions
        return {version.number: version for version in found}

    def metrics(self) -> dict[str, float]:
        """What /metrics says, by a sample's name with its labels as they are written there."""
        text = self.http("/metrics").decode()
        rows = [row.rpartition(" ") for row in text.splitlines() if not row.startswith("#")]
        return {name: float(value) for name, _, value in rows}

    def http(self, path: str) -> bytes:
        with urlopen(f"http://127.0.0.1:{self.http_port}{path}", timeout=CALL) as answer:
            body: bytes = answer.read()
        return body

    def client_info(self, name: str) -> operator_pb2.ClientInfo:
        found = self.operator.ListClients(operator_pb2.ListClientsRequest(), timeout=CALL).clients
        return next(client for client in found if client.name == name)

    def version_file(self, sha256: str) -> Path:
        return self.state / "versions" / f"{sha256}.safetensors"

    def log(self, name: str) -> str:
        """The end of a process's log."""
        return self.whole_log(name)[-3000:]

    def whole_log(self, name: str) -> str:
        path = self.folder / f"{name}.log"
        return path.read_text() if path.exists() else ""

    def pid(self, name: str) -> int:
        return self._processes[name].pid

    def kill(self, name: str, how: signal.Signals = signal.SIGKILL) -> int:
        """Ends a process by a signal and returns its exit code."""
        process = self._processes[name]
        process.send_signal(how)
        code = process.wait(60)
        del self._processes[name]
        return code

    def send(self, name: str, how: signal.Signals) -> None:
        """Sends a signal and waits for nothing."""
        self._processes[name].send_signal(how)

    def runs(self, name: str) -> bool:
        """Whether a process was started and has not ended."""
        return name in self._processes and self._processes[name].poll() is None

    def exit_code(self, name: str) -> int | None:
        return self._processes[name].poll()

    def _start(self, name: str, program: str, *arguments: str) -> None:
        log = self.folder / f"{name}.log"
        environment = os.environ | (self.server_environment if name == "server" else {})
        self._processes[name] = Forked(
            program, arguments, output=log, errors=log, environment=environment
        )
