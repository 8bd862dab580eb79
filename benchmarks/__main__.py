"""`python -m benchmarks [PART ...]`: measures, prints a table, writes bench-out/summary.json."""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from benchmarks.contest import Contestant, Result, Work, contest
from benchmarks.growth import over_budget, over_clients_and_sizes, over_memory
from benchmarks.grpc_floor import GrpcFloor
from benchmarks.measuring import ratio
from benchmarks.peers.flower import FlowerGrpc
from benchmarks.peers.nvflare import NvflareSimulator
from benchmarks.peers.superlink import FlowerSuperLink
from benchmarks.processes import BenchmarkError, end_on_sigterm
from benchmarks.round import OUT, Federation, Variant, bare_server_mb, has_data_channel
from benchmarks.slow_clients import slow_clients
from benchmarks.stall import stall
from benchmarks.summary import MEMORY, PEERS, PLAIN, TLS, Key, entry, summary, table
from benchmarks.tcp_limit import TcpLimit

CONTESTS: Final = ("round", "tcp_limit", "grpc_floor")
PEER_PARTS: Final = ("flower", "nvflare", "superlink")
LINES: Final = ("aggregation", "negation", "codec", "calls", "deletion_load")
PARTS: Final = (
    *CONTESTS,
    *PEER_PARTS,
    "memory",
    "stall",
    "slow_clients",
    *LINES,
    "budget",
    "growth",
)
PEER_ROUNDS: Final = {"flower": 6, "nvflare": 6, "superlink": 3}
MINUTES: Final = 25.0
LONGEST_STALL_MS: Final = 100


class Run:
    """One run of the benchmarks: what was found so far, and how long it may still go on."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.parts = set(given.parts or PARTS)
        self.works = [_work(text) for text in given.works]
        self.transports = _transports(given.transport)
        self.results: dict[Key, Result] = {}
        self.others: dict[str, dict[str, Any]] = {}
        self.lines: list[str] = []
        self.bare_mb: float | None = None
        self._until = time.monotonic() + 60 * given.minutes

    def go(self) -> None:
        """Measures every part that was asked for, most important first."""
        for part, what, measure in self._steps():
            if part in self.parts:
                self._timed(what, measure)

    def _steps(self) -> Iterator[tuple[str, str, Callable[[], None]]]:
        first = next((part for part in CONTESTS if part in self.parts), "")
        for work in self.works:
            yield first, f"plaintext {work.label}", partial(self._plain, work)
            yield first, f"mutual TLS {work.label}", partial(self._tls, work)
        for work in self.works:
            yield "flower", f"flower {work.label}", partial(self._peer, "flower", work)
        yield "memory", "memory", partial(self._grown, MEMORY, over_memory)
        yield "stall", "stall", self._stall
        yield "slow_clients", "slow_clients", self._slow
        for part in LINES:
            yield part, part, partial(self._figures, part)
        yield "budget", "budget", partial(self._grown, "budget", over_budget)
        for work in self.works:
            for part in ("nvflare", "superlink"):
                yield part, f"{part} {work.label}", partial(self._peer, part, work)
        yield "growth", "growth", partial(self._grown, "growth", over_clients_and_sizes)

    def _timed(self, what: str, measure: Callable[[], None]) -> None:
        if time.monotonic() > self._until:
            self.lines.append(f"{what}: not measured, the time of this run is over")
            return
        begun = time.monotonic()
        print(f"{what} ...", flush=True)
        try:
            measure()
        except (BenchmarkError, OSError) as error:
            self.lines.append(f"{what}: {error}")
        print(f"{what} took {time.monotonic() - begun:.0f} s", flush=True)

    def _contest(self, group: str, work: Work, entrants: list[Contestant], **how: int) -> None:
        for result in contest(work, entrants, **how):
            self.results[Key(group, result.name, work.label)] = result
            print(f"  {result.row()}", flush=True)

    def _plain(self, work: Work) -> None:
        found: list[Contestant] = []
        if "tcp_limit" in self.parts:
            found.append(TcpLimit(work))
        if "grpc_floor" in self.parts:
            found.append(GrpcFloor(work))
        if "round" in self.parts:
            found += [Federation(work, Variant(transport=each)) for each in self.transports]
            self.bare_mb = bare_server_mb() if self.bare_mb is None else self.bare_mb
        self._contest(PLAIN, work, found)

    def _tls(self, work: Work) -> None:
        found: list[Contestant] = []
        if "tcp_limit" in self.parts:
            found.append(TcpLimit(work))
        if "grpc_floor" in self.parts:
            found.append(GrpcFloor(work, tls=True))
        if "round" in self.parts:
            for tls in (False, True):
                found += [Federation(work, Variant(tls, each)) for each in self.transports]
        self._contest(TLS, work, found)

    def _peer(self, part: str, work: Work) -> None:
        kinds = {"flower": FlowerGrpc, "nvflare": NvflareSimulator, "superlink": FlowerSuperLink}
        self._contest(PEERS, work, [kinds[part](work)], blocks=1, rounds=PEER_ROUNDS[part])

    def _grown(self, group: str, measure: Callable[[Variant], Any]) -> None:
        for transport in reversed(self.transports):
            for result in measure(Variant(transport=transport)):
                self.results[Key(group, result.name, result.work.label)] = result
                print(f"  {result.row()}", flush=True)

    def _stall(self) -> None:
        for transport in self.transports:
            found = stall(Variant(transport=transport))
            print(f"  {found}", flush=True)
            end = "_64x10" + ("_data" if transport == "data" else "")
            for name, milliseconds in (("loop_stall", "loop_longest_ms"), ("call", "longest_ms")):
                over = ratio(found[milliseconds], LONGEST_STALL_MS)
                self.others[f"{name}_over_100ms{end}"] = entry(over, found)

    def _slow(self) -> None:
        found = slow_clients()
        print(f"  {found}", flush=True)
        self.others["slow_clients_ratio"] = entry(found["ratio"], found)

    def _figures(self, part: str) -> None:
        try:
            module = import_module(f"benchmarks.{part}")
        except ModuleNotFoundError as error:
            raise BenchmarkError(str(error)) from error
        for line in module.figures():
            self.lines.append(line)
            print(f"  {line}", flush=True)


def _transports(given: str) -> list[str]:
    if given != "auto":
        return given.split(",")
    return ["grpc", "data"] if has_data_channel() else ["grpc"]


def _work(text: str) -> Work:
    clients, _, megabytes = text.partition("x")
    return Work(int(clients), float(megabytes))


def machine() -> dict[str, Any]:
    """On what this was measured."""
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "processor": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "kernel": platform.release(),
        "load_at_the_start": os.getloadavg()[0],
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "grpcio", "protobuf")},
        },
    }


def main() -> None:
    """Runs the parts of the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--works", nargs="+", default=["8x100", "8x10"], help="CLIENTSxMEGABYTES")
    parser.add_argument("--transport", default="auto", help="auto, or of grpc,data")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="after which no part begins")
    given = parser.parse_args()
    unknown = set(given.parts) - set(PARTS)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(PARTS)}")
    end_on_sigterm()
    found, run = machine(), Run(given)
    run.go()
    print(table(run.results))
    entries = summary(run.results, run.others, run.bare_mb)
    for name, each in entries.items():
        if each["ratio"] is not None:
            print(f"{name}: {each['ratio']}")
    missing = [name for name, each in entries.items() if each["ratio"] is None]
    print(f"without a ratio, summary.json says why: {', '.join(missing) or 'none'}")
    for line in run.lines:
        print(line)
    rows = [{"group": key.group} | each.row() for key, each in run.results.items()]
    OUT.mkdir(exist_ok=True)
    written = entries | {"machine": found, "rows": rows, "lines": run.lines}
    (OUT / "summary.json").write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
