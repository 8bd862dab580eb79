"""A Flower app for the SuperLink deployment: a ServerApp with FedAvg, a ClientApp without training.

It is copied into an app of its own, which Flower packs and sends to its processes, so it stands
alone. Times go to the file that the run's configuration names.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

TENSORS = 10
ROUND_SECONDS = 300


def _arrays(nbytes: int) -> ArrayRecord:
    random = np.random.default_rng()
    values = random.standard_normal(nbytes // 4, dtype=np.float32)
    return ArrayRecord(np.array_split(values, TENSORS))


class TimedFedAvg(FedAvg):
    """FedAvg that writes when each aggregation ended, and how many clients were in it."""

    def __init__(self, times: str, **named: Any) -> None:
        super().__init__(**named)
        self._times = Path(times)

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
        """Averages, then writes a line."""
        all_replies = list(replies)
        made = super().aggregate_train(server_round, all_replies)
        good = sum(not reply.has_error() for reply in all_replies)
        with self._times.open("a") as file:
            file.write(json.dumps([server_round, time.monotonic(), good]) + "\n")
        return made


server = ServerApp()


@server.main()
def serve(grid: Grid, context: Context) -> None:
    """Runs the rounds of the run's configuration."""
    config = context.run_config
    strategy = TimedFedAvg(
        times=str(config["times"]),
        fraction_train=1.0,
        fraction_evaluate=0.0,
        min_train_nodes=int(config["clients"]),
        min_available_nodes=int(config["clients"]),
    )
    strategy.start(
        grid=grid,
        initial_arrays=_arrays(int(config["bytes"])),
        num_rounds=int(config["rounds"]),
        timeout=ROUND_SECONDS,
    )


client = ClientApp()


@client.train()
def train(message: Message, context: Context) -> Message:
    """Answers with random arrays, made anew since each round has a process of its own."""
    content = RecordDict(
        {
            "arrays": _arrays(int(context.run_config["bytes"])),
            "metrics": MetricRecord({"num-examples": 100}),
        }
    )
    return Message(content=content, reply_to=message)
