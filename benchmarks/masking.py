"""What masking costs a client and the server, in this process: `python -m benchmarks.masking`.

One thread, models of float32. The unit is what adding one plain update to a running mean takes in
the same run, so that the figures are ratios: a client's shares and its masks, the server's adding
of one masked payload, and its taking the masks off when nobody and when some dropped out after
giving shares. Nothing goes over a network, and signatures are left out.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

import torch

from fednot.manifest import Manifest
from fednot.secure_aggregation.masked_sum import Unmasking, add_payload, checked, unmask
from fednot.secure_aggregation.participant import Participant
from fednot.secure_aggregation.ring import Masked, mean_of, quantised
from fednot.secure_aggregation.terms import Terms
from fednot.tensors import empty
from server.aggregation import RunningAverage

CASES: Final = ((100, 5, 1), (3200, 5, 0), (3200, 5, 1), (316, 50, 0), (316, 50, 10))
"""Width of a square layer, clients, and how many drop out."""
EXAMPLES: Final = 10

T = TypeVar("T")


class NoSigner:
    """Signs nothing: signatures take the same whatever the model."""

    chain = b""

    def sign(self, message: bytes) -> bytes:
        """Nothing."""
        return b""

    def check(self, client: str, chain: bytes, message: bytes, signature: bytes) -> None:
        """Believes everything."""


@dataclass(frozen=True)
class Cost:
    """Seconds of each step."""

    plain: float
    share: float
    mask: float
    add: float
    unmask: float


def timed(step: Callable[[], T]) -> tuple[float, T]:
    """The seconds of a step, and what it gives."""
    begun = time.perf_counter()
    given = step()
    return time.perf_counter() - begun, given


def cost(width: int, count: int, dropped: int) -> Cost:
    """One attempt of so many clients, of which some drop out after giving shares."""
    manifest = Manifest.of(torch.nn.Linear(width, width, bias=False))
    update = empty(manifest)
    names = tuple(f"c{number:03d}" for number in range(count))
    terms = Terms(b"benchmark-masked", 1, 1, 0, 2 * count // 3 + 1, names, 16.0, EXAMPLES)
    clients = {name: Participant(name, terms, NoSigner()) for name in names}
    roster = [each.advertised() for each in clients.values()]
    given = {}
    for name, each in clients.items():
        share, given[name] = timed(lambda each=each: each.shares_for(roster))
    total = torch.zeros(Masked().size(manifest), dtype=torch.uint8)
    survivors = frozenset(names[: count - dropped])
    for name in sorted(survivors):
        got = {other: shares[name] for other, shares in given.items() if other != name}

        def masked(name: str = name, got: dict[str, bytes] = got) -> torch.Tensor:
            payload, _ = quantised(update, manifest, EXAMPLES, terms.scale)
            return clients[name].masked(payload, got)

        mask, payload = timed(masked)
        add, _ = timed(lambda payload=payload: add_payload(total, payload))
    signed = {name: clients[name].signed(survivors) for name in survivors}
    revealed = {
        name: checked(clients[name].revealed(signed), frozenset(names), survivors)
        for name in survivors
    }
    found = Unmasking(
        terms, {each.client: each for each in roster}, frozenset(names), survivors, revealed
    )
    off, _ = timed(lambda: unmask(total, found))
    mean_of(total, manifest, EXAMPLES * len(survivors), terms.scale)
    average = RunningAverage(manifest)
    average.add(update, 1)
    plain, _ = timed(lambda: average.add(update, 1))
    return Cost(plain, share, mask, add, off)


def main() -> None:
    """Prints a row for each case."""
    torch.set_num_threads(1)
    sys.stdout.write("elements  clients  dropped  plain add ms  shares  masks  add  unmask\n")
    for width, count, dropped in CASES:
        row = cost(width, count, dropped)
        ratios = (each / row.plain for each in (row.share, row.mask, row.add, row.unmask))
        sys.stdout.write(
            f"{width * width:8d}  {count:7d}  {dropped:7d}  {row.plain * 1e3:12.2f}  "
            + "  ".join(f"{ratio:5.1f}x" for ratio in ratios)
            + "\n"
        )


if __name__ == "__main__":
    main()
