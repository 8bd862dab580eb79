"""Costs of a tiny federation, derived by hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import nn

from fednot.data.in_memory import InMemoryDataset
from fednot.manifest import Manifest
from fednot.task import SampleDataset, Task
from fednot.tensors import flatten_module
from lab.costs import Costs, CountedCohort, down_of
from server.cohorts.cohort import ForgottenData, UnlearningOrder, WorkKind, WorkPlan
from server.cohorts.in_process import InProcessCohort
from server.records import RoundPhase, Version, VersionOrigin

INPUTS, CLASSES = 4, 3
FLAT = 64
"""The bytes of the flat model: 12 weights and 3 biases of 4 each, made up to a multiple of 8."""


class LinearTask(Task):
    """A linear layer of 12 weights and 3 biases."""

    batch_size = 5

    def __init__(self, size: int) -> None:
        self._size = size

    def build_model(self) -> nn.Module:
        return nn.Linear(INPUTS, CLASSES)

    def train_data(self) -> SampleDataset:
        targets = torch.arange(self._size) % CLASSES
        ids = [str(index) for index in range(self._size)]
        return InMemoryDataset(torch.ones(self._size, INPUTS), targets, ids)


def plan(config: Mapping[str, float] | None = None, *, number: int = 1) -> WorkPlan:
    model = nn.Linear(INPUTS, CLASSES)
    flat = flatten_module(model, Manifest.of(model))
    version = Version(number, "0" * 64, 0, 0, 1, VersionOrigin.INITIAL, 0, 0.0, flat.nbytes)
    clients = ("a", "b")
    phase = RoundPhase.RECOVERY
    return WorkPlan(WorkKind.TRAIN, 1, phase, version, flat, clients, 60.0, 0, config or {})


async def worked(costs: Costs, *plans: WorkPlan) -> None:
    tasks = {name: LinearTask(size) for name, size in costs.examples.items()}
    cohort = CountedCohort(InProcessCohort(tasks, around=costs.around), costs)
    for one in plans:
        answers = [answer async for answer in cohort.work(one)]
        assert len(answers) == len(one.clients)


def operations(examples: int, epochs: int = 1) -> int:
    """Two for each weight and example, forwards and for the weights' gradient; none for inputs."""
    return 2 * (2 * INPUTS * CLASSES) * examples * epochs


async def test_a_round_moves_the_model_down_and_the_update_up() -> None:
    costs = Costs({"a": 10, "b": 20})
    await worked(costs, plan())
    assert costs.rounds[1].nbytes == 2 * (FLAT + FLAT)


async def test_operations_are_those_of_the_layer() -> None:
    costs = Costs({"a": 10, "b": 20})
    await worked(costs, plan())
    assert costs.rounds[1].flops == operations(10) + operations(20)


async def test_epochs_multiply_operations_and_rates_do_not_change_them() -> None:
    costs = Costs({"a": 10, "b": 10})
    await worked(costs, plan(), plan({"local_epochs": 3}, number=2))
    assert costs.rounds[2].flops == 2 * operations(10, epochs=3)
    counted = dict(costs.known)
    await worked(costs, plan({"local_epochs": 3, "learning_rate": 0.001}, number=3))
    assert costs.known == counted
    assert costs.rounds[3].flops == costs.rounds[2].flops


async def test_what_is_known_is_not_counted_again() -> None:
    costs = Costs({"a": 10, "b": 10})
    await worked(costs, plan())
    again = Costs(costs.examples, dict.fromkeys(costs.known, 7))
    await worked(again, plan())
    assert again.rounds[1].flops == 2 * 7


async def test_verification_costs_nothing() -> None:
    costs = Costs({"a": 10, "b": 10})
    await worked(costs, replace(plan(), phase=RoundPhase.VERIFICATION))
    assert costs.rounds == {}


def test_a_reference_goes_down_to_those_who_forget_alone() -> None:
    order = UnlearningOrder(
        "job-1",
        {"a": "guide", "b": "train"},
        {"a": ForgottenData(everything=True)},
        reference=torch.zeros(100, dtype=torch.uint8),
    )
    found = replace(plan(), unlearning=order)
    assert [down_of(found, client) for client in ("a", "b")] == [FLAT + 100, FLAT]


async def test_counting_leaves_the_result_as_it_is() -> None:
    """Bit for bit: a counted work is the work that production does."""
    task, given = LinearTask(10), plan()
    found = []
    for around in (Costs({"a": 10}).around, None):
        cohort = InProcessCohort({"a": task, "b": task}, around=around)
        answers = [answer async for answer in cohort.work(given)]
        found.append([answer.payload.tensor for answer in answers])  # type: ignore[union-attr]
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_seconds_of_scores_are_told_apart() -> None:
    costs = Costs({})
    for ended, seconds in ((10.0, 1.0), (20.0, 2.0), (30.0, 4.0)):
        costs.evaluated(ended, seconds)
    assert costs.evaluating(10.0, 20.0) == pytest.approx(3.0)
