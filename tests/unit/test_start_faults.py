"""What a user's Task raises at the start is told in a sentence, on both sides."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from client.settings import ClientSettings
from client.startup import StartError, prepare
from fednot import Task
from fednot.task_loading import TaskLoadError, calling
from server import initial_model

BROKEN = """
import fednot
from fednot.data import DataError
from torch import nn

class Broken(fednot.Task):
    def build_model(self):
        return nn.Linear(1, 1)

    def test_data(self):
        raise DataError("the disk is not mounted")
"""


class WrongFirstLayer(Task):
    def build_model(self) -> nn.Module:
        return nn.Linear(2, 2)

    def first_layers(self, model: nn.Module) -> list[str]:
        return ["no.such.weight"]

    def example_input(self) -> torch.Tensor:
        return torch.zeros(1, 2)


def test_whatever_a_task_raises_names_the_task() -> None:
    told = r"my_task.py:Mine failed at the start: 'no' \(KeyError\)"
    with pytest.raises(TaskLoadError, match=told), calling("my_task.py:Mine"):
        raise KeyError("no")


def test_a_wrong_first_layer_is_told_as_the_tasks_fault() -> None:
    initial = initial_model.from_task(WrongFirstLayer(), seed=0)
    with pytest.raises(TaskLoadError, match=r"WrongFirstLayer failed.*no\.such\.weight"):
        initial.trace()


def test_a_client_whose_task_has_no_training_data_says_so(tmp_path: Path) -> None:
    place = tmp_path / "broken.py"
    place.write_text(BROKEN)
    settings = ClientSettings(
        name="a", task=f"{place}:Broken", insecure=True, state_dir=tmp_path / "state"
    )
    with pytest.raises(StartError, match=r"must define train_data\(\)"):
        prepare(settings)


def test_a_server_whose_task_fails_exits_with_2_and_a_sentence(tmp_path: Path) -> None:
    place = tmp_path / "broken.py"
    place.write_text(BROKEN)
    flags = ["--insecure", "--state-dir", str(tmp_path / "state"), "--task", f"{place}:Broken"]
    ended = subprocess.run(
        [sys.executable, "-m", "server", *flags],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2
    assert "the disk is not mounted" in ended.stderr
    assert "Traceback" not in ended.stderr
