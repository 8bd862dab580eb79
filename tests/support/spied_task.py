"""A Task whose data writes down every id that is read, for clients of the played server."""

from __future__ import annotations

from pathlib import Path

from support.played_server import Stage

TASK = """
import os, time
from pathlib import Path
import torch
from torch import nn
import fednot

class Spied:
    def __init__(self, size, prefix, spy):
        points = torch.Generator().manual_seed(size)
        self.inputs = torch.randn(size, 4, generator=points)
        self.prefix, self.spy = prefix, spy
    def __len__(self):
        return len(self.inputs)
    def __getitem__(self, index):
        with open(self.spy, "a") as file:
            file.write(self.sample_id(index) + "\\n")
        return self.inputs[index], self.target(index)
    def target(self, index):
        return index % 4
    def sample_id(self, index):
        return f"{self.prefix}{index}"

class TinyTask(fednot.Task):
    batch_size = 4
    def __init__(self, spy=SPY):
        self.spy = Path(spy)
    def build_model(self):
        return nn.Sequential(nn.Linear(4, 256), nn.ReLU(), nn.Linear(256, 4))
    def train_data(self):
        return Spied(40, "a", self.spy)
    def test_data(self):
        return Spied(16, "t", self.spy)
    def samples_of(self, subject):
        if subject == "nobody":
            return []
        first = int(subject)
        return [f"a{first}", f"a{first + 1}"]
    def train(self, model, data, context):
        data[0]
        while context.config.get("linger"):
            context.check()
            data[0]
            time.sleep(0.01)
        return super().train(model, data, context)
"""
ALL = {f"a{index}" for index in range(40)}


def spied(path: Path, *, without: str = "") -> tuple[Stage, Path]:
    """A stage whose client runs the Task, and the file of the ids read; `without` leaves a method
    of the Task out."""
    text = TASK.replace("SPY", repr(str(path / "read")))
    stage = Stage(path, text.replace(f"def {without}(", "def unused(") if without else text)
    return stage, path / "read"


def taken(read: Path) -> set[str]:
    """The ids that were read since the last call."""
    found = set(read.read_text().split()) if read.exists() else set()
    read.unlink(missing_ok=True)
    return found
