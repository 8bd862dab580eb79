"""When recovery stops, and that a longer history never changes an earlier verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.records import RecoveryPolicy, StopReason
from server.stop_rule import Judgement, chance_of, judge

CHANCE = 0.1


def scored(*accuracies: float, chance: float | None = CHANCE) -> list[dict[str, float]]:
    extra = {} if chance is None else {"chance": chance}
    return [{"accuracy": accuracy, **extra} for accuracy in accuracies]


def verdict(scores: Sequence[Mapping[str, float]], **given_: Any) -> Judgement:
    policy = RecoveryPolicy(
        **{"min_rounds": 2, "plateau_rounds": 3, "chance_rounds": 4}
        | {key: given_.pop(key) for key in list(given_) if hasattr(RecoveryPolicy, key)}
    )
    values = {"budget": 10, "target": 0.9, "has_alternative": True} | given_
    return judge(scores, policy=policy, **values)


GOING_ON = Judgement(done=False, recovered=True)


def test_before_the_first_round_nothing_has_stopped() -> None:
    assert verdict([]) == GOING_ON


def test_the_target_stops_once_it_is_reached() -> None:
    assert verdict(scored(0.5, 0.89)) == GOING_ON
    assert verdict(scored(0.5, 0.89, 0.9)) == Judgement(True, True, 3, StopReason.TARGET)


def test_the_target_does_not_stop_before_the_least_number_of_rounds() -> None:
    """0.95 is above the target 0.9 in round 1, but three rounds are the least."""
    assert verdict(scored(0.95), min_rounds=3) == GOING_ON
    assert verdict(scored(0.95, 0.95), min_rounds=3, plateau_rounds=9) == GOING_ON
    assert verdict(scored(0.95, 0.95, 0.95), min_rounds=3, plateau_rounds=9) == Judgement(
        True, True, 3, StopReason.TARGET
    )


def test_a_target_that_was_passed_too_early_must_hold_again() -> None:
    """Round 1 reaches it before min_rounds; round 2 falls below it; round 3 reaches it."""
    assert verdict(scored(0.95, 0.8)) == GOING_ON
    assert verdict(scored(0.95, 0.8, 0.93)) == Judgement(True, True, 3, StopReason.TARGET)


def test_a_plateau_stops_after_its_window_without_improvement() -> None:
    """Best 0.7 in round 2; then 0.701, 0.6, 0.7015: three rounds that gain less than 0.002."""
    history = scored(0.5, 0.7, 0.701, 0.6, 0.7015)
    assert verdict(history[:4]) == GOING_ON
    assert verdict(history) == Judgement(True, True, 5, StopReason.PLATEAU)


def test_an_improvement_of_two_thousandths_starts_the_window_anew() -> None:
    """Best before the window is 0.7; 0.75 in the window is above 0.702, so it goes on.

    Round 8 has the window 0.75, 0.75, 0.75 after a best of 0.75 in round 5.
    """
    assert verdict(scored(0.5, 0.7, 0.7, 0.7, 0.75)) == GOING_ON
    assert verdict(scored(0.5, 0.7, 0.7, 0.7, 0.75, 0.75, 0.75)) == GOING_ON
    assert verdict(scored(0.5, 0.7, 0.7, 0.7, 0.75, 0.75, 0.75, 0.75)) == Judgement(
        True, True, 8, StopReason.PLATEAU
    )


def test_a_plateau_waits_for_the_least_number_of_rounds() -> None:
    """A window of 1 would stop in round 2; six rounds are the least."""
    flat = scored(*(0.7,) * 6)
    assert verdict(flat[:5], plateau_rounds=1, min_rounds=6) == GOING_ON
    assert verdict(flat, plateau_rounds=1, min_rounds=6).reason is StopReason.PLATEAU


def test_a_plateau_below_half_way_to_the_target_is_not_recovered() -> None:
    """Half way from chance 0.1 to the target 0.9 is 0.5: 0.49 is given up, 0.5 is kept."""
    assert verdict(scored(*(0.49,) * 4)) == Judgement(True, False, 4, StopReason.PLATEAU)
    assert verdict(scored(*(0.5,) * 4)) == Judgement(True, True, 4, StopReason.PLATEAU)


def test_a_low_plateau_without_an_alternative_goes_on_to_its_budget() -> None:
    low = scored(*(0.3,) * 10)
    assert verdict(low[:9], has_alternative=False) == GOING_ON
    assert verdict(low, has_alternative=False) == Judgement(True, True, 10, StopReason.BUDGET)


def test_the_budget_stops() -> None:
    rising = scored(*(0.5 + 0.03 * round_ for round_ in range(10)))
    assert verdict(rising[:9]) == GOING_ON
    assert verdict(rising) == Judgement(True, True, 10, StopReason.BUDGET)


def test_a_budget_below_the_least_number_of_rounds_still_stops() -> None:
    assert verdict(scored(0.5), budget=1, min_rounds=2).reason is StopReason.BUDGET


def test_a_budget_that_ends_below_half_way_is_not_recovered() -> None:
    rising = scored(0.2, 0.3, 0.4)
    assert verdict(rising, budget=3) == Judgement(True, False, 3, StopReason.BUDGET)
    kept = verdict(rising, budget=3, has_alternative=False)
    assert kept == Judgement(True, True, 3, StopReason.BUDGET)


def test_a_model_that_does_not_leave_chance_is_given_up() -> None:
    """Chance 0.1 plus the margin 0.05: up to 0.15 in all four rounds is no better than chance."""
    assert verdict(scored(0.1, 0.12, 0.15)) == GOING_ON
    assert verdict(scored(0.1, 0.12, 0.15, 0.1)) == Judgement(True, False, 4, StopReason.CHANCE)
    assert verdict(scored(0.1, 0.12, 0.16, 0.1), plateau_rounds=9) == GOING_ON


def test_chance_comes_before_plateau_and_budget() -> None:
    """Four equal rounds at 0.1 are a plateau of window 3, and here the budget, too."""
    assert verdict(scored(*(0.1,) * 4), budget=4).reason is StopReason.CHANCE


def test_a_model_at_chance_at_the_end_of_its_budget_says_that_the_budget_stopped_it() -> None:
    found = verdict(scored(*(0.1,) * 10), has_alternative=False)
    assert found == Judgement(True, True, 10, StopReason.BUDGET)


def test_a_model_at_chance_without_an_alternative_gets_its_whole_budget() -> None:
    slow = scored(*(0.1,) * 5, 0.6, 0.92)
    assert verdict(slow[:5], has_alternative=False) == GOING_ON
    assert verdict(slow, has_alternative=False) == Judgement(True, True, 7, StopReason.TARGET)


def test_without_a_chance_in_the_metrics_nothing_is_given_up_for_chance() -> None:
    low = scored(*(0.01,) * 4, chance=None)
    assert verdict(low, plateau_rounds=9) == GOING_ON
    assert chance_of(low[0]) == 0.0


def test_without_a_target_plateau_and_budget_are_taken_as_recovered() -> None:
    flat = scored(*(0.3,) * 4)
    assert verdict(flat, target=None) == Judgement(True, True, 4, StopReason.PLATEAU)
    rising = scored(0.2, 0.3, 0.4)
    assert verdict(rising, target=None, budget=3) == Judgement(True, True, 3, StopReason.BUDGET)


def test_a_target_below_chance_is_half_way_at_itself() -> None:
    """A base of 0.05 under chance 0.1: half way is (0.05 + 0.05) / 2, above 0.04: given up."""
    low = scored(*(0.04,) * 4)
    assert not verdict(low, target=0.05, chance_rounds=9).recovered
    assert verdict(scored(0.06, 0.06), target=0.05).reason is StopReason.TARGET


def test_the_full_budget_records_the_first_stop_but_goes_on() -> None:
    history = scored(0.5, 0.95, *(0.96,) * 8)
    for rounds in range(2, 10):
        found = verdict(history[:rounds], full_budget=True)
        assert found == Judgement(False, True, 2, StopReason.TARGET)
    assert verdict(history, full_budget=True) == Judgement(True, True, 2, StopReason.TARGET)


def test_the_full_budget_is_not_spent_on_a_model_at_chance() -> None:
    found = verdict(scored(*(0.1,) * 4), full_budget=True)
    assert found == Judgement(True, False, 4, StopReason.CHANCE)


@pytest.mark.parametrize("metrics", [{}, {"loss": 1.0}, {"chance": 0.1}])
def test_without_an_accuracy_only_the_budget_stops(metrics: dict[str, float]) -> None:
    assert verdict([metrics] * 9) == GOING_ON
    assert verdict([metrics] * 10).reason is StopReason.BUDGET
    assert verdict([metrics] * 10, target=None) == Judgement(True, True, 10, StopReason.BUDGET)


def test_a_round_without_an_accuracy_counts_for_the_budget_alone() -> None:
    """No rule but the budget speaks after round 3; round 4 has reached the target."""
    history = [*scored(0.95, 0.95), {"loss": 1.0}, *scored(0.95)]
    assert verdict(history[:3], min_rounds=3) == GOING_ON
    assert verdict(history[:3], min_rounds=3, budget=3).reason is StopReason.BUDGET
    assert verdict(history, min_rounds=3) == Judgement(True, True, 4, StopReason.TARGET)


def test_the_margin_of_chance_is_at_most_half_way_to_the_target() -> None:
    """Target 0.14, chance 0.1: half way is 0.12, which is nearer than 0.15."""
    assert verdict(scored(*(0.12,) * 4), target=0.14).reason is StopReason.CHANCE
    assert verdict(scored(*(0.121,) * 4), target=0.14).reason is StopReason.PLATEAU


def test_a_target_near_chance_that_is_reached_is_the_target() -> None:
    assert verdict(scored(*(0.12,) * 4), target=0.12, min_rounds=4).reason is StopReason.TARGET


@given(
    values=st.lists(st.floats(0, 1, width=16), max_size=14),
    missing=st.sets(st.integers(0, 13), max_size=1),
    policy=st.builds(
        RecoveryPolicy,
        min_rounds=st.integers(1, 5),
        plateau_rounds=st.integers(1, 5),
        chance_rounds=st.integers(1, 5),
        full_budget=st.booleans(),
    ),
    budget=st.integers(1, 12),
    target=st.none() | st.floats(0, 1, width=16),
    has_alternative=st.booleans(),
)
def test_a_longer_history_never_changes_an_earlier_stop(
    values: list[float],
    missing: set[int],
    policy: RecoveryPolicy,
    budget: int,
    target: float | None,
    has_alternative: bool,
) -> None:
    scores = [{} if i in missing else scored(value)[0] for i, value in enumerate(values)]
    found = [
        judge(
            scores[:rounds],
            policy=policy,
            budget=budget,
            target=target,
            has_alternative=has_alternative,
        )
        for rounds in range(len(scores) + 1)
    ]
    for rounds, (earlier, later) in enumerate(pairwise(found)):
        if earlier.reason is None:
            assert later.stopped_at in (0, rounds + 1)
            assert not earlier.done
        else:
            stop = (earlier.stopped_at, earlier.reason, earlier.recovered)
            assert (later.stopped_at, later.reason, later.recovered) == stop
        assert later.done >= earlier.done
        assert rounds < budget or earlier.done
        assert earlier.recovered or has_alternative
