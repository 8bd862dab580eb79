"""Ranks that fail, and in which order the others learn of it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
import torch
from torch import distributed as torch_distributed
from torch import nn
from torch._C._distributed_c10d import HashStore

import fednot
from fednot import SampleDataset, TrainContext, TrainResult, distributed
from fednot.data import InMemoryDataset
from fednot.distributed import Ranks

CPU = torch.device("cpu")
ORDER = '{"seed": 0, "round": 1, "phase": "training", "config": {}, "size": 2}'


LEAVES = """
import gc
from pathlib import Path
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from fednot.distributed import Ranks

def tell():
    names = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
    print(any("gloo" in name for name in names))

def train():
    model = DistributedDataParallel(nn.Linear(1, 2))
    optimiser = torch.optim.SGD(model.parameters())
    loss = model(torch.zeros(1, 1)).sum()
    tell()
    raise OSError("no disk")

def wrapped():
    try:
        train()
    except OSError as error:
        raise RuntimeError("training failed") from error

gc.disable()
try:
    with Ranks(distributed.HashStore(), 0, 1, torch.device("cpu")).together(1):
        wrapped()
except RuntimeError as error:
    tell()
"""


class Fails(fednot.Task):
    """Training does what it is given, and then fails."""

    def __init__(self, first: Callable[[], object] = lambda: None) -> None:
        self._first = first

    def build_model(self) -> nn.Module:
        return nn.Linear(1, 2)

    def train_data(self) -> SampleDataset:
        return InMemoryDataset(torch.zeros(2, 1), torch.tensor([0, 1]), ["a", "b"])

    def train(self, model: nn.Module, data: SampleDataset, context: TrainContext) -> TrainResult:
        self._first()
        raise OSError("no disk")


class LeftAtOnce(Ranks):
    """Rank 0 learns at once that this one has left, is done with the work, and dismisses it."""

    @contextlib.contextmanager
    def together(self, number: int) -> Iterator[None]:
        try:
            yield
        finally:
            self.store.set(f"over-{number}", b"1")
            self.store.set("end", b"1")


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What the ranks share, with one piece of work in it."""
    found = HashStore()
    found.set_timeout(timedelta(seconds=1))
    found.set("work-1", ORDER)
    monkeypatch.setattr(distributed, "_store", lambda _seconds: found)
    monkeypatch.setattr(torch_distributed, "broadcast", lambda found, _from: found.zero_())
    return found


def test_rank_0_that_learns_at_once_of_a_failure_finds_it_told(store: Any) -> None:
    distributed.follow(Fails(), LeftAtOnce(store, 1, 2, CPU))
    assert store.get("failed-1") == b"rank 1: OSError: no disk"


def test_an_error_that_comes_of_the_end_of_the_work_is_not_told(store: Any) -> None:
    over = Fails(lambda: store.set("over-1", b"1"))
    distributed.follow(over, LeftAtOnce(store, 1, 2, CPU))
    assert not store.check(["failed-1"])


def test_an_error_that_comes_of_another_ranks_failure_does_not_hide_it(store: Any) -> None:
    late = Fails(lambda: store.set("failed-1", b"rank 2: the cause"))
    distributed.follow(late, LeftAtOnce(store, 1, 3, CPU))
    assert store.get("failed-1") == b"rank 2: the cause"


def test_a_rank_that_leaves_by_an_error_closes_its_connections() -> None:
    """Else the others wait for it for minutes: an error's frames, and torch, hold the group."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", LEAVES], capture_output=True, text=True, env=environment, check=False
    )
    assert done.stdout.split() == ["True", "False"], done.stderr
