"""Training with several processes under torchrun: rank 0 speaks to the server, the others follow.

`torchrun --nproc-per-node 2 -m client ...` starts the same client on every rank. For each piece of
training rank 0 hands the model and the samples that may be used to the others, and all of them
train one update together: each global batch is shared out, and gradients are averaged by
DistributedDataParallel, over gloo on CPUs and NCCL on CUDA. What rank 0 has then is the update.

Work is handed out through torchrun's store, so that a rank that waits for hours holds no collective
open; within a piece of work no rank waits for another longer than COLLECTIVE_SECONDS.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final, Self

import torch
from torch import distributed, nn
from torch.distributed import (  # type: ignore[attr-defined]
    DistNetworkError,
    DistStoreError,
    PrefixStore,
    TCPStore,
)
from torch.nn.parallel import DistributedDataParallel

from fednot import training
from fednot.data.subset import Subset
from fednot.manifest import Manifest
from fednot.task import SampleDataset, Task
from fednot.tensors import flatten_module, load_into
from fednot.training import TrainContext, TrainResult, WorkCancelledError

COLLECTIVE_SECONDS: Final = 300.0
LOOK_SECONDS: Final = 5.0
_END: Final = "end"

_log = logging.getLogger("client")


class RankLostError(RuntimeError):
    """Another rank failed or is gone; this process must end, so that torchrun restarts them all."""


def world_size() -> int:
    """How many processes torchrun started; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """This process's rank; 0 without torchrun."""
    return int(os.environ.get("RANK", "0"))


@dataclass(frozen=True)
class Ranks:
    """The processes that train together: the store that they share, and this one's place."""

    store: Any
    rank: int
    size: int

    @classmethod
    def joined(cls, device: torch.device) -> Self:
        """Joins the ranks that torchrun started, over gloo, and NCCL for a CUDA device.

        Raises RankLostError if they are not all there in COLLECTIVE_SECONDS.
        """
        within = timedelta(seconds=COLLECTIVE_SECONDS)
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        try:
            distributed.init_process_group(backend, timeout=within)
            port = int(os.environ["MASTER_PORT"])
            host = os.environ["MASTER_ADDR"]
            store = TCPStore(host, port, is_master=False, timeout=within)
        except (RuntimeError, ValueError) as error:
            raise RankLostError(f"the ranks did not come together: {error}") from error
        tries = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        return cls(PrefixStore(f"fednot-{tries}", store), rank(), world_size())

    def placed(self, context: TrainContext) -> TrainContext:
        """A context with this rank's place in it."""
        return replace(context, rank=self.rank, world_size=self.size)

    def leave(self) -> None:
        """Leaves; rank 0 tells the others to end."""
        if self.rank == 0:
            with contextlib.suppress(RuntimeError):
                self.store.set(_END, b"1")
        with contextlib.suppress(RuntimeError):
            distributed.destroy_process_group()


@dataclass(frozen=True)
class _Order:
    """What rank 0 tells the others of a piece of training; `size` samples may be used."""

    seed: int
    round: int
    phase: str
    config: Mapping[str, float]
    size: int

    def to_json(self) -> bytes:
        return json.dumps(vars(self)).encode()


class Led(Task):
    """A Task whose training is done by all ranks; this is rank 0's side of it."""

    def __init__(
        self,
        task: Task,
        ranks: Ranks,
        train_data: SampleDataset,
        when_lost: Callable[[], object],
    ) -> None:
        """`when_lost` is called when the ranks are out of step: the process must end then."""
        self._task = task
        self._when_lost = when_lost
        self._ranks = ranks
        self._positions = {train_data.sample_id(i): i for i in range(len(train_data))}
        self._train_data = train_data
        self._ordered = 0
        self.unsupported_scopes = task.unsupported_scopes

    def dismiss(self) -> None:
        """Ends the ranks that follow."""
        self._ranks.leave()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def build_model(self) -> nn.Module:
        """As the Task."""
        return self._task.build_model()

    def train_data(self) -> SampleDataset:
        """As the Task."""
        return self._train_data

    def test_data(self) -> SampleDataset | None:
        """As the Task."""
        return self._task.test_data()

    def samples_of(self, subject: str) -> Sequence[str]:
        """As the Task."""
        return self._task.samples_of(subject)

    def unseen_data(self, forgotten: SampleDataset) -> SampleDataset | None:
        """As the Task."""
        return self._task.unseen_data(forgotten)

    def sample_losses(
        self, model: nn.Module, data: SampleDataset, device: torch.device
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As the Task, on this rank alone."""
        return self._task.sample_losses(model, data, device)

    def evaluate(
        self, model: nn.Module, data: SampleDataset, device: torch.device
    ) -> Mapping[str, float]:
        """As the Task, on this rank alone."""
        return self._task.evaluate(model, data, device)

    def train(self, model: nn.Module, data: SampleDataset, context: TrainContext) -> TrainResult:
        """Trains on all ranks. Raises RankLostError if one fails, WorkCancelledError on all."""
        kept = [self._positions[data.sample_id(index)] for index in range(len(data))]
        order = _Order(context.seed, context.round, context.phase, dict(context.config), len(kept))
        self._ordered += 1
        self._ranks.store.set(f"work-{self._ordered}", order.to_json())
        manifest = Manifest.of(model)
        try:
            with _together():
                flat = flatten_module(model, manifest)
                distributed.broadcast(flat, 0)
                distributed.broadcast(torch.tensor(kept, dtype=torch.int64), 0)
                return self._task.train(model, data, self._ranks.placed(context))
        except RankLostError:
            self._when_lost()
            raise


def follow(task: Task, ranks: Ranks, device: torch.device) -> None:
    """Trains with rank 0 until that ends. Raises RankLostError if a rank is gone."""
    data = task.train_data()
    number = 0
    while True:
        number += 1
        order = _next_order(ranks, number)
        if order is None:
            return
        model = task.build_model()
        manifest = Manifest.of(model)
        context = TrainContext(device, order.seed, order.round, order.phase, order.config)
        with _together():
            flat = torch.empty(manifest.nbytes, dtype=torch.uint8)
            kept = torch.empty(order.size, dtype=torch.int64)
            distributed.broadcast(flat, 0)
            distributed.broadcast(kept, 0)
            load_into(model, flat, manifest)
            model.to(device)
            with contextlib.suppress(WorkCancelledError):
                task.train(model, Subset(data, kept.tolist()), ranks.placed(context))


def _next_order(ranks: Ranks, number: int) -> _Order | None:
    key = f"work-{number}"
    while True:
        try:
            if ranks.store.check([_END]):
                return None
            ranks.store.wait([key], timedelta(seconds=LOOK_SECONDS))
            return _Order(**json.loads(ranks.store.get(key)))
        except DistStoreError:
            continue
        except DistNetworkError as error:
            raise RankLostError(f"torchrun's store is gone: {error}") from error


def train(task: Task, model: nn.Module, data: SampleDataset, context: TrainContext) -> TrainResult:
    """The default loop over all ranks: as `fednot.training.train` on the same global batches.

    Rank r takes every `world_size`-th sample of a batch from its r-th on, and its loss is weighted
    by its share, so that the averaged gradient is that of the whole batch. What depends on the
    samples that are seen together (BatchNorm) or on random numbers (dropout) differs by rank.
    Raises WorkCancelledError, on every rank in the same step.
    """
    plan = training.Plan.of(task, data, context)
    on = [context.device] if context.device.type == "cuda" else None
    shared = DistributedDataParallel(model, device_ids=on)
    optimiser = plan.optimiser(model)
    model.train()
    total = 0.0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(context.seed + context.rank)
        for indices in plan.batches():
            _check_everywhere(context)
            mine = indices[context.rank :: context.world_size]
            inputs, targets = training.batch_of(data, mine or indices[:1])
            optimiser.zero_grad()
            outputs = shared(inputs.to(context.device))
            loss = task.loss(outputs, targets.to(context.device))
            share = len(mine) * context.world_size / len(indices)
            torch.autograd.backward(loss * share)
            optimiser.step()
            total += float(loss.detach()) * len(mine)
    summed = torch.tensor(total, dtype=torch.float64)
    distributed.all_reduce(summed)
    return TrainResult(len(data), {"loss": float(summed) / (plan.epochs * len(data))})


def _check_everywhere(context: TrainContext) -> None:
    cancelled = torch.tensor(int(context.cancelled.is_set()))
    distributed.all_reduce(cancelled)
    if int(cancelled):
        raise WorkCancelledError(f"round {context.round} is over")


@contextlib.contextmanager
def _together() -> Iterator[None]:
    """What goes wrong between ranks leaves them out of step for good."""
    try:
        yield
    except WorkCancelledError:
        raise
    except Exception as error:
        _log.error("the ranks are out of step: %s: %s", type(error).__name__, error)
        raise RankLostError(f"a rank failed: {type(error).__name__}: {error}") from error
