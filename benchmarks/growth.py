"""How a round grows with the clients and with the size, and the memory with the clients."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from benchmarks.contest import Result, Work, contest
from benchmarks.round import Federation, Variant
from benchmarks.tcp_limit import TcpLimit

BY_CLIENTS: Final = tuple(Work(clients, 10) for clients in (2, 8, 32, 64))
BY_SIZE: Final = tuple(Work(2, megabytes) for megabytes in (1, 10, 100, 1000))
BY_MEMORY: Final = (Work(4, 100), Work(32, 100))
LARGE: Final = Work(2, 1000)
BUDGET: Final = "512MB"
ROUNDS: Final = 6


def over_clients_and_sizes(variant: Variant) -> Iterator[Result]:
    """Rounds at 10 MB with ever more clients, and of two clients with ever larger models.

    One contestant after the other, since both at 1 GB would not fit a machine of 24 GB.
    """
    for work in (*BY_CLIENTS, *BY_SIZE):
        for each in (TcpLimit(work), Federation(work, variant)):
            yield from contest(work, [each], 1, ROUNDS)


def over_memory(variant: Variant) -> Iterator[Result]:
    """The memory with few and with many clients at 100 MB."""
    for work in BY_MEMORY:
        yield from contest(work, [Federation(work, variant)], 1, ROUNDS)


def over_budget(variant: Variant) -> Iterator[Result]:
    """A model of 1 GB with a memory budget of half of that; the rest goes to disk."""
    spilling = replace(variant, flags=(*variant.flags, "--memory-budget", BUDGET))
    yield from contest(LARGE, [Federation(LARGE, spilling)], 1, ROUNDS)


def main() -> None:
    """Prints all of them."""
    for results in (over_memory, over_budget, over_clients_and_sizes):
        for result in results(Variant()):
            print(result.row())


if __name__ == "__main__":
    main()
