"""Attacks on losses and shadow models whose figures are known, and on a model that overfits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from lab.membership import shadow
from lab.membership.lira import judge, ratios, scaled
from lab.membership.population import confidence_attack, confidences, loss_attack


def drawn(size: int, scale: float, seed: int) -> NDArray[np.float64]:
    return np.random.default_rng(seed).exponential(scale, size)


def test_losses_that_are_alike_are_told_apart_half_the_time() -> None:
    found = loss_attack(drawn(1000, 1.0, 1), drawn(3000, 1.0, 2), seed=0)
    assert found == pytest.approx(0.5, abs=0.03)


def test_losses_apart_are_told_apart_always() -> None:
    low, high = np.linspace(0.0, 0.1, 50), np.linspace(5.0, 6.0, 200)
    assert loss_attack(low, high, seed=0) == 1.0


def test_a_group_of_one_cannot_be_attacked() -> None:
    with pytest.raises(ValueError, match="at least two samples"):
        loss_attack(np.array([0.1]), np.array([0.1, 0.2]), seed=0)


def test_an_infinite_loss_is_a_large_one() -> None:
    low, high = np.zeros(20), np.full(20, np.inf)
    assert loss_attack(low, high, seed=0) == 1.0
    assert confidences(high).max() == 0.0


def test_the_share_of_forgotten_taken_for_non_members() -> None:
    """Members answer with 0.99, others with 0.3: three of four forgotten look like the others."""
    forgotten = np.array([0.98, 0.3, 0.31, 0.29])
    found = confidence_attack(np.full(30, 0.99), np.full(60, 0.3), forgotten, seed=0)
    assert found == 0.75


def test_no_forgotten_sample_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one forgotten"):
        confidence_attack(np.full(5, 0.9), np.full(5, 0.1), np.empty(0), seed=0)


def test_the_machine_learns_from_no_more_than_it_is_told() -> None:
    retained = np.concatenate([np.full(50, 0.9), np.full(5000, 0.91)])
    found = confidence_attack(retained, np.full(5000, 0.2), np.array([0.2]), seed=0, most=10)
    assert found == 1.0


def test_the_scaled_confidence_of_a_half_is_zero_and_of_a_sure_answer_finite() -> None:
    """Softmax of (log 3, 0) is 3/4: log(3/4 / 1/4) = log 3. Of (1000, 0, 0): 1000 - log 2."""
    found = scaled(np.array([[0.0, 0.0], [np.log(3), 0.0]]), np.array([0, 0]))
    assert found == pytest.approx([0.0, np.log(3)])
    sure = scaled(np.array([[1000.0, 0.0, 0.0]]), np.array([0]))
    assert sure == pytest.approx([1000 - np.log(2)])


def test_the_ratio_of_two_gaussians_by_hand() -> None:
    """One example: in 3 and 5, out -1 and 1. Means 4 and 0, both deviations sqrt(2).

    At 3: -(3-4)^2/4 + (3-0)^2/4 = 2. At 2, in the middle: 0.
    """
    shadows = np.array([[3.0], [5.0], [-1.0], [1.0]])
    members = np.array([[True], [True], [False], [False]])
    assert ratios(np.array([3.0]), shadows, members) == pytest.approx([2.0])
    assert ratios(np.array([2.0]), shadows, members) == pytest.approx([0.0])


def test_few_models_pool_the_deviation_of_all_examples() -> None:
    """In: 0, 2 and 0, 0 have squares 2 and 0 with one degree of freedom each: variance 1.

    Out: both the same. Example 0 at 1 against means 1 and -1: 0 + 4/2 = 2.
    """
    shadows = np.array([[0.0, 0.0], [2.0, 0.0], [-2.0, 0.0], [0.0, 0.0]])
    members = np.array([[True, True], [True, True], [False, False], [False, False]])
    assert ratios(np.array([1.0, 0.0]), shadows, members) == pytest.approx([2.0, 0.0])


def test_many_models_have_a_deviation_for_each_example() -> None:
    """16 models on a side at 1 +- 1 and 16 at -1 +- 1 for one example, ten times so for the other.

    With n - 1 = 15 the variances are 16/15 and 1600/15. At the means: 4 / (2 * 16/15) = 1.875 for
    both, which pooling would not give.
    """
    spread = np.tile([1.0, -1.0], 8)
    shadows = np.concatenate([np.outer(spread + 1, [1, 10]), np.outer(spread - 1, [1, 10])])
    members = np.repeat([[True, True], [False, False]], 16, axis=0)
    assert ratios(np.array([1.0, 10.0]), shadows, members) == pytest.approx([1.875, 1.875])


def test_an_example_that_every_model_saw_is_not_judged() -> None:
    shadows = np.array([[3.0, 3.0], [5.0, 5.0], [-1.0, 4.0], [1.0, 4.5]])
    members = np.array([[True, True], [True, True], [False, True], [False, True]])
    found = ratios(np.array([3.0, 3.0]), shadows, members)
    assert np.isfinite(found[0])
    assert np.isnan(found[1])


def test_an_attack_by_hand() -> None:
    """Members 2, 1, -1 and others 1.5, -2, -3, and one NaN that is left out.

    Right: 2 of 3 and 2 of 3. Pairs: 2 beats 3, 1 beats 2, -1 beats 2: 7 of 9. Above 1.5, the
    highest other, stands one of three.
    """
    scores = np.array([2.0, 1.0, -1.0, 1.5, -2.0, -3.0, np.nan])
    found = judge(scores, np.array([True] * 3 + [False] * 4))
    assert found.balanced_accuracy == pytest.approx(2 / 3)
    assert found.auc == pytest.approx(7 / 9)
    assert found.tpr_at_1_percent_fpr == pytest.approx(1 / 3)
    assert found.samples == (3, 3)


def test_ties_count_half_and_one_in_a_hundred_others_may_be_above() -> None:
    assert judge(np.zeros(4), np.array([True, True, False, False])).auc == 0.5
    others = np.concatenate([[9.0], np.full(99, -1.0)])
    found = judge(np.concatenate([[5.0, -2.0], others]), np.array([True] * 2 + [False] * 100))
    assert found.tpr_at_1_percent_fpr == 0.5


def test_nothing_to_judge_is_an_error() -> None:
    with pytest.raises(ValueError, match="one member and one other"):
        judge(np.array([1.0, 2.0]), np.array([True, True]))


def test_partners_share_out_the_examples() -> None:
    found = shadow.halves(6, 400, seed=1)
    assert (found[::2] == ~found[1::2]).all()
    assert found.mean(axis=1) == pytest.approx(0.5, abs=0.12)
    assert (found == shadow.halves(6, 400, seed=1)).all()
    assert (found != shadow.halves(6, 400, seed=2)).any()


class Recalls:
    """Answers rightly, more surely where it was trained by `lift`; labels are hard to a degree."""

    def __init__(self, targets: NDArray[np.int64], lift: float) -> None:
        self.targets, self.lift = targets, lift
        self.hardness = np.random.default_rng(5).normal(0, 5, len(targets))
        self.seeds: list[int] = []

    def __call__(self, indices: Sequence[int], seed: int) -> NDArray[np.floating]:
        self.seeds.append(seed)
        noise = np.random.default_rng(seed).normal(0, 1, len(self.targets))
        sure = self.hardness + noise
        sure[list(indices)] += self.lift
        logits = np.zeros((len(self.targets), 2))
        logits[np.arange(len(logits)), self.targets] = sure
        return logits


def shadows_of(lift: float) -> tuple[shadow.Shadows, Recalls, NDArray[np.int64]]:
    targets = np.random.default_rng(0).integers(0, 2, 500)
    train = Recalls(targets, lift)
    return shadow.train_shadows(train, targets, models=8, seed=10), train, targets


def test_shadow_models_find_what_one_rule_for_all_cannot() -> None:
    """Members are 3 deviations surer, but examples differ by 5: the mean rule sees little."""
    shadows, train, targets = shadows_of(3.0)
    truth = np.random.default_rng(3).random(500) < 0.5
    logits = train(np.flatnonzero(truth).tolist(), 99)
    found = shadow.attack(logits, truth, shadows, targets)
    assert found.balanced_accuracy > 0.85
    assert found.auc > 0.93
    losses = np.logaddexp(0.0, -scaled(logits.astype(np.float64), targets))
    assert loss_attack(losses[truth], losses[~truth], seed=0) < 0.7
    assert shadow.leave_one_out(shadows).auc > 0.9


def test_a_model_that_forgot_is_not_told_from_one_that_never_saw() -> None:
    """4,000 judgements that are guesses: a deviation of some .008, and no bias below a half."""
    shadows, _, _ = shadows_of(0.0)
    found = shadow.leave_one_out(shadows)
    assert found.balanced_accuracy == pytest.approx(0.5, abs=0.02)
    assert found.auc == pytest.approx(0.5, abs=0.02)
    assert found.samples == (2000, 2000)


def test_each_shadow_model_has_its_own_seed() -> None:
    _, train, _ = shadows_of(0.0)
    assert len(set(train.seeds)) == 8


def test_what_cannot_be_attacked_is_refused() -> None:
    targets = np.zeros(10, dtype=np.int64)
    train = Recalls(targets, 0.0)
    for models in (4, 7):
        with pytest.raises(ValueError, match="an even number from 6"):
            shadow.train_shadows(train, targets, models=models, seed=0)
    with pytest.raises(ValueError, match="of shape \\[3, 2\\] do not answer for 10"):
        shadow.train_shadows(lambda indices, seed: np.zeros((3, 2)), targets, models=6, seed=0)
    with pytest.raises(ValueError, match="a shadow model diverged"):
        shadow.train_shadows(
            lambda indices, seed: np.full((10, 2), np.nan), targets, models=6, seed=0
        )
