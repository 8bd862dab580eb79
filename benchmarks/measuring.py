"""What a benchmark reads off the machine: memory of processes, bytes on loopback, medians.

Memory is that of `/proc/PID/status`. The peak of one process is its VmHWM after the kernel was told
to forget the former peak (5 into clear_refs), so it is exact, counts file pages that the process
has mapped, and errs against whoever maps files. The peak of a tree of processes is the largest sum
of VmRSS that was sampled. Beside either stands the sampled peak of RssAnon + RssShmem, which is
what cannot be given back to the machine.
"""

from __future__ import annotations

import contextlib
import statistics
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

SAMPLE_SECONDS: Final = 0.02
_PROC: Final = Path("/proc")
_LISTENING: Final = "0A"


@dataclass(frozen=True)
class Memory:
    """Memory of a server in MB: `idle` before its first client, peaks from then on."""

    idle: float
    peak: float
    held_idle: float
    held_peak: float

    @property
    def above_idle(self) -> float:
        """The peak less what the idle server had."""
        return self.peak - self.idle

    def row(self) -> dict[str, float]:
        """The figures by name, in MB."""
        return {
            "idle_mb": round(self.idle, 1),
            "peak_mb": round(self.peak, 1),
            "above_idle_mb": round(self.above_idle, 1),
            "anonymous_above_idle_mb": round(self.held_peak - self.held_idle, 1),
        }


def status_of(text: str) -> dict[str, float]:
    """The kB rows of a /proc/PID/status as MB (10^6 bytes)."""
    found = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if value.endswith(" kB"):
            found[name] = int(value.removesuffix(" kB")) * 1024 / 1e6
    return found


def read_status(pid: int) -> dict[str, float]:
    """The memory of a process in MB; empty once it has ended."""
    with contextlib.suppress(OSError):
        return status_of((_PROC / str(pid) / "status").read_text())
    return {}


def forget_peak(pid: int) -> bool:
    """Makes VmHWM begin anew; False where the kernel does not let us."""
    with contextlib.suppress(OSError):
        (_PROC / str(pid) / "clear_refs").write_text("5")
        return True
    return False


def family(pid: int) -> list[int]:
    """A process and all its descendants, as far as they live."""
    found, left = [], [pid]
    while left:
        each = left.pop()
        found.append(each)
        with contextlib.suppress(OSError):
            for task in (_PROC / str(each) / "task").iterdir():
                left += [int(child) for child in (task / "children").read_text().split()]
    return found


def held(status: dict[str, float]) -> float:
    """Anonymous and shared memory in MB."""
    return status.get("RssAnon", 0.0) + status.get("RssShmem", 0.0)


class MemoryWatch:
    """Watches a server from its idle state on; `tree` adds up all its descendants."""

    def __init__(self, *pids: int, tree: bool = False) -> None:
        self._pids = pids
        self._tree = tree
        self._idle = self._sampled()
        self._peak = self._idle
        self._exact = not tree and len(pids) == 1 and forget_peak(pids[0])
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(5)

    def memory(self) -> Memory:
        """Idle and peak so far. Of a process that has ended the sampled peak is left."""
        rss, anonymous = self._peak
        if self._exact:
            rss = max(rss, read_status(self._pids[0]).get("VmHWM", 0.0))
        return Memory(self._idle[0], rss, self._idle[1], anonymous)

    def _watch(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            now = self._sampled()
            self._peak = (max(self._peak[0], now[0]), max(self._peak[1], now[1]))

    def _sampled(self) -> tuple[float, float]:
        pids = [each for pid in self._pids for each in (family(pid) if self._tree else [pid])]
        found = [read_status(pid) for pid in pids]
        return sum(each.get("VmRSS", 0.0) for each in found), sum(map(held, found))


def loopback_bytes() -> int:
    """Bytes that loopback has carried since boot, headers included, whoever sent them."""
    return received_bytes((_PROC / "net" / "dev").read_text(), "lo")


def received_bytes(text: str, device: str) -> int:
    """The first counter of a device in /proc/net/dev. Raises KeyError if it is not there."""
    for line in text.splitlines():
        name, colon, counters = line.partition(":")
        if colon and name.strip() == device:
            return int(counters.split()[0])
    raise KeyError(device)


def connections(text: str, port: int) -> int:
    """How many connections of /proc/net/tcp have or had this port; a listener is none."""
    rows = [line.split() for line in text.splitlines()[1:]]
    named = f":{port:04X}"
    return sum(
        row[3] != _LISTENING and (row[1].endswith(named) or row[2].endswith(named)) for row in rows
    )


def connections_to(port: int) -> int:
    """How many connections of this machine have or lately had this port."""
    return connections((_PROC / "net" / "tcp").read_text(), port)


def median(values: Sequence[float]) -> float | None:
    """The median; None of nothing."""
    return statistics.median(values) if values else None


def ratio(ours: float | None, theirs: float | None) -> float | None:
    """Ours over theirs, rounded to three digits after the point; None if either is missing."""
    if ours is None or not theirs:
        return None
    return round(ours / theirs, 3)


def rounded(value: Any) -> Any:
    """Floats with four significant digits after the point, for rows that people read."""
    return round(value, 4) if isinstance(value, float) else value
