"""A training script of one's own as a federation's client: receive, train, send.

The client runs the script in a thread of its own (`fednot-client --task train.py`), which joins
with its model and its data and then gets one piece of work after another::

    with fednot.loop.join(model, train_data=data) as federation:
        for work in federation:
            train(model, work.data)
            work.send(num_examples=len(work.data))

`model` holds the federation's weights whenever work is received, and what is in it is sent.
"""

from __future__ import annotations

import contextlib
import copy
import queue
import runpy
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final, Self

import torch
from torch import nn

from fednot.task import SampleDataset, Task
from fednot.training import TrainContext, TrainResult

JOIN_SECONDS: Final = 600.0
"""So long a script may take until it joins."""
TICK: Final = 0.2

Evaluate = Callable[[nn.Module], Mapping[str, float]]

_OWN_DATA: Final = (
    "the script reads its data itself; give join() its train_data and train on work.data"
)


class ScriptError(RuntimeError):
    """A script that does not do its part; the message says what to do."""


class Work:
    """One round's training: `data` is what may be trained on, None if the script gave none."""

    def __init__(self, given: nn.Module, data: SampleDataset | None, context: TrainContext) -> None:
        self.data = data
        self.context = context
        self.result: TrainResult | None = None
        self.trained: dict[str, torch.Tensor] = {}
        self.done = threading.Event()
        self._given = given
        self._own: nn.Module | None = None

    @property
    def round(self) -> int:
        """The federation's round."""
        return self.context.round

    @property
    def config(self) -> Mapping[str, float]:
        """The run's overrides of hyper-parameters."""
        return self.context.config

    @property
    def is_over(self) -> bool:
        """Whether the round is over, so that the loop may `continue` with the next work."""
        return self.context.cancelled.is_set()

    def send(self, *, num_examples: int, metrics: Mapping[str, float] | None = None) -> None:
        """Sends what is in the model, trained on so many examples.

        Raises ScriptError if it was sent already; a round that is over takes it and drops it.
        """
        if self.result is not None or self._own is None:
            raise ScriptError("this work was sent already; take the next from the loop")
        state = self._own.state_dict()
        self.trained = {name: tensor.detach().cpu().clone() for name, tensor in state.items()}
        self.result = TrainResult(num_examples, dict(metrics or {}))
        self.done.set()

    def receive_into(self, own: nn.Module) -> None:
        """Loads the federation's weights into the script's model."""
        self._own = own
        own.load_state_dict(self._given.state_dict())


class Federation:
    """What a script joined: iterate over it for work, until the client ends."""

    def __init__(
        self,
        model: nn.Module,
        train_data: SampleDataset | None,
        test_data: SampleDataset | None,
        num_train_examples: int,
        evaluate: Evaluate | None,
    ) -> None:
        self.model = model
        self.train_data = train_data
        self.test_data = test_data
        self.num_train_examples = num_train_examples
        self.evaluate = evaluate
        self.initial = copy.deepcopy(model).cpu()
        self._waiting: queue.Queue[Work | None] = queue.Queue(maxsize=1)
        self.ready = threading.Event()
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is held."""

    def __iter__(self) -> Iterator[Work]:
        """Yields work as it comes. Work that was not sent when the next is asked for has failed."""
        while not self._ended.is_set():
            self.ready.set()
            work = self._waiting.get()
            self.ready.clear()
            if work is None:
                return
            work.receive_into(self.model)
            yield work
            work.done.set()

    def give(self, work: Work) -> None:
        """Hands work to the script, which must be ready for it."""
        self._waiting.put_nowait(work)

    def end(self) -> None:
        """Ends the script's loop once it asks for more work."""
        self._ended.set()
        with contextlib.suppress(queue.Full):  # it is to take work first, and asks by then
            self._waiting.put_nowait(None)


def join(
    model: nn.Module,
    *,
    train_data: SampleDataset | None = None,
    test_data: SampleDataset | None = None,
    num_train_examples: int = 0,
    evaluate: Evaluate | None = None,
) -> Federation:
    """Joins the federation of the client that runs this script.

    Give either `train_data`, and train on `work.data`, from which forgotten samples are taken out;
    or `num_train_examples`, the most that the script trains on: then deletions of samples and
    classes are refused. `evaluate` scores a model in place of the default, on `test_data`. Raises
    ScriptError if no client runs this script, or if neither is given.
    """
    script = _running.get(threading.get_ident())
    if script is None:
        raise ScriptError(
            "no client runs this script; start it with fednot-client --task SCRIPT.py"
        )
    if (train_data is None) == (num_train_examples < 1):
        raise ScriptError("give join() either train_data or num_train_examples")
    joined = Federation(model, train_data, test_data, num_train_examples, evaluate)
    script.joined.put(joined)
    return joined


class Script(Task):
    """A Task whose training is a script's loop; see `join`."""

    def __init__(self, path: Path) -> None:
        self.joined: queue.Queue[Federation] = queue.Queue()
        self._path = path
        self._fault = ""
        self._thread: threading.Thread | None = None
        self._federation: Federation | None = None

    @classmethod
    def started(cls, path: Path, arguments: Sequence[str] = ()) -> Script:
        """Runs a script until it joins. Raises ScriptError if it does not."""
        if not path.is_file():
            raise ScriptError(f"{path} does not exist")
        script = cls(path)
        script._start(arguments)
        return script

    def _start(self, arguments: Sequence[str]) -> None:
        self._thread = threading.Thread(
            target=self._run, args=(tuple(arguments),), name="fednot-script", daemon=True
        )
        self._thread.start()
        waited = 0.0
        while waited < JOIN_SECONDS:
            try:
                self._federation = self.joined.get(timeout=TICK)
                break
            except queue.Empty:
                waited += TICK
                self._check_runs("before it called fednot.loop.join", self.joined.qsize)
        else:
            raise ScriptError(f"{self._path} did not call fednot.loop.join in {JOIN_SECONDS:g} s")
        if self._federation.train_data is None:
            reasons = {"samples": _OWN_DATA, "class": _OWN_DATA}
            self.unsupported_scopes = MappingProxyType(reasons)

    def end(self, within: float) -> bool:
        """Has the script's loop end when it asks for more work; False if it has not in time."""
        if self._federation is not None:
            self._federation.end()
        if self._thread is not None:
            self._thread.join(within)
        return self._thread is None or not self._thread.is_alive()

    def build_model(self) -> nn.Module:
        """The model as the script made it."""
        return copy.deepcopy(self._own.initial)

    def train_data(self) -> SampleDataset:
        """What the script joined with, or as many samples that only it can read."""
        found = self._own.train_data
        return found if found is not None else _Unread(self._own.num_train_examples)

    def test_data(self) -> SampleDataset | None:
        """What the script joined with."""
        return self._own.test_data

    def train(self, model: nn.Module, data: SampleDataset, context: TrainContext) -> TrainResult:
        """Hands the work to the script and waits until it is sent, or the round is over.

        Raises ScriptError if the script ends, or goes on to the next work without sending.
        """
        own = self._own
        self._await(own.ready, context)
        readable = None if own.train_data is None else data
        work = Work(model, readable, context)
        own.ready.clear()
        own.give(work)
        self._await(work.done, context)
        if work.result is None:
            raise ScriptError(f"{self._path} asked for the next work without sending this one")
        model.load_state_dict(work.trained)
        return work.result

    def evaluate(
        self, model: nn.Module, data: SampleDataset, device: torch.device
    ) -> Mapping[str, float]:
        """As the script's own `evaluate`, else as every Task."""
        own = self._own.evaluate
        return own(model) if own is not None else super().evaluate(model, data, device)

    @property
    def _own(self) -> Federation:
        if self._federation is None:
            raise ScriptError(f"{self._path} has not joined")
        return self._federation

    def _await(self, event: threading.Event, context: TrainContext) -> None:
        while not event.wait(TICK):
            context.check()
            self._check_runs("in the middle of the federation's work", event.is_set)

    def _check_runs(self, when: str, unless: Callable[[], object]) -> None:
        """Raises ScriptError if the script has ended, unless it did at last what is waited for."""
        if (self._thread is None or not self._thread.is_alive()) and not unless():
            raise ScriptError(
                f"{self._path} ended {when}" + (f": {self._fault}" if self._fault else "")
            )

    def _run(self, arguments: tuple[str, ...]) -> None:
        _running[threading.get_ident()] = self
        before, sys.argv = sys.argv, [str(self._path), *arguments]
        try:
            runpy.run_path(str(self._path), run_name="__main__")
        except SystemExit as error:
            self._fault = f"it exited with {error.code}"
        except BaseException as error:
            self._fault = f"{type(error).__name__}: {error}"
        finally:
            sys.argv = before
            _running.pop(threading.get_ident(), None)


class _Unread:
    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        raise ScriptError(f"sample {index} cannot be read: {_OWN_DATA}")

    def sample_id(self, index: int) -> str:
        return f"script:{index}"


_running: Final[dict[int, Script]] = {}
