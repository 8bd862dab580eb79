"""The likelihood-ratio attack: for each example a Gaussian with it and one without it.

Carlini et al., "Membership inference attacks from first principles" (2022), online variant. For
unlearning as Hayes et al. (arXiv 2403.01218) do it: "in" are models that were trained on the
example and then unlearned it, "out" are models that never saw it, and the score of a model says
which it is more like. Pure arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

LEAST_DEVIATION: Final = 1e-3
FEWEST: Final = 2
"""Shadow models with, and without, an example that it needs at least."""
POOLED_BELOW: Final = 16
"""With fewer shadow models the deviation is pooled over the examples: Carlini's fixed variance."""
FALSE_POSITIVES: Final = 0.01

Values = NDArray[np.float64]
Members = NDArray[np.bool_]


@dataclass(frozen=True)
class Attack:
    """How well scores tell members from others, shares from 0 to 1; 0.5, 0.5 and 0.01 are guessing.

    `balanced_accuracy` takes the more likely of both for each example (the ratio's threshold is
    one). `samples` is how many members and others were judged.
    """

    balanced_accuracy: float
    auc: float
    tpr_at_1_percent_fpr: float
    samples: tuple[int, int]


def scaled(logits: Values, targets: NDArray[np.int64]) -> Values:
    """The logit-scaled confidence log(p / (1 - p)) in the right class, of shape [N].

    From logits [N, C] and classes [N], without ever forming p: the right logit minus the
    log-sum-exp of the others, so that a sure model does not become infinite.
    """
    rows = np.arange(len(targets))
    right = logits[rows, targets]
    others = logits.astype(np.float64, copy=True)
    others[rows, targets] = -np.inf
    found: Values = right - np.logaddexp.reduce(others, axis=1)
    return found


def ratios(observed: Values, shadows: Values, members: Members) -> Values:
    """The log-likelihood ratio of in against out for each example, of shape [N].

    `observed` are the scaled confidences of the model attacked, [N]; `shadows` those of K shadow
    models, [K, N]; `members` tells which were trained on which, bool [K, N]. Positive is more like
    a member. NaN for an example that fewer than two models saw, or did not see. With fewer than 16
    models on a side the deviation is the pooled one of all examples.
    """
    in_mean, in_deviation = _gaussians(shadows, members)
    out_mean, out_deviation = _gaussians(shadows, ~members)
    found: Values = _log_density(observed, in_mean, in_deviation) - _log_density(
        observed, out_mean, out_deviation
    )
    return found


def judge(scores: Values, truth: Members, *, false_positives: float = FALSE_POSITIVES) -> Attack:
    """How well scores [N], the higher the more a member, tell the truth, bool [N].

    NaN are left out. Raises ValueError if no member or no other is left.
    """
    known = ~np.isnan(scores)
    inside, outside = scores[known & truth], scores[known & ~truth]
    if not len(inside) or not len(outside):
        raise ValueError("the attack needs at least one member and one other that can be judged")
    right = ((inside > 0).mean() + (outside <= 0).mean()) / 2
    return Attack(
        balanced_accuracy=float(right),
        auc=_auc(inside, outside),
        tpr_at_1_percent_fpr=_caught(inside, outside, false_positives),
        samples=(len(inside), len(outside)),
    )


def _gaussians(shadows: Values, chosen: Members) -> tuple[Values, Values]:
    """Mean and deviation, each [N], over the chosen models of each example."""
    counts = chosen.sum(axis=0)
    enough = counts >= FEWEST
    sizes = np.where(enough, counts, FEWEST)
    mean = np.where(chosen, shadows, 0.0).sum(axis=0) / sizes
    squares = np.where(chosen, (shadows - mean) ** 2, 0.0).sum(axis=0)
    deviation = np.sqrt(squares / (sizes - 1))
    if enough.any() and counts[enough].min() < POOLED_BELOW:
        pooled = squares[enough].sum() / (counts[enough] - 1).sum()
        deviation = np.full_like(deviation, np.sqrt(pooled))
    unknown = np.where(enough, 0.0, np.nan)
    return mean + unknown, np.maximum(deviation, LEAST_DEVIATION)


def _log_density(values: Values, mean: Values, deviation: Values) -> Values:
    found: Values = -np.log(deviation) - ((values - mean) / deviation) ** 2 / 2
    return found


def _auc(inside: Values, outside: Values) -> float:
    """The share of pairs in which the member scores higher; a tie counts half."""
    ordered = np.sort(outside)
    below = np.searchsorted(ordered, inside, side="left")
    not_above = np.searchsorted(ordered, inside, side="right")
    return float((below + not_above).sum() / (2 * len(inside) * len(outside)))


def _caught(inside: Values, outside: Values, false_positives: float) -> float:
    """The largest share of members above a threshold that at most so many others are above."""
    allowed = int(false_positives * len(outside))
    threshold = np.sort(outside)[::-1][allowed] if allowed < len(outside) else -np.inf
    return float((inside > threshold).mean())
