"""What unlearning costs: bytes moved, floating-point operations, seconds.

Bytes are those of the flat models and updates that the cohort really passes, server and clients
together: a model down to each client of a round, with its reference model if there is one, and its
update up. Operations are those that torch's counter sees in a client's work, multiplications and
additions apart; a work of equal size is counted once, since counting slows it down.
"""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import AbstractContextManager, aclosing, contextmanager
from dataclasses import dataclass, field
from typing import Final

import torch
from torch.utils.flop_counter import FlopCounterMode

from fednot.manifest import Manifest
from fednot.task import SampleDataset, Task
from server.cohorts.cohort import Answer, Cohort, Update, WorkKind, WorkPlan
from server.evaluation import ServerEvaluator
from server.methods.method import TRAIN
from server.records import RoundPhase, Scores

_FREE: Final = frozenset({"learning_rate", "momentum", "weight_decay"})
"""Hyper-parameters that change no number of counted operations."""


@dataclass
class RoundCosts:
    """What one round, or one step of a method, cost, all clients together."""

    nbytes: int = 0
    flops: int = 0


@dataclass
class Costs:
    """Adds up costs by the number of the version that a round, or a step, works on.

    `examples` tells works of equal size apart. Verification counts for nothing: it is not the
    method's.
    `known` holds the operations of works by their keys; what is not in it is counted. `counted` is
    False where clients work out of the counter's sight.
    """

    examples: Mapping[str, int]
    known: dict[str, int] = field(default_factory=dict)
    rounds: dict[int, RoundCosts] = field(default_factory=dict)
    counted: bool = True
    _evaluations: list[tuple[float, float]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def moved(self, plan: WorkPlan, nbytes: int) -> None:
        """Counts bytes of a round."""
        if counts(plan):
            self.add_bytes(plan.version.number, nbytes)

    def add_bytes(self, version: int, nbytes: int) -> None:
        """Counts bytes of what works on the version of a number."""
        with self._lock:
            self.rounds.setdefault(version, RoundCosts()).nbytes += nbytes

    def worked(self, plan: WorkPlan, flops: int) -> None:
        """Counts the operations of a client's work."""
        if counts(plan):
            with self._lock:
                self._of(plan).flops += flops

    @contextmanager
    def around(self, client: str, plan: WorkPlan) -> Iterator[None]:
        """Counts what is computed within, in this very thread."""
        key = work_key(plan, client, self.examples.get(client, 0))
        if not counts(plan) or key in self.known:
            yield
            self.worked(plan, self.known.get(key, 0))
            return
        with FlopCounterMode(display=False) as counter:
            yield
        flops = counter.get_total_flops()
        with self._lock:
            self.known[key] = flops
        self.worked(plan, flops)

    def evaluated(self, ended_at: float, seconds: float) -> None:
        """Notes the seconds of a score on the server, which only the lab needs."""
        self._evaluations.append((ended_at, seconds))

    def evaluating(self, since: float, until: float) -> float:
        """The seconds of scores that ended between two moments, in seconds since the epoch."""
        return sum(seconds for ended, seconds in self._evaluations if since <= ended <= until)

    def _of(self, plan: WorkPlan) -> RoundCosts:
        return self.rounds.setdefault(plan.version.number, RoundCosts())


class Meter:
    """Counts a client's operations where it works, in another process than the coordinator's."""

    def __init__(self, examples: Mapping[str, int], known: Mapping[str, int]) -> None:
        self._costs = Costs(examples, dict(known))
        self._before = 0

    def around(self, client: str, plan: WorkPlan) -> AbstractContextManager[None]:
        """Counts what is computed within."""
        return self._costs.around(client, plan)

    def measured(self) -> int:
        """The operations since it was asked last."""
        total = sum(cost.flops for cost in self._costs.rounds.values())
        found, self._before = total - self._before, total
        return found


def counts(plan: WorkPlan) -> bool:
    """Whether a plan is of training or unlearning, and no look or trial beside it."""
    return plan.kind is WorkKind.TRAIN and plan.phase is not RoundPhase.VERIFICATION


def work_key(plan: WorkPlan, client: str, examples: int) -> str:
    """What a client's work is like: works of one key take as many operations."""
    work = plan.unlearning.works[client] if plan.unlearning else TRAIN
    deciding = {key: value for key, value in plan.config.items() if key not in _FREE}
    told = ",".join(f"{key}={value:g}" for key, value in sorted(deciding.items()))
    return f"{work}/{examples}/{told}"


def down_of(plan: WorkPlan, client: str) -> int:
    """The bytes of models that a plan sends to a client."""
    reference = plan.unlearning.reference_of(client) if plan.unlearning else None
    return plan.flat.nbytes + (reference.nbytes if reference is not None else 0)


class CountedCohort:
    """A cohort whose models and updates are counted on their way."""

    def __init__(self, cohort: Cohort, costs: Costs) -> None:
        self._cohort = cohort
        self._costs = costs

    def connected(self) -> frozenset[str]:
        """As the cohort."""
        return self._cohort.connected()

    def last_seen(self, client: str) -> float | None:
        """As the cohort."""
        return self._cohort.last_seen(client)

    def can_train(self, client: str) -> bool:
        """As the cohort."""
        return self._cohort.can_train(client)

    def can_evaluate(self, client: str) -> bool:
        """As the cohort."""
        return self._cohort.can_evaluate(client)

    async def wait_for_change(self, seconds: float) -> None:
        """As the cohort."""
        await self._cohort.wait_for_change(seconds)

    def call_back(self) -> None:
        """As the cohort."""
        self._cohort.call_back()

    async def work(self, plan: WorkPlan) -> AsyncGenerator[Answer, None]:
        """Counts the model that each client is sent and the update that it sends."""
        self._costs.moved(plan, sum(down_of(plan, client) for client in plan.clients))
        async with aclosing(self._cohort.work(plan)) as answers:
            async for answer in answers:
                if isinstance(answer, Update):
                    self._costs.moved(plan, answer.payload.nbytes)
                yield answer


class TimedEvaluator(ServerEvaluator):
    """A server's evaluator whose time is told apart."""

    def __init__(self, task: Task, data: SampleDataset, costs: Costs) -> None:
        super().__init__(task, data)
        self._costs = costs

    async def score(self, flat: torch.Tensor, manifest: Manifest) -> Scores:
        """As the server's."""
        started = time.perf_counter()
        try:
            return await super().score(flat, manifest)
        finally:
            self._costs.evaluated(time.time(), time.perf_counter() - started)
