"""One base or cell in a process of its own: what `python -m lab base` and `python -m lab cell` do.

The process tells the rounds that have ended on its standard output, one JSON object a line, and
ends when its standard input does: with the process that started it.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import torch

from fednot.locked_directory import DirectoryInUseError, LockedDirectory
from lab import bases, execution
from lab.cells import BaseSpec, read_base, read_cell
from lab.engines import engine_named
from lab.engines.engine import LabError

TERMINATED: Final = 143
LOCK_SECONDS: Final = 60.0


def run_base(spec: Path, out: Path, engine: str, address: str) -> None:
    """Trains the base whose spec is in a file. Raises LabError, ConfigError, DataError."""
    wanted: BaseSpec = read_base(spec)
    _prepare()
    with _alone(execution.work_of(out, f"base-{wanted.id}")):
        asyncio.run(bases.made(out, wanted, engine_named(engine, address), _tell))


def run_cell(spec: Path, out: Path, engine: str, address: str) -> None:
    """Runs the cell whose specification is in a file; its result says what failed, if it did."""
    wanted = read_cell(spec)
    _prepare()
    with _alone(execution.work_of(out, wanted.id)):
        asyncio.run(execution.execute(wanted, out, engine_named(engine, address), _tell))


def _prepare() -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    if not sys.stdin.isatty():
        threading.Thread(target=_end_with_input, daemon=True).start()


def _end_with_input() -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _tell(rounds: int) -> None:
    sys.stdout.write(json.dumps({"rounds": rounds}) + "\n")
    sys.stdout.flush()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Holds the folder; another process that is about to end is waited for a while."""
    until = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            lock = LockedDirectory(folder)
            break
        except DirectoryInUseError:
            if time.monotonic() > until:
                raise LabError(f"another process works in {folder}; stop it first") from None
            time.sleep(0.2)
    try:
        yield
    finally:
        lock.close()
