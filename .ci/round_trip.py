"""A federation by the installed package alone, with its commands on PATH.

Certificates, a server, two clients on scikit-learn's digits over mutual TLS on loopback, two
rounds, a deletion, and its receipt verified offline. Says what failed with the ends of the logs.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TASK = """
import torch
from sklearn.datasets import load_digits
from torch import nn

from fednot import SampleDataset, Task
from fednot.data.in_memory import InMemoryDataset
from fednot.data.subset import Subset


class Digits(Task):
    def __init__(self, part: str = "0") -> None:
        found = load_digits()
        images = torch.tensor(found.images, dtype=torch.float32).unsqueeze(1) / 16
        ids = [str(number) for number in range(len(images))]
        self._digits = InMemoryDataset(images, torch.tensor(found.target), ids)
        self._part = int(part)

    def build_model(self) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10)
        )

    def train_data(self) -> SampleDataset:
        return Subset(self._digits, range(400 + 400 * self._part, 800 + 400 * self._part))

    def test_data(self) -> SampleDataset:
        return Subset(self._digits, range(400))
"""
CLIENTS = ("a", "b")
COMMAND, START = 240, 240
PORTS = range(10_000, 15_000)


class RoundTrip:
    """The processes of one federation in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = ""
        self.processes: list[subprocess.Popen[bytes]] = []

    def command(self, *words: str) -> str:
        """Runs a command to its end; its output. Raises RuntimeError if it fails."""
        print("+", *words, flush=True)
        done = subprocess.run(
            words, cwd=self.folder, capture_output=True, text=True, timeout=COMMAND, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def asked(self, who: str, *words: str) -> str:
        """Runs `fednot` as somebody."""
        return self.command("fednot", *words, "--server", self.address, "--identity", who)

    def start(self, name: str, *words: str) -> None:
        """Starts a process that stays."""
        with (self.folder / f"{name}.log").open("wb") as log:
            started = subprocess.Popen(words, cwd=self.folder, stdout=log, stderr=log)
        self.processes.append(started)

    def run(self) -> None:
        """The whole of it. Raises RuntimeError."""
        (self.folder / "digits_task.py").write_text(TASK)
        self.command("fednot", "certs", "init", "authority", "--host", "127.0.0.1")
        roles = {"olga": "operator", "dora": "officer"} | dict.fromkeys(CLIENTS, "client")
        for name, role in roles.items():
            self.command(
                *("fednot", "certs", "issue", role, name),
                *("--authority", "authority", "--out", name),
            )
        self.address = f"127.0.0.1:{free_port()}"
        self.start(
            *("server", "fednot-server", "--authority", "authority", "--address", self.address),
            *("--task", "digits_task.py:Digits", "--http-address", "", "--state-dir", "state"),
            *("--heartbeat-interval", "5", "--min-clients", "1", "--verification-wait", "5"),
        )
        self.await_server()
        for number, name in enumerate(CLIENTS):
            self.start(
                *(f"client-{name}", "fednot-client", "--identity", name, "--server", self.address),
                *("--task", "digits_task.py:Digits", "--task-arg", f"part={number}"),
                *("--http-address", "", "--state-dir", f"state-{name}", "--device", "cpu"),
            )
        self.asked("olga", "train", "--rounds", "2", "--min-clients", "2")
        deletion = ("unlearn", "client", "b", "--request-id", "r-1", "--max-rounds", "2")
        self.asked("dora", *deletion, "--min-clients", "1", "--wait")
        self.asked("dora", "receipt", "r-1", "--output", "receipt.jws")
        self.asked("dora", "receipt-keys", "--output", "keys.pem")
        self.command(
            *("fednot", "verify", "receipt.jws", "--key", "keys.pem", "--html", "page.html")
        )

    def await_server(self) -> None:
        """Waits until the server listens. Raises RuntimeError if it ends, or does not in time."""
        host, _, port = self.address.partition(":")
        until = time.monotonic() + START
        while time.monotonic() < until:
            if self.processes[0].poll() is not None:
                raise RuntimeError("the server ended")
            with socket.socket() as probe:
                if probe.connect_ex((host, int(port))) == 0:
                    return
            time.sleep(0.2)
        raise RuntimeError(f"the server does not listen after {START} s")

    def end(self) -> None:
        """Ends what was started."""
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(30)


def free_port() -> int:
    """A port that nothing listens on, of those that neither the system nor the tests hand out.

    Raises RuntimeError if all that were tried are taken.
    """
    for port in random.sample(PORTS, 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no port is free")


def main() -> int:
    """Runs it; 1 with the logs if it fails."""
    os.environ["OMP_NUM_THREADS"] = "1"
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fednot-round-trip-") as name:
        trip = RoundTrip(Path(name))
        try:
            trip.run()
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            print(f"the round trip failed: {error}", file=sys.stderr)
            for log in sorted(trip.folder.glob("*.log")):
                print(f"--- {log.name}\n{log.read_text()[-1500:]}", file=sys.stderr)
            return 1
        finally:
            trip.end()
    print(f"round trip: trained, deleted, receipt verified in {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
