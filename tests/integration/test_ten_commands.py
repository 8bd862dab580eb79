"""The README's ten commands for separate machines, typed on five machines with their own addresses.

The test writes a task, carries what the README says is carried, and repeats for the other clients
what the README says is done for each. It changes nothing else of a command but the client's name.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.federation import eventually
from support.markdown import blocks, commands
from support.namespaces import ROOT, Machine, environment, machines, reason_to_skip
from support.terminal import Terminal

from fednot.receipt import verified

SKIP = reason_to_skip()

HEADING = "On separate machines, in ten commands"
CLIENTS = ("hospital-a", "hospital-b", "hospital-c")
NAMES = ("server", "operator", *CLIENTS)
ENDLESS = ("fednot-server", "fednot-client")
SECONDS = 200.0
LISTENS = "0A"
LOOPBACKS = ("00007F", "0000000001000000")
"""How 127.0.0.0/8 and ::1 end in the kernel's table of sockets, but for the first's last digits."""
TASK = """
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn

import fednot
from fednot.data import InMemoryDataset


def digits(part):
    pixels, labels = load_digits(return_X_y=True)
    mine = range(part * 449, part * 449 + 449)
    ids = [f"digit-{n}" for n in mine]
    return InMemoryDataset(torch.tensor(pixels[mine]) / 16, torch.tensor(labels[mine]), ids)


class MyTask(fednot.Task):
    batch_size = 16

    def build_model(self):
        wide, narrow = nn.Linear(64, 128), nn.Linear(128, 64)
        return nn.Sequential(wide, nn.ReLU(), narrow, nn.ReLU(), nn.Linear(64, 10))

    def train_data(self):
        return digits(int(Path("part").read_text()))

    def test_data(self):
        return digits(0)
"""


@dataclass
class Site:
    """A machine with a folder and a terminal of its own."""

    machine: Machine
    folder: Path
    terminal: Terminal

    def type(self, *lines: str) -> str:
        """Types commands; a server or client is left running."""
        printed = ""
        for line in lines:
            if line.startswith(ENDLESS):
                self.terminal.leave(line)
            else:
                printed += self.terminal.run(line, SECONDS)
        return printed

    def carry(self, what: str, to: Site) -> None:
        """Carries a file or a folder to another machine."""
        source = self.folder / what
        (shutil.copytree if source.is_dir() else shutil.copy2)(source, to.folder / what)

    def waits_for(self, words: str) -> None:
        """Until the terminal shows some words."""
        eventually(f"{words!r} is printed", lambda: words in self.terminal.output, SECONDS)


def ten_commands() -> list[list[str]]:
    """The commands of the README's section, block by block."""
    found = [block for block in blocks(ROOT / "README.md") if block.heading == HEADING]
    return [commands(block.text) for block in found if block.language == "sh"]


@pytest.fixture
def sites(tmp_path: Path) -> Iterator[dict[str, Site]]:
    with ExitStack() as stack:
        made = stack.enter_context(machines(*NAMES, hosts={"fed.example.org": "server"}))
        found = {}
        for part, (name, machine) in enumerate(zip(NAMES, made, strict=True)):
            terminal = Terminal(machine, tmp_path / name, with_commands())
            stack.callback(terminal.close, 5)
            found[name] = Site(machine, tmp_path / name, terminal)
            (tmp_path / name / "my_task.py").write_text(TASK)
            (tmp_path / name / "part").write_text(str(max(part - 1, 0)))
        for name in CLIENTS:
            refuse_inbound(found[name].machine)
        yield found


def with_commands() -> dict[str, str]:
    """An environment in which fednot is installed, as it is where these tests run."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return environment() | {"PATH": path}


def refuse_inbound(machine: Machine) -> None:
    """Whoever dials this machine is not answered; what comes of its own connections gets in."""
    done = machine.run(
        *("iptables", "-A", "INPUT", "!", "-i", "lo", "-p", "tcp", "--syn", "-j", "DROP")
    )
    assert done.returncode == 0, done.stderr


def refused(machine: Machine) -> int:
    """How many packets of somebody who dialled this machine were dropped."""
    table = machine.run("iptables", "-L", "INPUT", "-v", "-x", "-n").stdout
    return int(table.splitlines()[2].split()[0])


def is_answered(caller: Machine, called: Machine, port: int) -> bool:
    """Whether a machine gets a connection to a port of another one, or at least a refusal of it."""
    program = f"import socket; socket.create_connection(('{called.address}', {port}), 2)"
    done = subprocess.run(
        caller.inside("python3", "-c", program),
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    return done.returncode == 0 or "refused" in done.stderr


def open_ports(machine: Machine) -> set[int]:
    """The ports that take TCP connections from elsewhere than the machine itself."""
    found = set()
    table = machine.run("cat", "/proc/net/tcp", "/proc/net/tcp6").stdout
    for line in table.splitlines():
        address, state = line.split()[1], line.split()[3]
        host, _, port = address.partition(":")
        if state == LISTENS and not host.endswith(LOOPBACKS):
            found.add(int(port, 16))
    return found


def test_the_readme_has_ten_commands_for_separate_machines() -> None:
    assert [len(block) for block in ten_commands()] == [4, 1, 2, 3]


@pytest.mark.long
@pytest.mark.timeout(400)
@pytest.mark.skipif(SKIP is not None, reason=SKIP or "")
def test_the_ten_commands_lead_to_a_signed_receipt(sites: dict[str, Site]) -> None:
    serve, make_token, join, use = ten_commands()
    server, operator = sites["server"], sites["operator"]
    started = time.monotonic()

    server.type(*serve)
    for folder in ("alice", "dora"):
        server.carry(folder, operator)
    server.waits_for("serving on")
    for name in CLIENTS:
        operator.type(*named(make_token, name))
        operator.carry(f"{name}.token", sites[name])
        sites[name].type(*named(join, name))
    for name in CLIENTS:
        sites[name].waits_for(f"joined fed.example.org:50051 as {name}")
    printed = operator.type(*use)

    print(f"from the first command to the receipt: {time.monotonic() - started:.0f} s\n{printed}")
    assert "[20 of 20] round 20: completed, 3 of 3 updates" in printed
    the_receipt_is_good(operator)
    the_clients_took_no_connection(sites)
    end(sites)


def named(block: list[str], name: str) -> list[str]:
    """The commands for another client."""
    assert any("hospital-a" in line for line in block)
    return [line.replace("hospital-a", name) for line in block]


def the_receipt_is_good(operator: Site) -> None:
    """By the key that the table below the ten commands says how to get."""
    where = "--server fed.example.org:50051 --identity dora"
    operator.type(f"fednot receipt-keys -o keys.pem {where}")
    told = operator.type("fednot verify receipt.jws --key keys.pem --format json")
    keys = (operator.folder / "keys.pem").read_text()
    receipt = verified((operator.folder / "receipt.jws").read_text(), keys)

    assert receipt.request_ids == ("a-withdraws",)
    assert receipt.released
    assert json.loads(told)["verified"]
    assert "<html" in (operator.folder / "receipt.html").read_text()


def the_clients_took_no_connection(sites: dict[str, Site]) -> None:
    """None listens to others, none was dialled, and none would have been reached."""
    server = sites["server"].machine
    assert open_ports(server) == {50051, 50052}
    for name in CLIENTS:
        machine = sites[name].machine
        assert open_ports(machine) == set()
        assert refused(machine) == 0, "somebody dialled a client"
        assert not is_answered(server, machine, 22)
        assert refused(machine) > 0
        assert is_answered(machine, server, 50051)


def end(sites: dict[str, Site]) -> None:
    """Ends clients and server as Ctrl-C does."""
    for name in (*CLIENTS, "server"):
        sites[name].terminal.interrupt()
        sites[name].terminal.close()
