"""Runs contestants at the same work by turns, so that whatever disturbs one disturbs the others."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, Self

from benchmarks.measuring import Memory, loopback_bytes, median, ratio
from benchmarks.processes import BenchmarkError, end_on_sigterm

BLOCKS: Final = 3
ROUNDS: Final = 3
"""Of each block the first round warms up; at least five of the others are measured."""


@dataclass(frozen=True)
class Work:
    """So many clients, each of which gets a model and sends a float32 update of `megabytes`."""

    clients: int
    megabytes: float

    @property
    def nbytes(self) -> int:
        """The size of the model in bytes, a multiple of 8."""
        return int(self.megabytes * 1e6) // 8 * 8

    @property
    def label(self) -> str:
        """Such as "8x100"."""
        return f"{self.clients}x{self.megabytes:g}"


class Contestant(Protocol):
    """Somebody who does the work; entering starts it, leaving ends whatever it started."""

    name: str

    def __enter__(self) -> Self:
        """Starts it. Raises BenchmarkError."""

    def __exit__(self, *_: object) -> None:
        """Ends it."""

    def rounds(self, count: int) -> list[float]:
        """Does so many rounds and gives the seconds of each. Raises BenchmarkError."""

    def memory(self) -> Memory | None:
        """The server's memory so far; None if it cannot be seen."""


@dataclass
class Result:
    """What one contestant did; `why` says why there is nothing, or not all of it."""

    name: str
    work: Work
    seconds: list[float] = field(default_factory=list)
    memory: Memory | None = None
    wire_mb: list[float] = field(default_factory=list)
    why: str = ""

    @property
    def median(self) -> float | None:
        """Seconds per round."""
        return median(self.seconds)

    def row(self) -> dict[str, Any]:
        """The figures by name."""
        found: dict[str, Any] = {"name": self.name, "work": self.work.label}
        if self.median is not None:
            wire = median(self.wire_mb)
            found |= {
                "seconds": round(self.median, 4),
                "rounds": len(self.seconds),
                "fastest": round(min(self.seconds), 4),
                "slowest": round(max(self.seconds), 4),
                "wire_mb": round(wire, 1) if wire else None,
                "wire_over_payload": ratio(wire, 2 * self.work.clients * self.work.nbytes / 1e6),
            }
        if self.memory is not None:
            found |= self.memory.row()
            found["models"] = ratio(self.memory.above_idle, self.work.nbytes / 1e6)
        return found | ({"why": self.why} if self.why else {})


def contest(
    work: Work, contestants: Sequence[Contestant], blocks: int = BLOCKS, rounds: int = ROUNDS
) -> list[Result]:
    """Lets each do a block of rounds in turn, `blocks` times; the first of a block is dropped.

    Who fails is out, with the reason in its result; the others go on.
    """
    end_on_sigterm()
    results = [Result(each.name, work) for each in contestants]
    with ExitStack() as stack:
        for each, result in zip(contestants, results, strict=True):
            try:
                stack.enter_context(each)
            except (BenchmarkError, OSError) as error:
                result.why = str(error)
        for _ in range(blocks):
            for each, result in zip(contestants, results, strict=True):
                if not result.why:
                    _block(each, result, rounds)
        for each, result in zip(contestants, results, strict=True):
            if result.seconds:
                result.memory = each.memory()
    return results


def _block(contestant: Contestant, result: Result, rounds: int) -> None:
    gc.collect()
    before = loopback_bytes()
    try:
        seconds = contestant.rounds(rounds)
    except (BenchmarkError, OSError) as error:
        result.why = str(error)
        return
    result.seconds += seconds[1:]
    result.wire_mb.append((loopback_bytes() - before) / 1e6 / len(seconds))
