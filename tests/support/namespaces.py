"""Two machines as network namespaces that share one cable and nothing else of the network."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COMMAND_SECONDS = 20.0


@dataclass(frozen=True)
class Machine:
    """A namespace; its processes see its own loopback and the cable only."""

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
    number = os.getpid()
    names = [f"fednot-{number}-{side}" for side in ("a", "b")]
    cables = [f"fn{number}{side}" for side in ("a", "b")]
    machines = [Machine(name, f"10.213.77.{host}") for host, name in enumerate(names, start=1)]
    try:
        for name in names:
            _ip("netns", "add", name)
        _ip(
            *("link", "add", cables[0], "netns", names[0], "type", "veth"),
            *("peer", "name", cables[1], "netns", names[1]),
        )
        for machine, cable in zip(machines, cables, strict=True):
            inside = ("-n", machine.namespace)
            _ip(*inside, "address", "add", f"{machine.address}/30", "dev", cable)
            for link in (cable, "lo"):
                _ip(*inside, "link", "set", link, "up")
        yield machines[0], machines[1]
    finally:
        for name in names:
            for pid in _ip("netns", "pids", name, check=False).stdout.split():
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            _ip("netns", "del", name, check=False)


def _ip(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        ["ip", *arguments], capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False
    )
    assert not check or done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"
    return done
