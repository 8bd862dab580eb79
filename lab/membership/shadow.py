"""Shadow models on random halves, and LiRA with them.

How a model is trained, and whether it unlearns part of it, is the caller's: `train(indices, seed)`
returns the logits [N, C] of all N examples after training on those of the indices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from lab.membership.lira import Attack, Members, Values, judge, ratios, scaled

FEWEST: Final = 6
"""Shadow models: without the one attacked and its partner, two with and two without an example."""


class Train(Protocol):
    """Trains one model on the examples of the indices and answers for all of them."""

    def __call__(self, indices: Sequence[int], seed: int) -> NDArray[np.floating]:
        """Logits of shape [N, C], in the order of the examples."""
        ...


@dataclass(frozen=True)
class Shadows:
    """K models on halves of N examples: scaled confidences, and which saw which, each [K, N]."""

    confidences: Values
    members: Members


def halves(models: int, examples: int, seed: int) -> Members:
    """Which of K models trains on which of N examples, bool [K, N].

    Two neighbours are partners: one has exactly the examples that the other lacks. So every example
    is in half of the models, and leaving out a pair keeps it so. Raises ValueError for fewer than
    six models, or an odd number.
    """
    if models < FEWEST or models % 2:
        raise ValueError(f"{models} shadow models do not do; use an even number from {FEWEST} on")
    drawn = np.random.default_rng(seed).random((models // 2, examples)) < 0.5
    found: Members = np.stack([drawn, ~drawn], axis=1).reshape(models, examples)
    return found


def answers(logits: NDArray[np.floating], targets: NDArray[np.int64]) -> Values:
    """The scaled confidence of each example, [N], by logits [N, C].

    Raises ValueError for logits of another shape, or that are not finite: one such model would
    spoil every example.
    """
    if logits.ndim != 2 or len(logits) != len(targets):
        raise ValueError(
            f"logits of shape {list(logits.shape)} do not answer for {len(targets)} examples; "
            "they must be of shape [examples, classes]"
        )
    if not np.isfinite(logits).all():
        raise ValueError("a shadow model diverged; lower the learning rate")
    return scaled(logits.astype(np.float64), targets)


def train_shadows(
    train: Train,
    targets: NDArray[np.int64],
    *,
    models: int,
    seed: int,
    progress: Callable[[int], None] = lambda done: None,
) -> Shadows:
    """Trains the models one after the other, each with a seed of its own; `targets` are [N].

    Raises ValueError as `halves`, for a model without a sample to train on, and for logits
    that `answers` refuses.
    """
    members = halves(models, len(targets), seed)
    found = np.empty(members.shape, dtype=np.float64)
    for number, chosen in enumerate(members):
        indices = np.flatnonzero(chosen).tolist()
        if not indices:
            raise ValueError(f"shadow model {number} has no examples; there are too few in all")
        found[number] = answers(train(indices, seed + number + 1), targets)
        progress(number + 1)
    return Shadows(found, members)


def leave_one_out(shadows: Shadows) -> Attack:
    """Attacks each shadow model with the others but its partner; their own halves are the truth.

    With the partner there would be one model fewer that saw an example than that did not if the one
    attacked saw it: the smaller side's mean is less sure, and guessing would score below a half.
    Raises ValueError if nothing can be judged.
    """
    scores = np.empty_like(shadows.confidences)
    for number in range(len(scores)):
        others = np.arange(len(scores)) // 2 != number // 2
        scores[number] = ratios(
            shadows.confidences[number], shadows.confidences[others], shadows.members[others]
        )
    return judge(scores.ravel(), shadows.members.ravel())


def attack(
    logits: NDArray[np.floating],
    truth: Members,
    shadows: Shadows,
    targets: NDArray[np.int64],
) -> Attack:
    """Attacks one model by its logits [N, C] on the same examples; `truth` says whom it saw, [N].

    Raises ValueError for logits of another shape, or if nothing can be judged.
    """
    return judge(ratios(answers(logits, targets), shadows.confidences, shadows.members), truth)
