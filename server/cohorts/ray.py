"""A cohort on Ray: each client is an actor that holds its Task, on this machine or on a cluster.

Ray is imported only here and when a cohort is made; install fednot[lab]. Ray serialises plans and
answers between its own processes, so a cluster must be one that nobody else can enter.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Final, Protocol

import numpy as np
import torch

from fednot.codecs.none import Plain
from fednot.errors import FednotError
from fednot.task import Task
from server.blocks import Block
from server.cohorts.cohort import Answer, NoAnswer, Update, WorkPlan
from server.cohorts.in_process import InProcessCohort
from server.records import Scores

JOIN_SECONDS: Final = 300.0
"""How long an actor may take to build its Task and read its data."""


_OWN: Final = {
    "address": "local",
    "include_dashboard": False,
    "_system_config": {"worker_niceness": 0},
}
"""A local Ray: nobody else works on it, and Ray's niceness of 15 would starve actors beside whoever
waits for them (five minutes instead of half a one on two busy cores)."""


class RayMissingError(RuntimeError):
    """Ray is not installed, or cannot be reached; the message says what to do."""


class Meter(Protocol):
    """Measures a client's work where it is done, in the actor."""

    def around(self, client: str, plan: WorkPlan) -> AbstractContextManager[None]:
        """Is entered for the work, in its thread."""
        ...

    def measured(self) -> int:
        """What the last work came to."""
        ...


@dataclass(frozen=True)
class _Sent:
    """An update on its way from an actor: `payload` is uint8 of shape [nbytes]."""

    num_examples: int
    payload: np.ndarray[Any, Any]
    metrics: Scores


class Member:
    """One client, within an actor's process, whose works are numbered.

    `end` is called while `work` runs; since Ray may turn the two around, each names its number.
    """

    def __init__(
        self, name: str, make: Callable[[], Task], meter: Callable[[], Meter] | None
    ) -> None:
        torch.set_num_threads(1)
        self._name = name
        self._meter = meter() if meter is not None else None
        around = self._meter.around if self._meter is not None else None
        task = make()
        self._cohort = InProcessCohort({name: task}, around=around)
        self._size = len(task.train_data())
        self._over: dict[int, threading.Event] = {}
        self._lock = threading.Lock()

    def size(self) -> int:
        """How many samples it trains on; also says that it is ready."""
        return self._size

    def can_evaluate(self) -> bool:
        """Whether it has test data."""
        return self._cohort.can_evaluate(self._name)

    def end(self, number: int) -> None:
        """The work of a number is over, begun or not; what it still computes is dropped."""
        self._over_of(number).set()
        with self._lock:
            self._over = {each: over for each, over in self._over.items() if each >= number}

    def work(self, plan: WorkPlan, number: int) -> tuple[_Sent | Answer, int]:
        """Its answer to a plan, and what its meter says of the work."""
        torch.set_num_threads(1)
        answer = self._cohort.answer(self._name, plan, self._over_of(number))
        measured = self._meter.measured() if self._meter is not None else 0
        if isinstance(answer, Update):
            payload = answer.payload.tensor.numpy()
            return _Sent(answer.num_examples, payload, answer.metrics), measured
        return answer, measured

    def _over_of(self, number: int) -> threading.Event:
        with self._lock:
            return self._over.setdefault(number, threading.Event())


class RayCohort:
    """Clients by name, each an actor whose Task `tasks` makes there.

    `meter` makes what measures work in each actor, and `metered` is told what it says. The answers
    of a round come in the order of its clients, so that a sum is the same as in one process.
    """

    def __init__(
        self,
        tasks: Mapping[str, Callable[[], Task]],
        *,
        address: str = "",
        meter: Callable[[], Meter] | None = None,
        metered: Callable[[WorkPlan, int], None] = lambda _plan, _measured: None,
    ) -> None:
        """Connects to the cluster of an address, else to a local Ray of its own, until `close`.

        Raises RayMissingError.
        """
        self._ray = _connected(address)
        actor = self._ray.remote(num_cpus=1 if address else 0, max_concurrency=2)(Member)
        self._actors = {name: actor.remote(name, make, meter) for name, make in tasks.items()}
        self._metered = metered
        self._numbers = count(1)
        self.refusals: dict[str, FednotError] = {}
        try:
            sizes = [each.size.remote() for each in self._actors.values()]
            self._ray.get(sizes, timeout=JOIN_SECONDS)
            tests = {name: each.can_evaluate.remote() for name, each in self._actors.items()}
            self._tests = {
                name: bool(self._ray.get(found, timeout=JOIN_SECONDS))
                for name, found in tests.items()
            }
        except Exception as error:
            self.close()
            raise RayMissingError(f"a client's actor could not be made: {error}") from error

    def close(self) -> None:
        """Ends the actors, and the local Ray."""
        for actor in self._actors.values():
            self._ray.kill(actor)
        self._ray.shutdown()

    def connected(self) -> frozenset[str]:
        """Every member."""
        return frozenset(self._actors)

    def last_seen(self, client: str) -> float | None:
        """Now, for every member."""
        return time.time() if client in self._actors else None

    def can_train(self, client: str) -> bool:
        """Every member has training data."""
        return client in self._actors

    def can_evaluate(self, client: str) -> bool:
        """Whether the member has test data."""
        return self._tests[client]

    async def wait_for_change(self, seconds: float) -> None:
        """Members never change; gives the event loop a turn."""
        await asyncio.sleep(min(seconds, 0.05))

    def call_back(self) -> None:
        """Members keep nothing that an order could be about."""

    async def work(self, plan: WorkPlan) -> AsyncGenerator[Answer, None]:
        """Runs the plan on all clients at once, until its deadline."""
        sent = self._ray.put(replace(plan, release=_keep))
        until = time.monotonic() + plan.deadline
        with self._numbered(plan) as number:
            references = {
                name: self._actors[name].work.remote(sent, number) for name in plan.clients
            }
            waiting = {name: asyncio.wrap_future(r.future()) for name, r in references.items()}
            for client, future in waiting.items():
                left = max(0.0, until - time.monotonic())
                done, _ = await asyncio.wait([future], timeout=left)
                if not done:
                    yield NoAnswer(client, f"no answer in {plan.deadline:g} s")
                    continue
                yield self._answer(client, plan, future)

    @contextmanager
    def _numbered(self, plan: WorkPlan) -> Iterator[int]:
        number = next(self._numbers)
        try:
            yield number
        finally:
            for name in plan.clients:
                self._actors[name].end.remote(number)

    def _answer(self, client: str, plan: WorkPlan, future: asyncio.Future[Any]) -> Answer:
        try:
            found, measured = future.result()
        except Exception as error:
            return NoAnswer(client, f"{type(error).__name__}: {error}")
        self._metered(plan, measured)
        if not isinstance(found, _Sent):
            answer: Answer = found
            return answer
        block = Block.of(torch.from_numpy(found.payload.copy()))
        settle = self._settle(client)
        return Update(client, found.num_examples, block, Plain(), found.metrics, settle)

    def _settle(self, client: str) -> Callable[[FednotError | None], None]:
        def settle(refusal: FednotError | None) -> None:
            if refusal is not None:
                self.refusals[client] = refusal

        return settle


def _keep(_start: int, _stop: int) -> None:
    """Gives no pages back: the actor's copy of the model is its own."""


def _connected(address: str) -> Any:
    try:
        import ray
    except ImportError as error:
        raise RayMissingError(
            "Ray is not installed: pip install '.[lab]' in the checkout, or do without it"
        ) from error
    told: dict[str, Any] = {"address": address} if address else dict(_OWN)
    try:
        ray.init(log_to_driver=False, configure_logging=False, **told)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise RayMissingError(f"Ray cannot be reached at {address or 'home'}: {error}") from error
    return ray
