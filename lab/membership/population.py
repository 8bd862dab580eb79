"""Attacks that judge every sample by one rule: the paper's and the one of SalUn.

Where verification has only histograms, the lab has each sample's own loss. Per-example attacks are
stronger (Hayes et al., arXiv 2403.01218): `lab.membership.lira`.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from server.verification.attacks import balanced, told_apart

MOST: Final = 2000
"""Samples of each group that the support vector machine learns from, which takes their square."""
PENALTY: Final = 3.0
LARGEST: Final = 1e3
"""A loss above it, or an infinite one, counts as this."""

Values = NDArray[np.float64]


def loss_attack(forgotten: Values, test: Values, *, seed: int) -> float:
    """The balanced attack of the paper: 0.5 is perfect forgetting, and what retraining scores.

    How often a logistic regression on the cross-entropy, of shape [N] each, tells forgotten from
    test samples, both drawn to the same number, over a stratified 10-fold. The paper's own attack
    is not known; this one (that of SCRUB, Kurmanji et al. 2023) fits its figures best. Raises
    ValueError for a group with fewer than two samples.
    """
    return told_apart(_bounded(forgotten), _bounded(test), seed=seed)


def confidence_attack(
    retained: Values, test: Values, forgotten: Values, *, seed: int, most: int = MOST
) -> float:
    """The "MIA-efficacy" of l1-sparse and SalUn: the share of forgotten taken for non-members.

    SVC(C=3, gamma="auto", kernel="rbf") on the confidence in the right class, each of shape [N] and
    from 0 to 1, learned on retained against test samples of the same number, at most `most` of
    each. Compare it only with retraining: how hard the forgotten samples are moves it. Raises
    ValueError for fewer than two retained or test samples, or no forgotten one.
    """
    from sklearn.svm import SVC  # type: ignore[import-untyped]

    if not len(forgotten):
        raise ValueError("the confidence attack needs at least one forgotten sample")
    generator = np.random.default_rng(seed)
    members, others = (_at_most(group, most, generator) for group in (retained, test))
    values, labels = balanced(members, others, seed)
    attack = SVC(C=PENALTY, gamma="auto", kernel="rbf").fit(values, labels)
    return float((attack.predict(forgotten[:, None]) == 0).mean())


def confidences(losses: Values) -> Values:
    """The confidence in the right class that a cross-entropy stands for, of the same shape."""
    found: Values = np.exp(-_bounded(losses))
    return found


def _bounded(losses: Values) -> Values:
    found: Values = np.nan_to_num(losses, nan=LARGEST, posinf=LARGEST).clip(0.0, LARGEST)
    return found


def _at_most(values: Values, most: int, generator: np.random.Generator) -> Values:
    if len(values) <= most:
        return values
    return generator.choice(values, most, replace=False)
