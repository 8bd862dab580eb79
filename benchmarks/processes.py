"""Processes of a benchmark: started, asked by lines of JSON, awaited a bounded time, ended."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

ROOT: Final = Path(__file__).resolve().parents[1]
START_SECONDS: Final = 120.0
END_SECONDS: Final = 10.0
_DEATH_SIGNAL: Final = 1
_LINE: Final = 1 << 16
_LIBC: Final = ctypes.CDLL(None)


class BenchmarkError(Exception):
    """A benchmark that could not be run; the message says what went wrong."""


class Child:
    """A process whose stdout answers with lines of JSON; what it writes to stderr is a log.

    It leads a group of its own, which ends with it, and it is ended if this process dies.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        folder: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=os.environ | {"OMP_NUM_THREADS": "1"} | dict(environment or {}),
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        self._left = b""

    @classmethod
    def module(cls, name: str, module: str, *arguments: str, folder: Path) -> Self:
        """Starts `python -m MODULE ARGUMENTS`."""
        return cls(name, [sys.executable, "-m", module, *arguments], folder)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def tell(self, line: str) -> None:
        """Writes a line to its stdin. Raises BenchmarkError if it has ended."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise BenchmarkError(f"{self.name} has ended: {self.tail()}") from error

    def hear(self, seconds: float = START_SECONDS) -> Any:
        """Its next line of JSON. Raises BenchmarkError if none comes in time."""
        assert self._process.stdout is not None
        until = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._left:
                left = until - time.monotonic()
                if left <= 0:
                    raise BenchmarkError(f"{self.name} said nothing in {seconds:g} s")
                if not selector.select(left):
                    continue
                said = os.read(self._process.stdout.fileno(), _LINE)
                if not said:
                    raise BenchmarkError(f"{self.name} has ended: {self.tail()}")
                self._left += said
        line, _, self._left = self._left.partition(b"\n")
        return json.loads(line)

    def tail(self) -> str:
        """The last lines of its log."""
        return " / ".join(self.log.read_text(errors="replace").split("\n")[-4:])[-400:].strip(" /")

    def wait(self, seconds: float) -> int:
        """Its exit code. Raises BenchmarkError if it does not end in time."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            raise BenchmarkError(f"{self.name} did not end in {seconds:g} s") from error

    def end(self) -> None:
        """Ends it and its group, politely first."""
        for how in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, how)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(END_SECONDS)
                break
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()


def die_with_parent() -> None:
    """Asks Linux to end this process when its parent ends."""
    _LIBC.prctl(_DEATH_SIGNAL, signal.SIGTERM)


def end_on_sigterm() -> None:
    """Lets SIGTERM unwind this process, so that whatever it started and wrote is cleared away."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def say(answer: Any) -> None:
    """Answers with one line of JSON."""
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def fork(count: int, work: Callable[[int], None]) -> None:
    """Runs `work(0)` to `work(count - 1)`, each in a process of its own, until all have ended.

    The caller has imported what they need and started no thread, so that they begin at once.
    """
    pids = [_forked(index, work) for index in range(count)]
    for pid in pids:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)


def _forked(index: int, work: Callable[[int], None]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        die_with_parent()
        work(index)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def free_port() -> int:
    """A port of loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def await_port(child: Child, port: int, seconds: float = START_SECONDS) -> None:
    """Waits until a process listens. Raises BenchmarkError."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if not child.running:
            raise BenchmarkError(f"{child.name} has ended: {child.tail()}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise BenchmarkError(f"{child.name} does not listen after {seconds:g} s: {child.tail()}")
