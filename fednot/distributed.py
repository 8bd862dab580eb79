"""Training with several processes under torchrun: rank 0 speaks to the server, the others follow.

`torchrun --nproc-per-node 2 -m client ...` starts the same client on every rank. For each piece of
training rank 0 hands the model and the samples that may be used to the others, and all of them
train one update together: each global batch is shared out, and gradients are averaged by
DistributedDataParallel, over gloo on CPUs and NCCL on CUDA. What rank 0 has then is the update.

Work is handed out through torchrun's store, so that a rank that waits for hours holds no collective
open. Each piece has a process group of its own: when it is cancelled or fails on one rank, that one
leaves the group, the others get an error instead of waiting, and the next piece begins in step.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from types import MappingProxyType
from typing import Any, Final, Self

import torch
from torch import distributed, nn
from torch.distributed import (  # type: ignore[attr-defined]
    DistError,
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
WATCH_SECONDS: Final = 0.5
SAY_SECONDS: Final = 5.0
_END: Final = "end"

_log = logging.getLogger("client")


class RankFailedError(RuntimeError):
    """Another rank could not train; the message is what it says."""


class RankLostError(RuntimeError):
    """Another rank is gone; this process must end, so that torchrun restarts them all."""


def world_size() -> int:
    """How many processes torchrun started; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """This process's rank; 0 without torchrun."""
    return int(os.environ.get("RANK", "0"))


@dataclass(frozen=True)
class Ranks:
    """The processes that train together: their store, this one's place, and its device."""

    store: Any
    rank: int
    size: int
    device: torch.device

    @classmethod
    def joined(cls, device: torch.device) -> Self:
        """Joins the ranks that torchrun started.

        Raises RankLostError if they are not all there in COLLECTIVE_SECONDS.
        """
        found = cls(_store(COLLECTIVE_SECONDS), rank(), world_size(), device)
        try:
            found.store.set(f"rank-{found.rank}", b"1")
            found.store.wait([f"rank-{each}" for each in range(found.size)])
        except RuntimeError as error:
            raise RankLostError(f"the ranks did not come together: {error}") from error
        return found

    @contextlib.contextmanager
    def together(self, number: int) -> Iterator[None]:
        """The process group of one piece of work. Whoever leaves it ends it for all."""
        _import_before_group()
        backend = "cpu:gloo,cuda:nccl" if self.device.type == "cuda" else "gloo"
        distributed.init_process_group(
            backend,
            store=PrefixStore(f"group-{number}", self.store),
            rank=self.rank,
            world_size=self.size,
            timeout=timedelta(seconds=COLLECTIVE_SECONDS),
        )
        try:
            yield
        except BaseException as error:
            distributed.destroy_process_group()
            _close_connections(error)
            raise
        distributed.destroy_process_group()

    def placed(self, context: TrainContext) -> TrainContext:
        """A context with this rank's place in it."""
        return replace(context, rank=self.rank, world_size=self.size)

    def dismiss(self) -> None:
        """Has the ranks that follow end."""
        with contextlib.suppress(RuntimeError):
            self.store.set(_END, b"1")


def _import_before_group() -> None:
    """Optimisers and DistributedDataParallel import torch._dynamo when they are made; it keeps the
    process group that there is at its import, and its connections, as a default argument.
    """
    import torch._dynamo  # noqa: F401


def _close_connections(error: BaseException) -> None:
    """Frees what an error holds of the group that was left.

    A DistributedDataParallel is part of a reference cycle, and keeps the connections that the other
    ranks wait on for COLLECTIVE_SECONDS.
    """
    fault: BaseException | None = error
    while fault is not None:
        traceback.clear_frames(fault.__traceback__)
        fault = fault.__context__
    gc.collect()


def _store(seconds: float) -> Any:
    """A connection of its own to the store of torchrun. Raises RankLostError."""
    tries = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    try:
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        within = timedelta(seconds=seconds)
        store = TCPStore(host, port, is_master=False, timeout=within)
    except (RuntimeError, ValueError, KeyError) as error:
        raise RankLostError(f"torchrun's store cannot be reached: {error}") from error
    return PrefixStore(f"fednot-{tries}", store)


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
        reasons = dict(task.unsupported_scopes)
        if type(task).samples_of is Task.samples_of:
            reasons.setdefault("subject", "its Task does not define samples_of(subject)")
        self.unsupported_scopes = MappingProxyType(reasons)

    def dismiss(self) -> None:
        """Has the ranks that follow end."""
        self._ranks.dismiss()

    @property
    def alone(self) -> Task:
        """The Task that this rank trains by itself, while the others wait for the next order."""
        return self._task

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
        """Trains on all ranks.

        Raises RankFailedError if another rank fails, RankLostError if one is gone, and what the
        Task raises; then the others stop, too.
        """
        kept = [self._positions[data.sample_id(index)] for index in range(len(data))]
        order = _Order(context.seed, context.round, context.phase, dict(context.config), len(kept))
        self._ordered += 1
        number, ranks = self._ordered, self._ranks
        ranks.store.set(f"work-{number}", order.to_json())
        manifest = Manifest.of(model)
        try:
            with ranks.together(number), self._over_at_its_end(number):
                flat = flatten_module(model, manifest)
                distributed.broadcast(flat, 0)
                distributed.broadcast(torch.tensor(kept, dtype=torch.int64), 0)
                return self._task.train(model, data, ranks.placed(context))
        except WorkCancelledError:
            raise
        except Exception as error:
            self._raise_for_others(number, error)
            raise

    @contextlib.contextmanager
    def _over_at_its_end(self, number: int) -> Iterator[None]:
        try:
            yield
        finally:
            with contextlib.suppress(RuntimeError):
                self._ranks.store.set(f"over-{number}", b"1")

    def _raise_for_others(self, number: int, error: Exception) -> None:
        """Raises what another rank says, or that one is gone, if the error comes of that."""
        if not isinstance(error, DistError) and "gloo" not in str(error).lower():
            return
        try:
            self._ranks.store.wait([f"failed-{number}"], timedelta(seconds=SAY_SECONDS))
            said = self._ranks.store.get(f"failed-{number}").decode()
        except RuntimeError:
            self._when_lost()
            raise RankLostError(f"a rank is gone: {error}") from error
        raise RankFailedError(said) from error


def follow(task: Task, ranks: Ranks) -> None:
    """Trains with rank 0 until that ends. Raises RankLostError if rank 0 is gone."""
    data = task.train_data()
    number = 0
    while True:
        number += 1
        order = _next_order(ranks, number)
        if order is None:
            return
        over = threading.Event()
        watch = threading.Thread(target=_watch, args=(number, over), daemon=True)
        watch.start()
        try:
            _follow_once(task, data, ranks, number, (order, over))
        except Exception as error:
            _log.debug("work %d ended here with %s", number, error)
        finally:
            over.set()
            watch.join()


def _follow_once(
    task: Task, data: SampleDataset, ranks: Ranks, number: int, work: tuple[_Order, threading.Event]
) -> None:
    order, over = work
    given = TrainContext(ranks.device, order.seed, order.round, order.phase, order.config, over)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(ranks.together(number))
            model = task.build_model()
            manifest = Manifest.of(model)
            flat = torch.empty(manifest.nbytes, dtype=torch.uint8)
            kept = torch.empty(order.size, dtype=torch.int64)
            distributed.broadcast(flat, 0)
            distributed.broadcast(kept, 0)
            load_into(model, flat, manifest)
            task.train(model.to(ranks.device), Subset(data, kept.tolist()), ranks.placed(given))
        except Exception as error:
            _tell_failure(ranks, number, error)
            raise


def _tell_failure(ranks: Ranks, number: int, error: Exception) -> None:
    """Tells rank 0 why a piece of work failed here, before this rank leaves its group.

    Every rank tells first and leaves then, so that an error which comes of another's leaving finds
    the work over, or a failure told, and is kept quiet.
    """
    said = f"rank {ranks.rank}: {type(error).__name__}: {error}"
    with contextlib.suppress(RuntimeError):
        if ranks.store.check([f"over-{number}"]):
            return
        if ranks.store.compare_set(f"failed-{number}", "", said) == said.encode():
            _log.error("training failed on %s", said)


def _watch(number: int, over: threading.Event) -> None:
    """Sets the event once rank 0 is done with a piece of work, however it ended."""
    store = _store(COLLECTIVE_SECONDS)
    while not over.wait(WATCH_SECONDS):
        try:
            if store.check([f"over-{number}"]):
                over.set()
        except RuntimeError:
            over.set()


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
    Raises WorkCancelledError.
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
            context.check()
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
