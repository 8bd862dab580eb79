"""A member of a Ray cohort, whose calls Ray may turn around, and which Ray it is on."""

from __future__ import annotations

import sys
import threading
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import fednot
from fednot import SampleDataset
from fednot.data import InMemoryDataset
from server.cohorts.cohort import WorkKind, WorkPlan
from server.cohorts.ray import Member, RayCohort
from server.records import RoundPhase, Version, VersionOrigin

LIMIT = 30.0


class Waits(fednot.Task):
    """Trains until its work is over, or until `let_go` is set; notes which it was."""

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.began = threading.Event()
        self.over: list[bool] = []

    def build_model(self) -> nn.Module:
        return nn.Linear(1, 2)

    def train_data(self) -> SampleDataset:
        return InMemoryDataset(torch.zeros(2, 1), torch.tensor([0, 1]), ["a", "b"])

    def train(
        self, model: nn.Module, data: SampleDataset, context: fednot.TrainContext
    ) -> fednot.TrainResult:
        self.began.set()
        if not self.let_go.is_set():
            assert context.cancelled.wait(LIMIT)
        self.over.append(context.cancelled.is_set())
        return fednot.TrainResult(len(data), {})


@pytest.fixture
def task() -> Waits:
    return Waits()


@pytest.fixture
def member(task: Waits) -> Member:
    return Member("c0", lambda: task, None)


def plan() -> WorkPlan:
    version = Version(1, "", 0, 0, 1, VersionOrigin.INITIAL, 0, 0.0, 16)
    flat = torch.zeros(16, dtype=torch.uint8)
    return WorkPlan(WorkKind.TRAIN, 1, RoundPhase.TRAINING, version, flat, ("c0",), LIMIT)


def test_an_end_that_comes_late_ends_no_later_work(member: Member, task: Waits) -> None:
    task.let_go.set()
    member.work(plan(), 1)
    member.work(plan(), 2)
    member.end(2)
    member.end(1)
    member.work(plan(), 3)
    assert task.over == [False, False, False]


def test_an_end_that_comes_early_ends_the_work_that_it_names(member: Member, task: Waits) -> None:
    member.end(7)
    member.work(plan(), 7)
    assert task.over == [True]


def test_an_end_reaches_work_that_goes_on(member: Member, task: Waits) -> None:
    worker = threading.Thread(target=member.work, args=(plan(), 1))
    worker.start()
    assert task.began.wait(LIMIT)
    member.end(1)
    worker.join(LIMIT)
    assert task.over == [True]


def test_a_ray_of_its_own_is_no_other_that_is_on_the_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ray takes no address for that of RAY_ADDRESS, or of whoever did `ray start` here."""
    told: list[dict[str, Any]] = []
    given = SimpleNamespace(
        init=lambda **how: told.append(how),
        remote=lambda **_: lambda kind: SimpleNamespace(remote=kind),
        get=lambda _, timeout: [],
        shutdown=lambda: None,
    )
    monkeypatch.setitem(sys.modules, "ray", given)
    RayCohort({}).close()
    RayCohort({}, address="10.0.0.1:6379").close()
    assert [how["address"] for how in told] == ["local", "10.0.0.1:6379"]
