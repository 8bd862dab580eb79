"""A local Ray: what share of a processor its actors have, and which works are over."""

from __future__ import annotations

import asyncio
import os
import sys
import time

import pytest
import torch
from torch import nn

import fednot
from fednot import SampleDataset
from fednot.data import InMemoryDataset
from server.cohorts.cohort import Update, WorkKind, WorkPlan
from server.cohorts.ray import RayCohort
from server.records import RoundPhase, Version, VersionOrigin

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]

ROUNDS = 1_000


def samples() -> InMemoryDataset:
    return InMemoryDataset(torch.zeros(2, 1), torch.tensor([0, 1]), ["a", "b"])


class HoldsTests(fednot.Task):
    """Has test data if its process is as nice as others, no more."""

    def build_model(self) -> nn.Module:
        return nn.Linear(1, 2)

    def train_data(self) -> SampleDataset:
        return samples()

    def test_data(self) -> SampleDataset | None:
        return samples() if os.nice(0) == 0 else None


class TellsOver(fednot.Task):
    """Says whether its work was over before it was done."""

    def build_model(self) -> nn.Module:
        return nn.Linear(1, 2)

    def train_data(self) -> SampleDataset:
        return samples()

    def train(
        self, model: nn.Module, data: SampleDataset, context: fednot.TrainContext
    ) -> fednot.TrainResult:
        time.sleep(0.005)
        return fednot.TrainResult(len(data), {"over": float(context.cancelled.is_set())})


def plan(number: int) -> WorkPlan:
    version = Version(1, "", 0, 0, 1, VersionOrigin.INITIAL, 0, 0.0, 16)
    flat = torch.zeros(16, dtype=torch.uint8)
    return WorkPlan(
        WorkKind.TRAIN, number, RoundPhase.TRAINING, version, flat, ("c0", "c1", "c2"), 30.0
    )


def test_actors_are_not_nicer_than_others() -> None:
    ray = pytest.importorskip("ray")
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    cohort = RayCohort({"c0": HoldsTests})
    try:
        assert cohort.can_evaluate("c0")
    finally:
        cohort.close()


async def test_the_end_of_a_round_ends_no_work_of_the_next() -> None:
    """Before works were numbered, one in a thousand was over before it began."""
    ray = pytest.importorskip("ray")
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    cohort = await asyncio.to_thread(RayCohort, dict.fromkeys(("c0", "c1", "c2"), TellsOver))
    told: list[float] = []
    try:
        for number in range(1, ROUNDS + 1):
            async for answer in cohort.work(plan(number)):
                assert isinstance(answer, Update), answer
                told.append(answer.metrics["over"])
    finally:
        await asyncio.to_thread(cohort.close)
    assert (len(told), sum(told)) == (3 * ROUNDS, 0)
