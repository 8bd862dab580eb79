"""A local Ray gives its actors the share of a processor that whoever waits for them has."""

from __future__ import annotations

import os
import sys

import pytest
import torch
from torch import nn

import fednot
from fednot import SampleDataset
from fednot.data import InMemoryDataset
from server.cohorts.ray import RayCohort

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]


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


def test_actors_are_not_nicer_than_others() -> None:
    ray = pytest.importorskip("ray")
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    cohort = RayCohort({"c0": HoldsTests})
    try:
        assert cohort.can_evaluate("c0")
    finally:
        cohort.close()
