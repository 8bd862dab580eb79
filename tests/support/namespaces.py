"""Machines as network namespaces that share one switch and nothing else of the network."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

ROOT = Path(__file__).resolve().parents[2]
COMMAND_SECONDS = 90.0
OF_NAMESPACES = Path("/etc/netns")
NO_HOSTS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Machine:
    """A namespace; its processes see its own loopback and the switch only."""

    namespace: str
    address: str

    def inside(self, *command: str) -> list[str]:
        """A command line that runs on this machine."""
        return ["ip", "netns", "exec", self.namespace, *command]

    def run(
        self, *command: str, given: str = "", seconds: float = COMMAND_SECONDS
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command on this machine to its end, with a text for its standard input."""
        return subprocess.run(
            self.inside(*command),
            cwd=ROOT,
            input=given,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
            env=environment(),
        )

    def python(self, program: str, *arguments: str) -> str:
        """What a small program of Python prints on this machine."""
        done = self.run(sys.executable, "-c", program, *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout


def environment() -> dict[str, str]:
    """This process's, without settings of fednot, and with one thread for arithmetic."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("FEDNOT_")}
    return kept | {"OMP_NUM_THREADS": "1"}


def reason_to_skip() -> str | None:
    """Why there can be no namespaces here."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "network namespaces need ip (iproute2)"
    probe = f"fednot-probe-{os.getpid()}"
    made = _ip("netns", "add", probe, check=False)
    if made.returncode:
        return f"`ip netns add` fails: {made.stderr.strip()}"
    _ip("netns", "del", probe, check=False)
    return None


@contextmanager
def two_machines() -> Iterator[tuple[Machine, Machine]]:
    """Two machines, connected; deleted at the end whatever happens, with what runs on them."""
    with machines("a", "b") as (first, second):
        yield first, second


@contextmanager
def machines(*names: str, hosts: Mapping[str, str] = NO_HOSTS) -> Iterator[list[Machine]]:
    """Machines on one switch, in the order of their names; deleted at the end, as two_machines.

    `hosts` are names by which each of them finds one of the machines, by that one's name.
    """
    number = os.getpid()
    made = [
        Machine(f"fednot-{number}-{name}", f"10.213.77.{host}")
        for host, name in enumerate(names, start=1)
    ]
    switch = f"fednot-{number}-switch"
    known = {host: made[names.index(name)].address for host, name in hosts.items()}
    try:
        _ip("netns", "add", switch)
        _ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", switch, "link", "set", "bridge", "up")
        for port, machine in enumerate(made):
            _write_hosts(machine, known)
            _ip("netns", "add", machine.namespace)
            _plug(machine, switch, port)
        yield made
    finally:
        for namespace in [*(machine.namespace for machine in made), switch]:
            for pid in _ip("netns", "pids", namespace, check=False).stdout.split():
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            _ip("netns", "del", namespace, check=False)
            shutil.rmtree(OF_NAMESPACES / namespace, ignore_errors=True)


def _plug(machine: Machine, switch: str, port: int) -> None:
    """A cable from a machine to the switch, whose other end is in no other namespace."""
    _ip(
        *("link", "add", "eth0", "netns", machine.namespace, "type", "veth"),
        *("peer", "name", f"port{port}", "netns", switch),
    )
    _ip("-n", switch, "link", "set", f"port{port}", "master", "bridge", "up")
    inside = ("-n", machine.namespace)
    _ip(*inside, "address", "add", f"{machine.address}/24", "dev", "eth0")
    for link in ("eth0", "lo"):
        _ip(*inside, "link", "set", link, "up")


def _write_hosts(machine: Machine, known: Mapping[str, str]) -> None:
    """The file that `ip netns exec` shows as /etc/hosts."""
    if not known:
        return
    folder = OF_NAMESPACES / machine.namespace
    folder.mkdir(parents=True)
    lines = ["127.0.0.1 localhost", *(f"{address} {host}" for host, address in known.items())]
    (folder / "hosts").write_text("\n".join(lines) + "\n")


def _ip(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        ["ip", *arguments], capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False
    )
    assert not check or done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"
    return done
