"""Distillation of one model into another on unlabelled data (Hinton, Vinyals and Dean 2015)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from fednot.manifest import Manifest
from fednot.task import SampleDataset, Task
from fednot.tensors import flatten_module, load_into
from fednot.training import batch_of, parts


@dataclass(frozen=True)
class Distillation:
    """How: SGD with the Task's learning rate, momentum and batch size, so many passes over the
    data, towards outputs that are softened by `temperature`.
    """

    temperature: float = 3.0
    epochs: int = 5
    seed: int = 0

    def distilled(
        self,
        task: Task,
        teacher: torch.Tensor,
        student: torch.Tensor,
        data: SampleDataset,
        manifest: Manifest,
        cancelled: Callable[[], bool],
    ) -> torch.Tensor:
        """The student, flat, uint8 of shape [nbytes], after learning what the teacher answers.

        Both are flat models of the manifest. The student's BatchNorm statistics follow the data.
        Ends early, with what there is, once `cancelled` says so. Raises ValueError without data.
        """
        if not len(data):
            raise ValueError("there is no data to distil on; proxy_data() must give some")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            teaching, learning = (_loaded(task, flat, manifest) for flat in (teacher, student))
            teaching.eval()
            learning.train()
            self._learn(task, teaching, learning, data, cancelled)
        return flatten_module(learning, manifest)

    def _learn(
        self,
        task: Task,
        teaching: nn.Module,
        learning: nn.Module,
        data: SampleDataset,
        cancelled: Callable[[], bool],
    ) -> None:
        optimiser = torch.optim.SGD(
            learning.parameters(), lr=task.learning_rate, momentum=task.momentum
        )
        generator = torch.Generator().manual_seed(self.seed)
        for _ in range(self.epochs):
            order = torch.randperm(len(data), generator=generator).tolist()
            for indices in parts(order, task.batch_size):
                if cancelled():
                    return
                inputs, _ = batch_of(data, indices)
                optimiser.zero_grad()
                torch.autograd.backward(self._divergence(teaching, learning, inputs))
                optimiser.step()

    def _divergence(
        self, teaching: nn.Module, learning: nn.Module, inputs: torch.Tensor
    ) -> torch.Tensor:
        with torch.no_grad():
            wanted = nn.functional.softmax(teaching(inputs) / self.temperature, dim=1)
        told = nn.functional.log_softmax(learning(inputs) / self.temperature, dim=1)
        divergence = nn.functional.kl_div(told, wanted, reduction="batchmean")
        return divergence * self.temperature**2


def _loaded(task: Task, flat: torch.Tensor, manifest: Manifest) -> nn.Module:
    model = task.build_model()
    load_into(model, flat, manifest)
    return model
