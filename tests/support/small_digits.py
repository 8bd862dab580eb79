"""A small Task on real digits whose training a test can hold back."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from torch import nn

from fednot import SampleDataset, Task, TrainContext, TrainResult
from fednot.data.mnist5k import mnist5k
from fednot.data.subset import Subset
from fednot.zoo.cnn import Cnn

CLIENT_SIZE = 200
TEST_SIZE = 200


class SmallDigits(Task):
    """200 digits for each client; `client` "" is the server's side, which holds 200 test digits.

    Training waits as long as the file `hold` exists; with `client_test` "yes" clients hold test
    digits too, with `server_test` "no" the server holds none.
    """

    def __init__(
        self, client: str = "", hold: str = "", server_test: str = "yes", client_test: str = "no"
    ) -> None:
        self._client = int(client) if client else None
        self._hold = Path(hold) if hold else None
        self._holds_test = client_test == "yes" if client else server_test == "yes"
        self._digits = mnist5k()
        self._order = torch.randperm(5000, generator=torch.Generator().manual_seed(1)).tolist()

    def build_model(self) -> nn.Module:
        return Cnn(widths=(4, 8), hidden=32)

    def train_data(self) -> SampleDataset:
        start = TEST_SIZE + CLIENT_SIZE * (self._client or 0)
        return Subset(self._digits, self._order[start : start + CLIENT_SIZE])

    def test_data(self) -> SampleDataset | None:
        return Subset(self._digits, self._order[:TEST_SIZE]) if self._holds_test else None

    def example_input(self) -> torch.Tensor:
        return self._digits.inputs[:1]

    def train(self, model: nn.Module, data: SampleDataset, context: TrainContext) -> TrainResult:
        until = time.monotonic() + 60
        while self._hold is not None and self._hold.exists() and time.monotonic() < until:
            context.check()
            time.sleep(0.02)
        return super().train(model, data, context)
