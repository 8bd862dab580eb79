"""How a model does on groups of this client's samples: all that verification learns of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from fednot.data.subset import Subset
from fednot.loss_profile import LossProfile
from fednot.task import SampleDataset, Task
from fednot.v1 import federation_pb2


@dataclass(frozen=True)
class LookedAt:
    """What is to be looked at, for a job; the fields are those of ProfileWork.

    `groups` are values of SampleGroup. With `max_examples` 0 every sample is looked at.
    """

    job_id: str
    everything: bool
    tombstones: tuple[str, ...]
    labels: frozenset[int]
    groups: tuple[int, ...]
    max_examples: int
    seed: int

    @classmethod
    def of(cls, order: federation_pb2.ProfileWork) -> LookedAt:
        """What an order asks for."""
        return cls(
            order.job_id,
            order.forgotten.everything,
            tuple(order.forgotten.tombstones),
            frozenset(order.forgotten.class_labels),
            tuple(order.groups),
            order.max_examples,
            order.seed,
        )

    def drawn(self, data: SampleDataset) -> Subset:
        """At most `max_examples` of the samples, which follow from the seed, in their order."""
        size = len(data)
        if not self.max_examples or size <= self.max_examples:
            return Subset(data, range(size))
        generator = torch.Generator().manual_seed(self.seed % (1 << 63))
        order = torch.randperm(size, generator=generator)[: self.max_examples]
        return Subset(data, sorted(order.tolist()))


def profiles(
    task: Task, model: nn.Module, groups: Mapping[int, SampleDataset], device: torch.device
) -> dict[int, LossProfile]:
    """The loss profile of each group that has samples. Raises what the Task raises."""
    found = {}
    for group, data in groups.items():
        if len(data):
            losses, correct = task.sample_losses(model, data, device)
            found[group] = LossProfile.of(losses.double().cpu().numpy(), _answers(correct))
    return found


def _answers(correct: torch.Tensor) -> Sequence[bool]:
    return [bool(one) for one in correct.tolist()]


def report_of(found: Mapping[int, LossProfile]) -> list[federation_pb2.GroupProfile]:
    """The profiles as messages."""
    return [
        federation_pb2.GroupProfile(
            group=federation_pb2.SampleGroup.ValueType(group),
            losses=federation_pb2.LossProfile(
                counts=profile.counts, num_correct=profile.num_correct
            ),
        )
        for group, profile in found.items()
    ]
