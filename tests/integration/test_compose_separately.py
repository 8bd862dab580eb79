"""deploy/compose/server.yml and client.yml as three projects, which know each other by the address
of the host only; with a user's own task, in a mounted folder and in an image of its own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path

import pytest
from support.compose import (
    IMAGES,
    START_SECONDS,
    WORK_SECONDS,
    Project,
    build_images,
    eventually,
    free_ports,
    reason_to_skip,
    run,
)

SKIP = reason_to_skip()
pytestmark = [
    pytest.mark.compose,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(SKIP is not None, reason=SKIP or ""),
]
OWN_IMAGE = "fednot-test-own"
MODEL = """
from torch import nn


def build():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
"""
TASK = """
from pathlib import Path

import torch
from my_model import build

import fednot
from fednot.data import InMemoryDataset


class MyTask(fednot.Task):
    def build_model(self):
        return build()

    def train_data(self):
        return rows(Path("/data/rows.txt").read_text())

    def test_data(self):
        return rows("0 1 2 3 4 5 6 7")


def rows(text):
    seeds = [int(word) for word in text.split()]
    inputs = torch.stack([torch.full((4,), float(seed % 2)) + seed / 100 for seed in seeds])
    labels = torch.tensor([seed % 2 for seed in seeds])
    return InMemoryDataset(inputs, labels, [f"row-{seed}" for seed in seeds])
"""
DOCKERFILE = f"""
FROM {IMAGES["client"]}
COPY my_task.py my_model.py /app/
ENV PYTHONPATH=/app
"""


@dataclass(frozen=True)
class Machines:
    """The server's project, and those of two clients."""

    server: Project
    clients: dict[str, Project]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What a user has: a task with a module beside it, and on each client's machine some data."""
    made = {name: tmp_path_factory.mktemp(name) for name in ("task", "clinic-a", "clinic-b")}
    (made["task"] / "my_task.py").write_text(TASK)
    (made["task"] / "my_model.py").write_text(MODEL)
    (made["task"] / "Dockerfile").write_text(DOCKERFILE)
    (made["clinic-a"] / "rows.txt").write_text(" ".join(str(i) for i in range(100, 140)))
    (made["clinic-b"] / "rows.txt").write_text(" ".join(str(i) for i in range(200, 240)))
    for folder in made.values():
        folder.chmod(0o755)
        folder.parent.chmod(0o755)
    return made


def bridge_address() -> str:
    """The address of this machine that containers reach: an engine names the bridge's network, and
    its gateway, the first address in there, only once it was started again.
    """
    (found,) = json.loads(run("docker", "network", "inspect", "bridge"))
    config = found["IPAM"]["Config"][0]
    return str(config.get("Gateway") or next(ip_network(config["Subnet"]).hosts()))


def projects(folders: dict[str, Path], identities: Path) -> Machines:
    grpc, enrolment, data, metrics = free_ports(4)
    shared = {
        "FEDNOT_HOST": bridge_address(),
        "FEDNOT_TASK": "my_task.py:MyTask",
        "FEDNOT_TASK_FOLDER": str(folders["task"]),
        "FEDNOT_ENROLMENT_PORT": str(enrolment),
        "FEDNOT_DATA_PORT": str(data),
        "FEDNOT_METRICS_PORT": str(metrics),
        "FEDNOT_MIN_CLIENTS": "1",
    }
    mounted = {**shared, "FEDNOT_DATA_FOLDER": str(folders["clinic-a"])}
    baked = {
        **shared,
        "FEDNOT_DATA_FOLDER": str(folders["clinic-b"]),
        "FEDNOT_TASK": "/app/my_task.py:MyTask",
        "FEDNOT_TASK_FOLDER": str(folders["clinic-b"]),
        "FEDNOT_CLIENT_IMAGE": OWN_IMAGE,
    }
    name, client = f"fednot-test-apart-{os.getpid()}", "deploy/compose/client.yml"
    return Machines(
        Project(f"{name}-server", "deploy/compose/server.yml", identities, grpc, shared),
        {
            "clinic-a": Project(f"{name}-a", client, identities, grpc, mounted),
            "clinic-b": Project(f"{name}-b", client, identities, grpc, baked),
        },
    )


@pytest.fixture(scope="module")
def machines(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    folders: dict[str, Path],
) -> Iterator[Machines]:
    build_images()
    run("docker", "build", "-q", "-t", OWN_IMAGE, str(folders["task"]), seconds=WORK_SECONDS)
    made = projects(folders, tmp_path_factory.mktemp("identities"))
    every = [made.server, *made.clients.values()]
    with ExitStack() as stack:
        for project in every:
            stack.callback(project.down)
        try:
            bring_up(made)
            yield made
        finally:
            if request.session.testsfailed or len(made.server.phases()) != 1:
                logs = "\n".join(project.logs() for project in every)
                request.config.get_terminal_writer().write(f"\n{logs}\n")


def bring_up(machines: Machines) -> None:
    """As the files say it: the server, a token for each client, and the clients. Nobody waits
    for the server between two commands.
    """
    server = machines.server
    server.compose("up", "--no-build", "--detach", seconds=START_SECONDS)
    for name, client in machines.clients.items():
        ask = ("run", "--rm", "-T", "operator", "certs", "token", name)
        token = server.compose(*ask, seconds=START_SECONDS)
        client.compose("run", "--rm", "-T", "enrol", seconds=START_SECONDS, given=token)
        client.compose("up", "--no-build", "--detach", seconds=START_SECONDS)
    for role in ("operator", "officer"):
        server.copy_identity(role)


def test_clients_elsewhere_train_a_users_own_task(machines: Machines) -> None:
    idle = dict.fromkeys(machines.clients, "IDLE")
    eventually(START_SECONDS, "clients", machines.server.states, idle)
    rounds = ("train", "--rounds", "2", "--min-clients", "2")
    machines.server.compose("run", "--rm", "-T", "operator", *rounds, seconds=WORK_SECONDS)
    listed = json.loads(machines.server.fednot("operator", "rounds"))["rounds"]
    assert [sorted(each["cohort"]) for each in listed] == [["clinic-a", "clinic-b"]] * 2
    assert [each["missing"] for each in listed] == [[], []]


def test_a_client_listens_for_nobody(machines: Machines) -> None:
    """Nothing is published, and what listens in the container does so on its loopback alone."""
    look = "import pathlib; [print(l) for l in pathlib.Path('/proc/net/tcp').open()]"
    for client in machines.clients.values():
        published = client.inspect("client", "{{json .HostConfig.PortBindings}}")
        assert published in ("{}", "null")
        table = client.compose("exec", "-T", "client", "python", "-c", look).splitlines()
        rows = [line.split() for line in table if line.strip()][1:]
        listening = {row[1] for row in rows if row[3] == "0A"}
        loopback = {place for place in listening if place.endswith(f":{9465:04X}")}
        assert {place.partition(":")[0] for place in loopback} == {"0100007F"}
        docker_dns = {place for place in listening if place.startswith("0B00007F")}
        assert listening == loopback | docker_dns


def test_the_image_can_trace(machines: Machines) -> None:
    traced = ("fednot", "--trace-endpoint", "http://127.0.0.1:4317", "certs", "show")
    away = machines.clients["clinic-a"]
    said = away.compose("exec", "-T", "client", *traced, "/var/lib/fednot/identity")
    assert "clinic-a" in said


def test_a_data_holder_withdraws_on_their_own_machine(machines: Machines) -> None:
    away = machines.clients["clinic-a"]
    withdraw = ("fednot", "unlearn", "client", "clinic-a", "--wait", "--max-rounds", "2")
    away.compose("exec", "-T", "client", *withdraw, seconds=WORK_SECONDS)
    assert machines.server.phases() == ["COMPLETED"]
    assert machines.server.states()["clinic-a"] == "BARRED"
