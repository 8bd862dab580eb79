"""Flower's older, bidirectional gRPC: `start_server` and `start_client`, run by Flower's Python.

The server does as many rounds as each line of its stdin says and answers with their seconds, each
from the end of the aggregation before it to the end of its own.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

import numpy as np
from flwr.client import NumPyClient
from flwr.common import ndarrays_to_parameters
from flwr.compat.client.app import start_client
from flwr.compat.server.app import start_server
from flwr.server import ServerConfig
from flwr.server.strategy import FedAvg

from benchmarks.processes import fork, say

TENSORS = 10
LONGEST_MESSAGE = (1 << 31) - 1
MANY = 1_000_000


def arrays(nbytes: int) -> list[np.ndarray]:
    """Random float32 arrays that take `nbytes` in all."""
    random = np.random.default_rng()
    return [
        part * np.float32(0.01)
        for part in np.array_split(random.standard_normal(nbytes // 4, dtype=np.float32), TENSORS)
    ]


class TimedFedAvg(FedAvg):
    """FedAvg that waits for leave to go on, and times its rounds."""

    left = 0
    seconds: list[float]
    began = 0.0

    def configure_fit(self, server_round: int, *rest: Any, **named: Any) -> Any:
        """Waits for a line of stdin once the rounds of the one before are done."""
        if not self.left:
            line = sys.stdin.readline()
            if not line:
                raise SystemExit
            self.left, self.seconds, self.began = int(line), [], time.perf_counter()
        return super().configure_fit(server_round, *rest, **named)

    def aggregate_fit(self, server_round: int, results: Any, failures: Any) -> Any:
        """Averages, and answers when it was the last round."""
        made = super().aggregate_fit(server_round, results, failures)
        if failures:
            raise RuntimeError(f"{len(failures)} clients failed: {failures[0]}")
        now = time.perf_counter()
        self.seconds.append(now - self.began)
        self.began = now
        self.left -= 1
        if not self.left:
            say(self.seconds)
        return made


def _serve(address: str, clients: int, nbytes: int) -> None:
    strategy = TimedFedAvg(
        fraction_fit=1.0,
        fraction_evaluate=0.0,
        min_fit_clients=clients,
        min_available_clients=clients,
        accept_failures=False,
        initial_parameters=ndarrays_to_parameters(arrays(nbytes)),
    )
    start_server(
        server_address=address,
        config=ServerConfig(num_rounds=MANY),
        strategy=strategy,
        grpc_max_message_length=LONGEST_MESSAGE,
    )


class ReadyClient(NumPyClient):
    """Answers with an update that was made beforehand."""

    def __init__(self, nbytes: int) -> None:
        self._ready = arrays(nbytes)

    def fit(self, parameters: Any, config: Any) -> Any:
        """The update that was made beforehand."""
        return self._ready, 100, {}


def _send(address: str, nbytes: int) -> None:
    start_client(
        server_address=address,
        client=ReadyClient(nbytes).to_client(),
        insecure=True,
        grpc_max_message_length=LONGEST_MESSAGE,
        max_wait_time=60.0,
    )


def main() -> None:
    """Serves, or runs the clients."""
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=("serve", "send"))
    parser.add_argument("--address", required=True)
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--bytes", type=int, required=True)
    given = parser.parse_args()
    if given.role == "serve":
        _serve(given.address, given.clients, given.bytes)
    else:
        fork(given.clients, lambda _: _send(given.address, given.bytes))


if __name__ == "__main__":
    main()
