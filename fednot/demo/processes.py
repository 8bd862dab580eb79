"""The demonstration's processes: a server and its clients, each a real one on loopback."""

from __future__ import annotations

import os
import signal
import socket
import subprocess  # nosec B404 - for this very program
import sys
from pathlib import Path
from typing import Final

from fednot.secure_aggregation.terms import FEWEST_CLIENTS

TASK: Final = "fednot.demo.digits:DigitsTask"
STOP_SECONDS: Final = 20.0


class ProcessError(RuntimeError):
    """A process that did not do what it should; the message names its log."""


def free_port() -> int:
    """A port of loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Process:
    """A child process with a log of its own."""

    def __init__(self, arguments: list[str], log: Path) -> None:
        self._log = log
        with log.open("ab") as file:
            self._child = subprocess.Popen(  # noqa: S603  # nosec B603 - a list, of our own words
                [sys.executable, "-m", *arguments],
                stdout=file,
                stderr=subprocess.STDOUT,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )

    def check(self) -> None:
        """Raises ProcessError if the process has ended."""
        code = self._child.poll()
        if code is not None:
            raise ProcessError(f"a process ended with code {code}; see {self._log}")

    def stop(self) -> None:
        """Ends the process: politely, then by force."""
        if self._child.poll() is None:
            self._child.send_signal(signal.SIGTERM)
        try:
            self._child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait(STOP_SECONDS)


def start_server(
    address: str,
    identity: Path,
    state: Path,
    log: Path,
    probes: Path,
    task_arguments: list[str],
    *,
    masked: bool = False,
) -> Process:
    """Starts an aggregation server on a state directory, with a folder of sealed probes.

    If updates are `masked` it sees their sums alone.
    """
    arguments = ["server", "--identity", str(identity), "--address", address, "--http-address", ""]
    arguments += ["--state-dir", str(state), "--task", TASK, "--heartbeat-interval", "5"]
    arguments += ["--probes", str(probes)]
    arguments += ["--accumulator", "float64"]  # the same figures whichever client answers first
    if masked:
        arguments += ["--secure-aggregation", "--min-clients", str(FEWEST_CLIENTS)]
    return Process([*arguments, *_task(task_arguments)], log)


def start_client(
    address: str, identity: Path, state: Path, log: Path, task_arguments: list[str]
) -> Process:
    """Starts a training client; its identity gives its name."""
    arguments = ["client", "--identity", str(identity), "--server", address, "--http-address", ""]
    arguments += ["--state-dir", str(state), "--task", TASK, "--device", "cpu"]
    return Process([*arguments, *_task(task_arguments)], log)


def _task(arguments: list[str]) -> list[str]:
    return [part for argument in arguments for part in ("--task-arg", argument)]
