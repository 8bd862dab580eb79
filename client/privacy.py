"""Differential privacy on this client: each round's steps, and what all of them have spent.

The history is a file of the state directory. What a round spends is on the disk before its update
is handed on, so a crash can only count too much.
"""

from __future__ import annotations

import json
import logging
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from torch import nn

from client.settings import ClientSettings
from client.state_directory import StateDirectory
from fednot.errors import FednotError, Reason
from fednot.privacy.costs import Noise, Steps
from fednot.task import SampleDataset, Task
from fednot.training import Plan, TrainContext, TrainResult
from fednot.v1 import federation_pb2
from fednot.whole_file import write_whole

HISTORY_FILE: Final = "privacy.json"

_log = logging.getLogger("client")


class HistoryError(ValueError):
    """A history of spent privacy that cannot be read; the message says what to do."""


@dataclass(frozen=True)
class Spent:
    """What was spent: `epsilon` at `delta` in so many noisy steps; `limit` 0 for none.

    `exhausted` says that a round was refused, since it would have passed the limit.
    """

    epsilon: float
    delta: float
    limit: float
    steps: int
    exhausted: bool = False

    def message(self) -> federation_pb2.PrivacySpent:
        """What the server is told with each heartbeat."""
        return federation_pb2.PrivacySpent(
            epsilon=self.epsilon, delta=self.delta, epsilon_limit=self.limit, steps=self.steps
        )

    def __str__(self) -> str:
        of = f" of {self.limit:g}" if self.limit else ""
        end = "; the next round would pass it, so it is refused" if self.exhausted else ""
        return f"epsilon {self.epsilon:.3f}{of} at delta {self.delta:g}, {self.steps} steps{end}"


@dataclass(frozen=True)
class History:
    """All noisy steps that went into updates, and whether an update without noise was made."""

    taken: tuple[Steps, ...] = ()
    unprotected: bool = False

    @classmethod
    def read(cls, path: Path) -> History:
        """The history of a file; an empty one if there is none. Raises HistoryError."""
        try:
            row = json.loads(path.read_text(encoding="utf-8"))
            taken = tuple(
                Steps(
                    Noise(float(each["noise"]), float(each["clip"])),
                    _share(each["rate"]),
                    int(each["steps"]),
                )
                for each in row["taken"]
            )
            return cls(taken, bool(row["unprotected"]))
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
            raise HistoryError(
                f"{path} tells what training has spent of its privacy and cannot be read "
                f"({type(error).__name__}: {error}); restore it from a backup. Without it nobody "
                "knows what was spent"
            ) from error

    def write(self, path: Path) -> None:
        """Writes the history, whole and durably. Raises OSError."""
        rows = [
            {
                "noise": each.noise.multiplier,
                "clip": each.noise.clip,
                "rate": each.rate,
                "steps": each.count,
            }
            for each in self.taken
        ]
        row = {"taken": rows, "unprotected": self.unprotected}
        write_whole(path, json.dumps(row, indent=1) + "\n")

    def with_steps(self, steps: Steps) -> History:
        """This history and more steps; steps like the last ones are counted with them."""
        *before, last = (*self.taken, steps)
        if before and (before[-1].noise, before[-1].rate) == (last.noise, last.rate):
            last = replace(last, count=before.pop().count + last.count)
        return replace(self, taken=(*before, last))

    def epsilon(self, delta: float) -> float:
        """What was spent at a delta; infinite once an update without noise was made."""
        if self.unprotected:
            return math.inf
        if not self.taken:
            return 0.0
        from fednot.privacy.accounting import epsilon

        return epsilon(self.taken, delta)


def _share(value: object) -> float:
    rate = float(value)  # type: ignore[arg-type]
    if not 0 < rate <= 1:
        raise ValueError(f"rate {rate} is not between 0 and 1")
    return rate


def _unheard(_: Spent) -> None:
    """Nobody wants to know what was spent."""


@dataclass
class Privacy:
    """How this client trains, and what its training has spent since its state directory began.

    With `noise` None it trains without noise, which is noted once: nothing that it is told later
    can bound what those updates have told. `on_spent` hears of each change, in the thread that
    trains.
    """

    path: Path
    noise: Noise | None = None
    delta: float = 1e-5
    limit: float = 0.0
    on_spent: Callable[[Spent], None] = _unheard
    history: History = field(init=False)

    def __post_init__(self) -> None:
        """Raises HistoryError if the history cannot be read."""
        self.history = History.read(self.path)
        self._exhausted = False
        self._lock = threading.Lock()
        self._spent: Spent | None = None
        if self.noise is not None:
            self._tell()

    @classmethod
    def of(
        cls, settings: ClientSettings, state: StateDirectory, on_spent: Callable[[Spent], None]
    ) -> Privacy:
        """What the settings ask for. Raises HistoryError, and OSError if it cannot be written.

        A state directory that has joined a federation and holds no history is of an older version,
        or has lost it: what it has spent has no bound.
        """
        noise = Noise(settings.dp_noise, settings.dp_clip) if settings.dp_noise else None
        if noise is not None and not settings.dp_epsilon:
            _log.warning(
                "without --dp-epsilon the server decides how much privacy is spent, by the number "
                "of rounds and the length of each"
            )
        path = state.path / HISTORY_FILE
        if not path.exists():
            History(unprotected=state.identity is not None).write(path)
        return cls(path, noise, settings.dp_delta, settings.dp_epsilon, on_spent)

    @property
    def spent(self) -> Spent | None:
        """What was spent; None if this client trains without noise."""
        return self._spent

    def afford(self, task: Task, data: SampleDataset, context: TrainContext) -> None:
        """Raises FednotError (PRIVACY_SPENT) if a round of training would pass the limit.

        Raises ValueError if there is nothing to train on.
        """
        if self.noise is None or not self.limit:
            return
        steps = Steps.of(Plan.of(task, data, context), self.noise)
        after = self.history.with_steps(steps).epsilon(self.delta)
        refused = after > self.limit
        if refused != self._exhausted:
            self._exhausted = refused
            self._tell()
        if refused and self._spent is not None:
            raise FednotError(
                Reason.PRIVACY_SPENT,
                f"this client has spent epsilon {self._spent.epsilon:.3f}, the round would make it "
                f"{after:.3f}, and its --dp-epsilon is {self.limit:g}",
            )

    def train(
        self, task: Task, model: nn.Module, data: SampleDataset, context: TrainContext
    ) -> TrainResult:
        """Trains the model in place and notes what that spent before it returns.

        Raises what the Task or the private loop raises, FednotError as `afford` does, and OSError
        if the note cannot be written: then nothing of the training may leave.
        """
        if self.noise is None:
            self._note_unprotected()
            return task.train(model, data, context)
        from fednot.privacy import sgd

        self.afford(task, data, context)
        steps = Steps.of(Plan.of(task, data, context), self.noise)
        result = sgd.train(task, model, data, context, self.noise)
        with self._lock:
            after = self.history.with_steps(steps)
            after.write(self.path)
            self.history = after
        self._tell()
        _log.info("privacy spent so far: %s", self._spent)
        return result

    def unprotected(self, name: str) -> None:
        """Notes, before it begins, that named work is done without noise.

        Raises ValueError if this client trains with noise, OSError if the note cannot be written.
        """
        if self.noise is not None:
            raise ValueError(
                f"the work {name!r} adds no noise, and this client trains under --dp-noise; the "
                "deletion needs another method"
            )
        self._note_unprotected()

    def _note_unprotected(self) -> None:
        with self._lock:
            if not self.history.unprotected:
                after = replace(self.history, unprotected=True)
                after.write(self.path)
                self.history = after

    def _tell(self) -> None:
        self._spent = Spent(
            self.history.epsilon(self.delta),
            self.delta,
            self.limit,
            sum(each.count for each in self.history.taken),
            self._exhausted,
        )
        self.on_spent(self._spent)
