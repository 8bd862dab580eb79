"""Two machines, made of network namespaces: one enrols with the other by a one-time token."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from support.federation import TASK, eventually
from support.identities import Identities, serial_of
from support.namespaces import ROOT, Machine, environment, reason_to_skip, two_machines

from fednot.identity.certificates import read_key
from fednot.identity.folder import read_credentials
from fednot.identity.subject import Role, Subject

SKIP = reason_to_skip()
pytestmark = pytest.mark.skipif(SKIP is not None, reason=SKIP or "")

PORT, ENROLMENT_PORT = 50051, 50052
FEDNOT = (sys.executable, "-c", "from fednot.cli.main import main; main()")
TASK_FLAGS = ("--task", TASK, "--task-arg", "trace=no")
REFUSED = 3
SCAN = """
import socket, sys
probe = socket.socket()
for port in range(1, 65536):
    probe.settimeout(2)
    if probe.connect_ex((sys.argv[1], port)) == 0:
        print(port)
        probe.close()
        probe = socket.socket()
"""


@dataclass
class Clinic:
    """The server's machine, with the authority and its operator, and the client's, which is bare.

    They share this machine's files, of which each uses its own folder only.
    """

    server: Machine
    client: Machine
    folder: Path
    identities: Identities
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return f"{self.server.address}:{PORT}"

    @property
    def enrolment(self) -> str:
        return f"{self.server.address}:{ENROLMENT_PORT}"

    def start(self, name: str, machine: Machine, *arguments: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                machine.inside(sys.executable, "-m", *arguments),
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment(),
            )

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def operate(self, *arguments: str, seconds: float = 60) -> Any:
        """What a command of the operator prints, who sits at the server's machine."""
        identity = self.identities.of(Role.OPERATOR, "olga")
        where = ("--server", self.address, "--identity", str(identity), "--format", "json")
        done = self.server.run(*FEDNOT, *arguments, *where, seconds=seconds)
        assert done.returncode == 0, f"{done.stderr}\n{self.log('server')}"
        return last_document(done.stdout)

    def enrol(self, token: str, folder: Path) -> subprocess.CompletedProcess[str]:
        """Enrols from the client's machine, which knows nothing but the token and an address."""
        where = ("--server", self.enrolment, "--identity", str(folder), "--format", "json")
        return self.client.run(*FEDNOT, "certs", "enroll", *where, given=token)


def last_document(text: str) -> Any:
    """The last of the JSON documents that a command has printed."""
    found, rest = None, text.strip()
    while rest:
        found, end = json.JSONDecoder().raw_decode(rest)
        rest = rest[end:].lstrip()
    return found


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clinic]:
    folder = tmp_path_factory.mktemp("machines")
    with ExitStack() as stack:
        server, client = stack.enter_context(two_machines())
        found = Clinic(server, client, folder, Identities(folder / "server", [server.address]))
        stack.callback(_end, found)
        found.start(
            "server",
            server,
            *("server", "--authority", str(found.identities.authority.directory)),
            *("--address", found.address, "--enrolment-address", found.enrolment),
            *("--state-dir", str(folder / "server" / "state"), "--heartbeat-interval", "2"),
            *("--min-clients", "1", *TASK_FLAGS),
        )
        eventually("the server listens", lambda: "serving on" in found.log("server"), 60)
        yield found


def _end(clinic: Clinic) -> None:
    for process in clinic.processes.values():
        process.kill()
        process.wait(30)


@pytest.fixture(scope="module")
def token(clinic: Clinic) -> str:
    made: str = clinic.operate("certs", "token", "clinic-a")["token"]
    return made


@pytest.fixture(scope="module")
def enrolled(clinic: Clinic, token: str) -> Path:
    """The identity folder of clinic-a on its own machine."""
    folder = clinic.folder / "client" / "identity"
    done = clinic.enrol(token, folder)
    assert done.returncode == 0, f"{done.stderr}\n{clinic.log('server')}"
    return folder


def test_the_clients_machine_reaches_nothing_but_the_two_ports(clinic: Clinic) -> None:
    assert clinic.server.address != clinic.client.address
    open_ports = clinic.client.python(SCAN, clinic.server.address).split()

    assert [int(port) for port in open_ports] == [PORT, ENROLMENT_PORT]


def test_a_machine_with_a_token_alone_gets_an_identity(
    clinic: Clinic, token: str, enrolled: Path
) -> None:
    found = read_credentials(enrolled)

    assert found.subject == Subject(Role.CLIENT, "clinic-a")
    assert found.trust == clinic.identities.authority.trust_pem
    assert (enrolled / "key.pem").stat().st_mode & 0o077 == 0
    assert len(token.splitlines()) == 1


def test_the_private_key_never_leaves_its_machine(clinic: Clinic, enrolled: Path) -> None:
    """Neither the number itself, nor the lines of PEM with it; the last one has the public key."""
    pem = (enrolled / "key.pem").read_bytes()
    number = read_key(pem).private_numbers().private_value.to_bytes(32)
    lines = pem.splitlines()[1:-2]
    kept = [path for path in (clinic.folder / "server").rglob("*") if path.is_file()]
    held = {path: path.read_bytes() for path in kept}

    assert any("issued" in path.parts for path in kept)
    assert any(path.suffix == ".sqlite3" for path in kept)
    assert len(lines) == 2
    for secret in (number, *lines):
        assert [path for path, content in held.items() if secret in content] == []
        assert secret not in clinic.log("server").encode()


def test_the_server_keeps_no_copy_of_the_token(clinic: Clinic, token: str, enrolled: Path) -> None:
    body = token.strip().rpartition(".")[2]
    secret = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))["secret"]
    for path in (clinic.folder / "server" / "state").rglob("*"):
        assert not path.is_file() or secret.encode() not in path.read_bytes(), path
    assert secret not in clinic.log("server")


def test_a_token_that_was_used_opens_nothing_for_another_key(
    clinic: Clinic, token: str, enrolled: Path
) -> None:
    """With the same key it may be repeated, since a reply can get lost."""
    elsewhere = clinic.folder / "client" / "thief"

    stolen = clinic.enrol(token, elsewhere)

    assert stolen.returncode == REFUSED, stolen.stdout
    assert json.loads(stolen.stderr)["reason"] == "TOKEN_USED"
    assert not (elsewhere / "cert.pem").exists()


def test_the_enrolled_client_trains_a_round(clinic: Clinic, enrolled: Path) -> None:
    serial = serial_of(enrolled)
    clinic.start(
        "client",
        clinic.client,
        *("client", "--identity", str(enrolled), "--server", clinic.address, "--device", "cpu"),
        *("--state-dir", str(clinic.folder / "client" / "state"), "--http-address", ""),
        *("--task", TASK, "--task-arg", "client=0"),
    )
    eventually("it has joined", lambda: "clinic-a joined" in clinic.log("server"), 60)

    run = clinic.operate("train", "--rounds", "1", "--min-clients", "1")["run"]

    assert run["state"] == "RUN_STATE_COMPLETED"
    [row] = clinic.operate("rounds")["rounds"]
    assert row["cohort"] == ["clinic-a"]
    assert row["outcome"] == "ROUND_OUTCOME_COMPLETED"
    assert serial_of(enrolled) == serial, "it serves with what it enrolled for"


def test_nobody_else_is_let_in_by_the_enrolment_port(clinic: Clinic) -> None:
    invented = "fednot-token-v1." + base64.urlsafe_b64encode(os.urandom(48)).decode()

    refused = clinic.enrol(invented, clinic.folder / "client" / "nobody")

    assert refused.returncode != 0
    assert json.loads(refused.stderr)["reason"] == "INVALID_TOKEN"
