"""A script's loop as a Task: receive, train, send."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fednot import loop
from fednot.data.in_memory import InMemoryDataset
from fednot.loop import Script, ScriptError
from fednot.task_loading import TaskLoadError, load_task
from fednot.training import TrainContext, WorkCancelledError

SCRIPT = """
import sys
import torch
import fednot.loop
from fednot.data.in_memory import InMemoryDataset

model = torch.nn.Linear(2, 2)
data = InMemoryDataset(torch.ones(4, 2), torch.zeros(4), ["a", "b", "c", "d"])
with fednot.loop.join(model, {join}) as federation:
    for work in federation:
        {body}
"""
ADD_ONE = """with torch.no_grad():
            model.weight.add_(1)
        work.send(num_examples=2, metrics={"loss": 0.5})"""
CPU = torch.device("cpu")


_started: list[Script] = []


@pytest.fixture(autouse=True)
def ended() -> Iterator[None]:
    """Ends scripts after a test: while one runs it is the process's `__main__`."""
    yield
    while _started:
        assert _started.pop().end(30.0)


def context(number: int = 1) -> TrainContext:
    return TrainContext(CPU, seed=0, round=number)


def script(folder: Path, body: str = ADD_ONE, join: str = "train_data=data") -> Script:
    path = folder / "train.py"
    path.write_text(SCRIPT.format(body=body, join=join))
    task = load_task(str(path))
    assert isinstance(task, Script)
    _started.append(task)
    return task


def data(*ids: str) -> InMemoryDataset:
    return InMemoryDataset(torch.ones(len(ids), 2), torch.zeros(len(ids)), list(ids))


def test_the_script_trains_from_what_it_is_given_and_sends_what_it_has(tmp_path: Path) -> None:
    task = script(tmp_path)
    for number in (1, 2):
        model = task.build_model()
        with torch.no_grad():
            model.weight.fill_(float(number))
        result = task.train(model, data("a", "b"), context(number))
        assert result.num_examples == 2
        assert result.metrics == {"loss": 0.5}
        assert torch.equal(model.weight, torch.full((2, 2), number + 1.0))


def test_it_trains_on_the_samples_that_are_left(tmp_path: Path) -> None:
    body = "work.send(num_examples=len(work.data), metrics={'first': float(work.data[0][1])})"
    task = script(tmp_path, body)
    assert len(task.train_data()) == 4
    assert task.unsupported_scopes == {}
    assert task.train(task.build_model(), data("c", "d", "b"), context()).num_examples == 3


def test_a_script_that_keeps_its_data_says_what_it_cannot_forget(tmp_path: Path) -> None:
    body = "assert work.data is None; work.send(num_examples=7)"
    task = script(tmp_path, body, join="num_train_examples=9")
    assert set(task.unsupported_scopes) == {"samples", "class"}
    assert len(task.train_data()) == 9
    assert task.train(task.build_model(), task.train_data(), context()).num_examples == 7


def test_work_that_is_over_does_not_wait_for_the_script(tmp_path: Path) -> None:
    told = tmp_path / "told"
    body = f"""import pathlib, time
        while not pathlib.Path({str(told)!r}).exists(): time.sleep(0.01)
        work.send(num_examples=1)"""
    task = script(tmp_path, body)
    cancelled = threading.Event()
    late = TrainContext(CPU, seed=0, round=1, cancelled=cancelled)
    threading.Timer(0.2, cancelled.set).start()
    try:
        with pytest.raises(WorkCancelledError):
            task.train(task.build_model(), data("a"), late)
    finally:
        told.touch()
    assert task.train(task.build_model(), data("a"), context(2)).num_examples == 1


def test_a_script_that_ends_as_it_sends_has_sent(tmp_path: Path) -> None:
    class Late(threading.Event):
        """Set, and its script at its end, just after the first look at it."""

        def wait(self, timeout: float | None = None) -> bool:
            before = self.is_set()
            self.set()
            return before

    Script(tmp_path / "train.py")._await(Late(), context())


def test_the_end_is_told_to_a_script_that_has_not_yet_taken_its_work() -> None:
    federation = loop.Federation(torch.nn.Linear(2, 2), data("a"), None, 0, None)
    federation.give(loop.Work(torch.nn.Linear(2, 2), data("a"), context()))
    federation.end()
    reader = threading.Thread(target=lambda: list(federation), daemon=True)
    reader.start()
    reader.join(5.0)
    assert not reader.is_alive()


def test_its_own_evaluation_is_used(tmp_path: Path) -> None:
    join = "train_data=data, test_data=data, evaluate=lambda model: {'accuracy': 0.25}"
    task = script(tmp_path, join=join)
    found = task.test_data()
    assert found is not None
    assert task.evaluate(task.build_model(), found, CPU) == {"accuracy": 0.25}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise ValueError('no such file')", "ended in the middle .* ValueError: no such file"),
        ("break", "ended in the middle"),
        ("continue", "without sending this one"),
        ("sys.exit(3)", "it exited with 3"),
        ("work.send(num_examples=1); work.send(num_examples=1)", "sent already"),
    ],
)
def test_a_script_that_does_not_do_its_part_fails_the_work(
    tmp_path: Path, body: str, message: str
) -> None:
    task = script(tmp_path, body)

    def work_twice() -> None:
        for number in (1, 2):
            task.train(task.build_model(), data("a"), context(number))

    with pytest.raises(ScriptError, match=message):
        work_twice()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("print('done')", "ended before it called fednot.loop.join"),
        ("raise OSError('no disk')", "OSError: no disk"),
        ("import fednot.loop; fednot.loop.join(None)", "either train_data or num_train_examples"),
    ],
)
def test_a_script_that_does_not_join_is_told_at_the_start(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "train.py"
    path.write_text(text)
    with pytest.raises(TaskLoadError, match=message):
        load_task(str(path))


def test_without_a_client_it_says_how_to_run_it() -> None:
    with pytest.raises(ScriptError, match="fednot-client --task"):
        loop.join(torch.nn.Linear(1, 1), num_train_examples=1)
