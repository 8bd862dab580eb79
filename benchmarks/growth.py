"""How a round grows with the clients and with the size, and the memory with the clients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from benchmarks.contest import Result, Work, contest
from benchmarks.round import Federation, Variant
from benchmarks.tcp_limit import TcpLimit

BY_CLIENTS: Final = tuple(Work(clients, 10) for clients in (2, 8, 32, 64))
BY_SIZE: Final = tuple(Work(2, megabytes) for megabytes in (1, 10, 100, 1000))
BY_MEMORY: Final = (Work(4, 100), Work(32, 100))
ROUNDS: Final = 6


def over_clients_and_sizes(variant: Variant) -> Iterator[Result]:
    """Rounds at 10 MB with ever more clients, and of two clients with ever larger models."""
    for work in (*BY_CLIENTS, *BY_SIZE):
        yield from contest(work, [TcpLimit(work), Federation(work, variant)], 1, ROUNDS)


def over_memory(variant: Variant) -> Iterator[Result]:
    """The memory with few and with many clients at 100 MB."""
    for work in BY_MEMORY:
        yield from contest(work, [Federation(work, variant)], 1, ROUNDS)


def main() -> None:
    """Prints both."""
    for results in (over_memory, over_clients_and_sizes):
        for result in results(Variant()):
            print(result.row())


if __name__ == "__main__":
    main()
