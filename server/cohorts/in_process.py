"""A cohort within this process: each client is a Task, trained one after another.

For the lab and for tests: everything but the network is the code that production runs.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from itertools import chain

import torch
from torch import nn

from fednot.codecs.none import Plain
from fednot.data.subset import Subset
from fednot.errors import FednotError
from fednot.loss_profile import LossProfile
from fednot.manifest import Manifest
from fednot.task import SampleDataset, Task
from fednot.tensors import difference, flatten_module, load_into
from fednot.training import TrainContext, TrainResult
from fednot.unlearning import work_named
from server.blocks import Block
from server.cohorts.cohort import (
    Answer,
    Evaluation,
    ForgottenData,
    NoAnswer,
    Profiles,
    SampleGroup,
    UnlearningOrder,
    Update,
    WorkKind,
    WorkPlan,
)

CPU = torch.device("cpu")

Around = Callable[[str, WorkPlan], AbstractContextManager[None]]
Run = Callable[[str, WorkPlan, threading.Event], Answer]


class InProcessCohort:
    """Clients by name, each with its Task.

    `tombstones` has, by client and by the tombstone's name, the ids of the samples under it, which
    are never trained on. `around` is entered for each client's work, in the thread that does it.
    """

    def __init__(
        self,
        tasks: Mapping[str, Task],
        tombstones: Mapping[str, Mapping[str, Collection[str]]] | None = None,
        around: Around | None = None,
    ) -> None:
        barred = tombstones or {}
        self._members = {name: _Member(task, barred.get(name, {})) for name, task in tasks.items()}
        self.refusals: dict[str, FednotError] = {}
        self._around = around

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
                answer = await asyncio.to_thread(self.answer, client, plan, over)
                if isinstance(answer, Update):
                    answer = replace(answer, settle=self._settle(client))
                yield answer
        finally:
            over.set()

    def answer(self, client: str, plan: WorkPlan, over: threading.Event) -> Answer:
        """One client's answer to a plan, computed in this thread until `over` is set."""
        run = self._surrounded(self._members[client].work_of(plan.kind))
        try:
            return run(client, plan, over)
        except Exception as error:
            return NoAnswer(client, f"{type(error).__name__}: {error}")

    def _surrounded(self, run: Run) -> Run:
        context = self._around
        if context is None:
            return run

        def surrounded(client: str, plan: WorkPlan, over: threading.Event) -> Answer:
            with context(client, plan):
                return run(client, plan, over)

        return surrounded

    def _settle(self, client: str) -> Callable[[FednotError | None], None]:
        def settle(refusal: FednotError | None) -> None:
            if refusal is not None:
                self.refusals[client] = refusal

        return settle


class _Member:
    def __init__(self, task: Task, tombstones: Mapping[str, Collection[str]]) -> None:
        self._task = task
        self._tombstones = tombstones
        self._train_data: SampleDataset | None = None
        self.test_data = task.test_data()

    def work_of(self, kind: WorkKind) -> Callable[[str, WorkPlan, threading.Event], Answer]:
        """What does work of a kind."""
        return {
            WorkKind.TRAIN: self.train,
            WorkKind.EVALUATE: self.evaluate,
            WorkKind.PROFILE: self.profile,
        }[kind]

    def train(self, client: str, plan: WorkPlan, over: threading.Event) -> Answer:
        model, manifest = self._loaded(plan)
        barred = frozenset(chain.from_iterable(self._tombstones.values()))
        retained = without(self.train_data, barred) if barred else self.train_data
        context = TrainContext(
            device=CPU,
            seed=plan.seed_of(client),
            round=plan.round,
            phase=plan.phase,
            config=plan.config,
            cancelled=over,
        )
        if plan.unlearning is None:
            result = self._task.train(model, retained, context)
        else:
            result = self._unlearn(plan.unlearning, client, model, retained, context)
        update = difference(flatten_module(model, manifest), plan.flat, manifest)
        payload = Block.of(update)
        return Update(client, result.num_examples, payload, Plain(), result.metrics, lambda _: None)

    def _unlearn(
        self,
        order: UnlearningOrder,
        client: str,
        model: nn.Module,
        retained: SampleDataset,
        context: TrainContext,
    ) -> TrainResult:
        forgotten = order.forgotten.get(client)
        group = SampleGroup.FORGOTTEN
        data = retained if forgotten is None else self._group(group, forgotten) or retained
        flat, reference = order.reference_of(client), None
        if flat is not None:
            reference = self._task.build_model()
            load_into(reference, flat, Manifest.of(reference))
            reference.eval()
        return work_named(order.works[client])(self._task, model, data, context, reference)

    def evaluate(self, client: str, plan: WorkPlan, _over: threading.Event) -> Answer:
        model, _ = self._loaded(plan)
        if self.test_data is None:
            return NoAnswer(client, "it has no test data")
        metrics = self._task.evaluate(model, self.test_data, CPU)
        return Evaluation(client, len(self.test_data), metrics)

    def profile(self, client: str, plan: WorkPlan, over: threading.Event) -> Answer:
        """The losses of the groups that the plan names, at most so many samples of each."""
        if plan.profile is None:
            raise ValueError("a plan of PROFILE work needs a profile order")
        model, _ = self._loaded(plan)
        forgotten = plan.profile.forgotten.get(client, ForgottenData())
        found = {}
        for group in plan.profile.groups.get(client, ()):
            data = self._group(group, forgotten)
            if over.is_set() or data is None or not len(data):
                continue
            generator = torch.Generator().manual_seed(plan.seed_of(client))
            order = torch.randperm(len(data), generator=generator)
            part = Subset(data, order[: plan.profile.max_examples].tolist())
            losses, correct = self._task.sample_losses(model, part, CPU)
            found[group] = LossProfile.of(losses.numpy(), correct.tolist())
        return Profiles(client, found)

    @property
    def train_data(self) -> SampleDataset:
        """All that it would train on."""
        if self._train_data is None:
            self._train_data = self._task.train_data()
        return self._train_data

    def _group(self, group: SampleGroup, forgotten: ForgottenData) -> SampleDataset | None:
        named = (self._tombstones.get(name, ()) for name in forgotten.tombstones)
        ids, labels = frozenset(chain.from_iterable(named)), frozenset(forgotten.labels)
        gone = partial(_is_gone, forgotten, ids, labels)
        if group is SampleGroup.FORGOTTEN:
            return _where(self.train_data, gone)
        if group is SampleGroup.RETAINED:
            return _where(self.train_data, lambda data, index: not gone(data, index))
        if group is SampleGroup.UNSEEN:
            unseen = self._task.unseen_data(_where(self.train_data, gone))
            if unseen is None or not labels or forgotten.everything or ids:
                return unseen
            return _where(unseen, lambda data, index: data[index][1] in labels)
        if self.test_data is None:
            return None
        return _where(self.test_data, lambda data, index: data[index][1] not in labels)

    def _loaded(self, plan: WorkPlan) -> tuple[nn.Module, Manifest]:
        model = self._task.build_model()
        manifest = Manifest.of(model)
        load_into(model, plan.flat, manifest)
        return model, manifest


def _is_gone(
    forgotten: ForgottenData,
    ids: frozenset[str],
    labels: frozenset[int],
    data: SampleDataset,
    index: int,
) -> bool:
    if forgotten.everything or data.sample_id(index) in ids:
        return True
    return bool(labels) and int(data[index][1]) in labels


def _where(data: SampleDataset, holds: Callable[[SampleDataset, int], bool]) -> SampleDataset:
    return Subset(data, [index for index in range(len(data)) if holds(data, index)])


def without(data: SampleDataset, ids: Collection[str]) -> SampleDataset:
    """The samples whose ids are not among these."""
    return _where(data, lambda found, index: found.sample_id(index) not in ids)
