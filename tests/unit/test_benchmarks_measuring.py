"""The parts of the benchmarks that only compute: memory, counters, medians, ratios, seconds."""

from __future__ import annotations

import os

import pytest

from benchmarks import measuring
from benchmarks.contest import Work
from benchmarks.peers import nvflare
from benchmarks.processes import BenchmarkError
from benchmarks.round import seconds_of
from benchmarks.slow_clients import spans
from benchmarks.watched_server import longest_lag
from fednot.v1 import operator_pb2

STATUS = "Name:\tpython\nVmHWM:\t    2000 kB\nVmRSS:\t    1000 kB\nThreads:\t3\n"
DEVICES = "Inter-|   Receive\n face |bytes    packets\n    lo: 123 4 0\n  eth0: 9 1 0\n"


def test_status_rows_are_megabytes() -> None:
    """1000 kB are 1000 x 1024 bytes, 1.024 MB."""
    assert measuring.status_of(STATUS) == {"VmHWM": 2.048, "VmRSS": 1.024}


def test_this_process_has_memory_and_no_other_has() -> None:
    assert measuring.read_status(os.getpid())["VmRSS"] > 0
    assert measuring.read_status(2**22 + 1) == {}
    assert measuring.family(os.getpid())[0] == os.getpid()


def test_the_counter_of_a_device_is_found() -> None:
    assert measuring.received_bytes(DEVICES, "lo") == 123
    with pytest.raises(KeyError):
        measuring.received_bytes(DEVICES, "wlan0")


def test_connections_of_a_port_are_counted_but_not_its_listener() -> None:
    """Port 8080 is 1F90: it listens, one connection came to it and one went out to it."""
    rows = (
        "  sl  local_address rem_address   st",
        "   0: 0100007F:1F90 00000000:0000 0A",
        "   1: 0100007F:1F90 0100007F:C001 01",
        "   2: 0100007F:C001 0100007F:1F90 06",
        "   3: 0100007F:0016 0100007F:C002 01",
    )
    assert measuring.connections("\n".join(rows), 8080) == 2
    assert measuring.connections("\n".join(rows), 80) == 0


def test_a_peak_above_idle_is_seen() -> None:
    """64 MB that are written and freed again stay in the peak."""
    with measuring.MemoryWatch(os.getpid()) as watch:
        block = bytearray(b"x" * 64_000_000)
        del block
        memory = watch.memory()
    assert memory.above_idle > 50
    assert memory.row()["above_idle_mb"] == pytest.approx(memory.peak - memory.idle, abs=0.1)


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [(3.0, 2.0, 1.5), (1.0, 3.0, 0.333), (None, 1.0, None), (1.0, None, None), (1.0, 0.0, None)],
)
def test_a_ratio_needs_both(
    ours: float | None, theirs: float | None, expected: float | None
) -> None:
    assert measuring.ratio(ours, theirs) == expected


def test_a_median_needs_values() -> None:
    assert measuring.median([]) is None
    assert measuring.median([3.0, 1.0, 2.0]) == 2.0


def test_a_work_is_whole_pairs_of_float32() -> None:
    assert Work(8, 100).nbytes == 100_000_000
    assert Work(2, 0.0000201).nbytes == 16
    assert Work(8, 0.5).label == "8x0.5"


def _round(number: int, started: int, ended: int, outcome: int) -> operator_pb2.Round:
    found = operator_pb2.Round(number=number, outcome=outcome)
    found.started_at.FromSeconds(started)
    found.ended_at.FromSeconds(ended)
    return found


def test_a_round_lasts_from_the_end_of_the_one_before() -> None:
    """From 10 to 13, and from there to 17 although it is said to have started at 14."""
    completed = operator_pb2.ROUND_OUTCOME_COMPLETED
    assert seconds_of([_round(1, 10, 13, completed), _round(2, 14, 17, completed)]) == [3, 4]


def test_a_round_with_somebody_missing_is_no_figure() -> None:
    degraded = operator_pb2.ROUND_OUTCOME_DEGRADED
    with pytest.raises(BenchmarkError, match="round 7 is not complete"):
        seconds_of([_round(7, 10, 13, degraded)])


def test_rounds_of_nvflare_are_told_by_their_first_arrivals() -> None:
    """Round 0 came first at 1.0, round 1 at 3.5, round 2 at 4.0."""
    lines = "[0, 1.5]\n[0, 1.0]\n[1, 3.5]\n[2, 5.0]\n[2, 4.0]\n"
    assert nvflare.seconds_of(lines) == [2.5, 0.5]


def test_spans_go_from_the_first_begin_to_the_last_end_of_the_fast() -> None:
    """c0 and c1 upload from 1 to 4, then from 10 to 12; c2 is slow and does not count."""
    rows = [
        {"client": "c0", "downloaded": 1.0, "ended": 2.0},
        {"client": "c1", "downloaded": 1.5, "ended": 4.0},
        {"client": "c2", "downloaded": 1.0, "ended": 9.0},
        {"client": "c1", "downloaded": 10.0, "ended": 11.0},
        {"client": "c0", "downloaded": 10.5, "ended": 12.0},
    ]
    assert spans(rows, fast=2) == [3.0, 2.0]


def test_only_lateness_since_the_begin_counts() -> None:
    assert longest_lag("1.0 0.9\n2.0 0.1\n3.0 0.2\n", since=2.0) == 0.2
    assert longest_lag("", since=0.0) == 0.0
