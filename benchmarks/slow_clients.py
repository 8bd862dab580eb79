"""What two clients that send 1 MB/s cost the uploads of six others, on the same server.

First six clients alone, then the same six beside two whose connection a proxy slows. Compared is
the median over the rounds of the time from the first of the six that begins its upload to the last
of them whose update counts. Where the data channel does not go through the proxy, the two would not
be slow, so this is measured over gRPC.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Final

from benchmarks.contest import Work
from benchmarks.measuring import median, ratio
from benchmarks.processes import Child
from benchmarks.round import Federation, Variant

FAST: Final = 6
SLOW: Final = 2
RATE: Final = 1_000_000
ROUNDS: Final = 6
_SIZE: Final = 10


def slow_clients(variant: Variant | None = None, megabytes: float = _SIZE) -> dict[str, Any]:
    """The six's uploads alone and beside the slow two. Raises BenchmarkError."""
    work = Work(FAST + SLOW, megabytes)
    with ExitStack() as stack:
        federation = stack.enter_context(Federation(work, variant, joining=FAST))
        federation.rounds(ROUNDS)
        alone = spans(federation.record(), FAST)
        proxy = Child.module(
            "throttle",
            "benchmarks.throttle",
            *("--to", federation.address, "--rate", str(RATE)),
            folder=federation.folder,
        )
        stack.callback(proxy.end)
        address = f"127.0.0.1:{proxy.hear()['port']}"
        federation.start_clients(SLOW, first=FAST, server=address)
        seconds = federation.rounds(ROUNDS)
        beside = spans(federation.record(), FAST)[len(alone) :]
    return {
        "work": work.label,
        "name": federation.name,
        "alone_seconds": median(alone[1:]),
        "beside_seconds": median(beside[1:]),
        "ratio": ratio(median(beside[1:]), median(alone[1:])),
        "round_seconds": median(seconds[1:]),
    }


def spans(rows: Sequence[Mapping[str, Any]], fast: int) -> list[float]:
    """Of each round the seconds from the first upload's begin to the last one's end.

    Only the clients c0 to c<fast - 1> count; the k-th row of each is its round k.
    """
    own: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        own[row["client"]].append(row)
    rounds = zip(*(own[f"c{index}"] for index in range(fast)), strict=True)
    return [
        max(row["ended"] for row in each) - min(row["downloaded"] for row in each)
        for each in rounds
    ]


if __name__ == "__main__":
    print(slow_clients())
