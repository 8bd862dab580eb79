"""A cohort within this process: each client is a Task, trained one after another.

For the lab and for tests: everything but the network is the code that production runs.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import replace

import torch
from torch import nn

from fednot.codecs.none import Plain
from fednot.errors import FednotError
from fednot.manifest import Manifest
from fednot.task import SampleDataset, Task
from fednot.tensors import difference, flatten_module, load_into
from fednot.training import TrainContext
from server.blocks import Block
from server.cohorts.cohort import Answer, Evaluation, NoAnswer, Update, WorkKind, WorkPlan

CPU = torch.device("cpu")


class InProcessCohort:
    """Clients by name, each with its Task."""

    def __init__(self, tasks: Mapping[str, Task]) -> None:
        self._members = {name: _Member(task) for name, task in tasks.items()}
        self.refusals: dict[str, FednotError] = {}

    def connected(self) -> frozenset[str]:
        """Every member."""
        return frozenset(self._members)

    def last_seen(self, client: str) -> float | None:
        """Now, for every member."""
        return time.time() if client in self._members else None

    def can_train(self, client: str) -> bool:
        """Every member has training data."""
        return client in self._members

    def can_evaluate(self, client: str) -> bool:
        """Whether the member has test data."""
        return self._members[client].test_data is not None

    async def wait_for_change(self, seconds: float) -> None:
        """Members never change; gives the event loop a turn."""
        await asyncio.sleep(min(seconds, 0.05))

    def call_back(self) -> None:
        """Members keep nothing that an order could be about."""

    async def work(self, plan: WorkPlan) -> AsyncGenerator[Answer, None]:
        """Runs the plan on each client in turn; an exception of a Task is its NoAnswer."""
        over = threading.Event()
        try:
            for client in plan.clients:
                member = self._members[client]
                run = member.train if plan.kind is WorkKind.TRAIN else member.evaluate
                try:
                    answer = await asyncio.to_thread(run, client, plan, over)
                except Exception as error:
                    answer = NoAnswer(client, f"{type(error).__name__}: {error}")
                if isinstance(answer, Update):
                    answer = replace(answer, settle=self._settle(client))
                yield answer
        finally:
            over.set()

    def _settle(self, client: str) -> Callable[[FednotError | None], None]:
        def settle(refusal: FednotError | None) -> None:
            if refusal is not None:
                self.refusals[client] = refusal

        return settle


class _Member:
    def __init__(self, task: Task) -> None:
        self._task = task
        self._train_data: SampleDataset | None = None
        self.test_data = task.test_data()

    def train(self, client: str, plan: WorkPlan, over: threading.Event) -> Answer:
        model, manifest = self._loaded(plan)
        if self._train_data is None:
            self._train_data = self._task.train_data()
        context = TrainContext(
            device=CPU,
            seed=plan.seed_of(client),
            round=plan.round,
            phase=plan.phase,
            config=plan.config,
            cancelled=over,
        )
        result = self._task.train(model, self._train_data, context)
        update = difference(flatten_module(model, manifest), plan.flat, manifest)
        payload = Block.of(update)
        return Update(client, result.num_examples, payload, Plain(), result.metrics, lambda _: None)

    def evaluate(self, client: str, plan: WorkPlan, _over: threading.Event) -> Answer:
        model, _ = self._loaded(plan)
        if self.test_data is None:
            return NoAnswer(client, "it has no test data")
        metrics = self._task.evaluate(model, self.test_data, CPU)
        return Evaluation(client, len(self.test_data), metrics)

    def _loaded(self, plan: WorkPlan) -> tuple[nn.Module, Manifest]:
        model = self._task.build_model()
        manifest = Manifest.of(model)
        load_into(model, plan.flat, manifest)
        return model, manifest
