"""A small Task on real digits whose training a test can hold back."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from fednot import SampleDataset, Task, TrainContext, TrainResult
from fednot.data.mnist5k import mnist5k
from fednot.data.subset import Subset
from fednot.zoo.cnn import Cnn

CLIENT_SIZE = 200
TEST_SIZE = 200
OWN_TEST_START = 4000
OWN_TEST_MOST = 100
HELD_SECONDS = 600
_digits = functools.cache(mnist5k)


class SmallDigits(Task):
    """200 digits for each client; `client` "" is the server's side, which holds 200 test digits.

    Training waits as long as the file `hold` exists, from the round on that it may name, and raises
    as long as the file `fail` exists, or on the rank that the file `fail_rank` names. Evaluation
    waits as long as the file `hold_test` exists.
    With `client_test` "yes" a client holds the server's test digits, with a number that many of its
    own; with `server_test` "no" the server holds none. `trace` "no" saves a server's start the
    tracing, `hidden` makes another model;
    `proxy` "yes" has digits of the server's own to distil on.
    """

    def __init__(
        self,
        client: str = "",
        hold: str = "",
        fail: str = "",
        server_test: str = "yes",
        client_test: str = "no",
        trace: str = "yes",
        hidden: str = "32",
        hold_test: str = "",
        fail_rank: str = "",
        proxy: str = "no",
    ) -> None:
        self._client = int(client) if client else None
        self._hold = Path(hold) if hold else None
        self._fail = Path(fail) if fail else None
        self._test = client_test if client else server_test
        self._trace = trace == "yes"
        self._proxy = proxy == "yes"
        self._hidden = int(hidden)
        self._fail_rank = Path(fail_rank) if fail_rank else None
        self._hold_test = Path(hold_test) if hold_test else None
        self._digits = _digits()
        self._order = torch.randperm(5000, generator=torch.Generator().manual_seed(1)).tolist()

    def build_model(self) -> nn.Module:
        return Cnn(widths=(4, 8), hidden=self._hidden)

    def train_data(self) -> SampleDataset:
        start = TEST_SIZE + CLIENT_SIZE * (self._client or 0)
        return Subset(self._digits, self._order[start : start + CLIENT_SIZE])

    def test_data(self) -> SampleDataset | None:
        if self._test == "no":
            return None
        if self._test == "yes":
            return Subset(self._digits, self._order[:TEST_SIZE])
        start = OWN_TEST_START + OWN_TEST_MOST * (self._client or 0)
        return Subset(self._digits, self._order[start : start + int(self._test)])

    def proxy_data(self) -> SampleDataset | None:
        return Subset(self._digits, self._order[4500:4700]) if self._proxy else None

    def example_input(self) -> torch.Tensor | None:
        return self._digits.inputs[:1] if self._trace else None

    def train(self, model: nn.Module, data: SampleDataset, context: TrainContext) -> TrainResult:
        until = time.monotonic() + HELD_SECONDS
        while self._is_held(context.round) and time.monotonic() < until:
            context.check()
            time.sleep(0.02)
        if self._fails(context.rank):
            raise RuntimeError("the disk with the digits is gone")
        return super().train(model, data, context)

    def evaluate(
        self, model: nn.Module, data: SampleDataset, device: torch.device
    ) -> Mapping[str, float]:
        until = time.monotonic() + HELD_SECONDS
        while self._hold_test is not None and self._hold_test.exists():
            if time.monotonic() > until:
                break
            time.sleep(0.02)
        return super().evaluate(model, data, device)

    def _fails(self, rank: int) -> bool:
        here = self._fail_rank is not None and self._fail_rank.exists()
        if here and self._fail_rank is not None and rank == int(self._fail_rank.read_text()):
            return True
        return self._fail is not None and self._fail.exists()

    def _is_held(self, number: int) -> bool:
        if self._hold is None:
            return False
        try:
            return number >= int(self._hold.read_text() or 0)
        except FileNotFoundError:
            return False
