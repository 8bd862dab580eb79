"""Named work of an unlearning method: on what data it is done, and with which model beside."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from client.own_data import OwnData
from client.profiling import LookedAt
from fednot.data.retained import Retained
from fednot.data.subset import Subset
from fednot.manifest import Manifest
from fednot.task import SampleDataset, Task
from fednot.tensors import load_into
from fednot.tombstones import Tombstones
from fednot.training import TrainContext, TrainResult
from fednot.unlearning import work_named
from fednot.v1 import federation_pb2


class Forgotten(Subset):
    """Samples that a job forgets; they may be read until it has ended."""

    def __init__(self, data: SampleDataset, job_id: str, tombstones: Tombstones) -> None:
        super().__init__(data, range(len(data)))
        self._job_id = job_id
        self._tombstones = tombstones

    def check(self) -> None:
        """Raises ValueError if the job has ended, TombstoneError."""
        if self._job_id in self._tombstones.now().ended_jobs:
            raise ValueError(f"{self._job_id} has ended; what it forgot may not be read any more")


@dataclass(frozen=True)
class NamedWork:
    """An order to do such work; `reference` is a flat model, if the order named one."""

    name: str
    job_id: str
    forgotten: federation_pb2.ForgottenData | None = None
    reference: torch.Tensor | None = None

    @classmethod
    def of(
        cls, order: federation_pb2.UnlearnWork, reference: torch.Tensor | None = None
    ) -> NamedWork:
        """What an order asks for."""
        forgotten = order.forgotten if order.HasField("forgotten") else None
        return cls(order.work, order.job_id, forgotten, reference)

    def data(self, own: OwnData, tombstones: Tombstones) -> Retained | Forgotten:
        """The samples to work on.

        Raises ValueError if there is none that may be read, TombstoneError.
        """
        if self.forgotten is None:
            return own.retained_train()
        tombstones.belong(self.forgotten.tombstones, self.job_id)
        group = federation_pb2.SAMPLE_GROUP_FORGOTTEN
        wanted = LookedAt(
            job_id=self.job_id,
            everything=self.forgotten.everything,
            tombstones=tuple(self.forgotten.tombstones),
            labels=frozenset(self.forgotten.class_labels),
            groups=(group,),
            max_examples=0,
            seed=0,
        )
        found = own.groups(wanted).get(group)
        if found is None:
            raise ValueError(
                f"this client has no sample that {self.job_id} forgets and that may be read; with "
                "--no-evaluate-forgotten none may"
            )
        return Forgotten(found, self.job_id, tombstones)

    def train(
        self,
        task: Task,
        model: nn.Module,
        data: Retained | Forgotten,
        context: TrainContext,
        manifest: Manifest,
    ) -> TrainResult:
        """Trains the model in place. Raises what the work does."""
        beside = None
        if self.reference is not None:
            beside = task.build_model()
            load_into(beside, self.reference, manifest)
            beside = beside.to(context.device).eval()
        return work_named(self.name)(task, model, data, context, beside)
