"""The attacks of verification on distributions whose figures are known."""

from __future__ import annotations

import time
from statistics import NormalDist

import numpy as np
import pytest
from numpy.typing import NDArray

from fednot.loss_profile import LossProfile
from server.cohorts.cohort import SampleGroup
from server.verification import attacks

Losses = NDArray[np.float64]


def profile(losses: Losses, correct: int = 0) -> LossProfile:
    answers = [index < correct for index in range(len(losses))]
    return LossProfile.of(losses, answers)


def lognormal(shift: float, count: int, seed: int) -> LossProfile:
    """Losses 10^x of a normal x, of mean -2 + shift and deviation 1."""
    generator = np.random.default_rng(seed)
    return profile(10 ** generator.normal(-2.0 + shift, 1.0, count))


def by_counting(members: Losses, others: Losses) -> float:
    wins = sum(float(m < o) + 0.5 * float(m == o) for m in members for o in others)
    return wins / (len(members) * len(others))


@pytest.mark.parametrize("seed", range(5))
def test_the_auc_is_that_of_counting_each_pair(seed: int) -> None:
    """Losses at the centres of bins lose nothing in a profile, and equal ones count half."""
    generator = np.random.default_rng(seed)
    members = generator.choice(10.0 ** np.array([-3, -2, -1, 0]), 37) * 1.01
    others = generator.choice(10.0 ** np.array([-3, -2, -1, 0]), 23) * 1.01
    assert attacks.auc(profile(members), profile(others)) == pytest.approx(
        by_counting(members, others), abs=1e-12
    )


def test_the_auc_of_two_normal_distributions() -> None:
    """Members lower by d = 0.5 deviations: AUC = Phi(d / sqrt 2) = 0.638, and one deviation of its
    estimate from 5,000 and 5,000 is below 0.006 (Hanley and McNeil, 1982).
    """
    expected = NormalDist().cdf(0.5 / 2**0.5)
    found = attacks.auc(lognormal(-0.5, 5000, 1), lognormal(0.0, 5000, 2))
    assert found == pytest.approx(expected, abs=0.02)


def test_the_interval_holds_the_truth_95_times_in_100() -> None:
    """Of 200 intervals 190 are expected to hold Phi(0.3 / sqrt 2); fewer than 180 has a chance of
    3e-3 by the binomial distribution.
    """
    expected = NormalDist().cdf(0.3 / 2**0.5)
    held = 0
    for seed in range(200):
        members, others = lognormal(-0.3, 300, seed), lognormal(0.0, 300, 1000 + seed)
        low, high = attacks.auc_interval(members, others, seed=seed, resamples=300)
        held += low <= expected <= high
    assert held >= 180


def test_the_interval_is_as_wide_as_theory_says() -> None:
    """Without a difference, an AUC of n against n has the variance (2n + 1) / (12 n^2): for
    n = 2000 the 95 % interval is 2 * 1.96 * 0.00913 = 0.0358 wide.
    """
    low, high = attacks.auc_interval(lognormal(0, 2000, 1), lognormal(0, 2000, 2), seed=0)
    assert high - low == pytest.approx(0.0358, rel=0.1)


def test_the_interval_follows_from_the_seed_and_is_fast() -> None:
    members, others = lognormal(0, 2000, 1), lognormal(0, 2000, 2)
    began = time.perf_counter()
    once = attacks.auc_interval(members, others, seed=3)
    assert time.perf_counter() - began < 2.0
    assert attacks.auc_interval(members, others, seed=3) == once
    assert attacks.auc_interval(members, others, seed=4) != once


def test_true_positives_at_one_percent() -> None:
    """Members at d = 2 deviations below: TPR = Phi(d - z) with z = 2.326 of one in a hundred, so
    0.372; the threshold lies between bins of 1/40 decade, so a little less.
    """
    expected = NormalDist().cdf(2.0 - NormalDist().inv_cdf(0.99))
    found = attacks.true_positives(lognormal(-2.0, 20000, 1), lognormal(0.0, 20000, 2))
    assert expected - 0.04 < found < expected + 0.02


def test_of_equal_losses_no_member_is_caught() -> None:
    same = profile(np.full(50, 0.5))
    assert attacks.true_positives(same, same) == 0.0
    assert attacks.auc(same, same) == 0.5
    assert attacks.auc_interval(same, same, seed=0) == (0.5, 0.5)


def test_the_loss_attack_is_as_good_as_the_best_threshold() -> None:
    """Between two normal distributions of one deviation, d = 1 apart, the best threshold is in the
    middle and right with Phi(d / 2) = 0.691.
    """
    found = attacks.loss_attack(lognormal(-1, 4000, 1), lognormal(0, 4000, 2), seed=0)
    assert found == pytest.approx(NormalDist().cdf(0.5), abs=0.02)


def test_the_loss_attack_is_balanced() -> None:
    """Nine members for one other: who guesses "member" is right in 0.9, but here in one half."""
    found = attacks.loss_attack(lognormal(0, 3600, 1), lognormal(0, 400, 2), seed=0)
    assert found == pytest.approx(0.5, abs=0.06)


def test_the_confidence_attack_takes_the_confident_for_members() -> None:
    """Retained losses at 0.01 and test losses at 2 lie apart: it takes all like the ones for
    members and none like the others.
    """
    retained, test = profile(np.full(200, 0.01)), profile(np.full(200, 2.0))
    assert attacks.confidence_attack(retained, test, retained, seed=0) == 1.0
    assert attacks.confidence_attack(retained, test, test, seed=0) == 0.0


def test_figures_of_what_there_is() -> None:
    groups = {
        SampleGroup.FORGOTTEN: profile(np.full(40, 0.1), correct=30),
        SampleGroup.TEST: profile(np.full(5, 0.1), correct=5),
    }
    found = attacks.figures_of(groups)
    assert found["accuracy_forgotten"] == 0.75
    assert found["accuracy_test"] == 1.0
    assert found["samples_unseen"] == 0
    assert not {"auc", "loss_attack", "confidence_attack", "accuracy_unseen"} & found.keys()


def test_too_few_samples_have_no_auc() -> None:
    few = {group: profile(np.full(attacks.FEWEST - 1, 0.1)) for group in SampleGroup}
    assert "auc" not in attacks.figures_of(few)
    enough = {group: profile(np.full(attacks.FEWEST, 0.1)) for group in SampleGroup}
    assert attacks.figures_of(enough)["auc"] == 0.5
    assert attacks.figures_of(enough)["loss_attack"] == 0.5


@pytest.mark.parametrize("size", [(0, 5), (5, 0)])
def test_a_group_without_samples_is_an_error(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="samples"):
        attacks.auc(*(profile(np.full(count, 0.1)) for count in size))
