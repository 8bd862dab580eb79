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
"""Shadow models: so many leave two with and two without each example besides the one attacked."""


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

    Every example is in half of the models, rounded down or up, and each model has about half of the
    examples, as in Carlini et al.: so no example is without models that saw it, and that did not.
    """
    generator = np.random.default_rng(seed)
    ranks = generator.random((models, examples)).argsort(axis=0).argsort(axis=0)
    odd = generator.integers(0, 2, examples) if models % 2 else np.zeros(examples, dtype=np.int64)
    found: Members = ranks < models // 2 + odd
    return found


def answers(logits: NDArray[np.floating], targets: NDArray[np.int64]) -> Values:
    """The scaled confidence of each example, [N], by logits [N, C].

    Raises ValueError for logits of another shape.
    """
    if logits.ndim != 2 or len(logits) != len(targets):
        raise ValueError(
            f"logits of shape {list(logits.shape)} do not answer for {len(targets)} examples; "
            "they must be of shape [examples, classes]"
        )
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

    Raises ValueError for fewer than six models, a model without a sample to train on, or logits of
    another shape or that are not finite: one such model would spoil every example.
    """
    if models < FEWEST:
        raise ValueError(f"{models} shadow models are too few; use at least {FEWEST}")
    members = halves(models, len(targets), seed)
    found = np.empty(members.shape, dtype=np.float64)
    for number, chosen in enumerate(members):
        indices = np.flatnonzero(chosen).tolist()
        if not indices:
            raise ValueError(f"shadow model {number} has no examples; there are too few in all")
        found[number] = answers(train(indices, seed + number + 1), targets)
        if not np.isfinite(found[number]).all():
            raise ValueError(f"shadow model {number} diverged; lower its learning rate")
        progress(number + 1)
    return Shadows(found, members)


def leave_one_out(shadows: Shadows) -> Attack:
    """Attacks each shadow model with the others, whose own halves are the truth.

    Raises ValueError if nothing can be judged.
    """
    scores = np.empty_like(shadows.confidences)
    for number in range(len(scores)):
        others = np.arange(len(scores)) != number
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
