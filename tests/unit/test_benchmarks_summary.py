"""The summary of a benchmark's run: which results make which ratio, and what is said without."""

from __future__ import annotations

import pytest

from benchmarks import summary
from benchmarks.contest import Contestant, Result, Work, contest
from benchmarks.measuring import Memory
from benchmarks.processes import BenchmarkError
from benchmarks.summary import DATA, FLOWER, MEMORY, OURS, PEERS, PLAIN, TCP, Key

ASKED = (
    *("tcp_ratio_8x100", "tcp_ratio_8x10", "grpc_floor_ratio_8x100", "flower_grpc_ratio_8x100"),
    *("nvflare_ratio_8x100", "memory_models_8x100", "memory_growth_32_over_4"),
)


def _result(group: str, name: str, label: str, *seconds: float, peak: float = 0.0) -> dict:
    clients, megabytes = label.split("x")
    memory = Memory(idle=300.0, peak=peak, held_idle=200.0, held_peak=peak - 100) if peak else None
    found = Result(name, Work(int(clients), float(megabytes)), list(seconds), memory)
    return {Key(group, name, label): found}


def test_every_key_that_was_asked_for_is_there_and_says_why_it_has_no_ratio() -> None:
    found = summary.summary({}, {})
    assert set(ASKED) <= set(found)
    for name in ASKED:
        assert found[name]["ratio"] is None
        assert "not measured" in found[name]["why"]


def test_ratios_are_of_medians_and_keep_them() -> None:
    """Medians 0.9 and 0.6: 1.5. Flower's 9.0 over ours of 0.9: 10."""
    results = (
        _result(PLAIN, OURS, "8x100", 0.9, 5.0, 0.1)
        | _result(PLAIN, TCP, "8x100", 0.6)
        | _result(PEERS, FLOWER, "8x100", 9.0)
    )
    found = summary.summary(results, {})
    assert found["tcp_ratio_8x100"] == {"ratio": 1.5, "medians": {OURS: 0.9, TCP: 0.6}}
    assert found["flower_grpc_ratio_8x100"]["ratio"] == 10.0


def test_memory_is_counted_in_models_and_compared_above_idle() -> None:
    """(620 - 300) / 100 models; (560 - 300) / (500 - 300) from 4 to 32 clients."""
    results = (
        _result(PLAIN, OURS, "8x100", 1.0, peak=620.0)
        | _result(MEMORY, OURS, "4x100", 1.0, peak=500.0)
        | _result(MEMORY, OURS, "32x100", 1.0, peak=560.0)
    )
    found = summary.summary(results, {}, bare_mb=280.0)
    assert found["memory_models_8x100"]["ratio"] == 3.2
    assert found["memory_models_8x100"]["medians"]["above_server_without_model_mb"] == 340.0
    assert found["memory_growth_32_over_4"]["ratio"] == 1.3


def test_works_beyond_the_usual_have_ratios_and_others_are_kept() -> None:
    results = _result(PLAIN, OURS, "2x1", 1.0) | _result(PLAIN, TCP, "2x1", 0.5)
    found = summary.summary(results, {"slow": summary.entry(1.1, {})})
    assert found["tcp_ratio_2x1"]["ratio"] == 2.0
    assert found["slow"] == {"ratio": 1.1, "medians": {}}


def test_the_table_says_who_could_not_be_measured() -> None:
    failed = Key(PLAIN, OURS, "8x10")
    results = _result(PLAIN, TCP, "8x10", 0.5) | {failed: Result(OURS, Work(8, 10), why="no port")}
    text = summary.table(results)
    assert "fednot in plaintext 8x10: no port" in text
    assert text.splitlines()[1].split()[-5:] == ["0.5", "1", "-", "-", "-"]


class Counted:
    """A contestant that says when it is its turn, and fails at its round `fails_at`."""

    def __init__(self, name: str, turns: list[str], fails_at: int = 100) -> None:
        self.name = name
        self._turns = turns
        self._left = fails_at

    def __enter__(self) -> Counted:
        return self

    def __exit__(self, *_: object) -> None:
        self._turns.append(f"{self.name} ended")

    def rounds(self, count: int) -> list[float]:
        self._turns.append(self.name)
        self._left -= count
        if self._left < 0:
            raise BenchmarkError("tired")
        return [9.0] + [1.0] * (count - 1)

    def memory(self) -> None:
        return None


def test_contestants_take_turns_and_the_first_round_of_each_turn_is_dropped() -> None:
    turns: list[str] = []
    pair: list[Contestant] = [Counted("a", turns), Counted("b", turns)]
    found = contest(Work(2, 1), pair, blocks=2, rounds=3)
    assert turns == ["a", "b", "a", "b", "b ended", "a ended"]
    assert [each.seconds for each in found] == [[1.0] * 4, [1.0] * 4]


def test_who_fails_is_out_and_the_others_go_on() -> None:
    turns: list[str] = []
    pair: list[Contestant] = [Counted("a", turns, fails_at=4), Counted("b", turns)]
    tired, other = contest(Work(2, 1), pair, blocks=3, rounds=3)
    assert (tired.why, tired.seconds) == ("tired", [1.0, 1.0])
    assert len(other.seconds) == 6
    assert turns.count("a") == 2


@pytest.mark.parametrize("name", ASKED)
def test_a_summary_without_contests_keeps_no_medians(name: str) -> None:
    assert summary.summary({}, {})[name]["medians"] == {}


def test_the_product_is_the_one_with_its_data_channel_where_that_was_measured() -> None:
    results = (
        _result(PLAIN, OURS, "8x100", 3.0)
        | _result(PLAIN, DATA, "8x100", 1.5)
        | _result(PLAIN, TCP, "8x100", 1.0)
        | _result(PLAIN, OURS, "8x10", 0.3)
        | _result(PLAIN, TCP, "8x10", 0.1)
    )
    found = summary.summary(results, {})
    assert found["tcp_ratio_8x100"] == {"ratio": 1.5, "medians": {DATA: 1.5, TCP: 1.0}}
    assert found["over_grpc_tcp_ratio_8x100"]["ratio"] == 3.0
    assert found["tcp_ratio_8x10"]["ratio"] == 3.0
