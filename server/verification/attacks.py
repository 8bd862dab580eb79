"""Membership inference from loss profiles: does a model treat forgotten samples as it does unseen?

Pure arithmetic on what clients tell, figures by name (docs/verification.md): shares from 0 to 1. A
sample counts as the more familiar, the lower its loss. scikit-learn is imported when it is first
needed, since a server that verifies nothing shall not carry it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fednot.loss_profile import CENTRES, EDGES, LossProfile
from server.cohorts.cohort import SampleGroup

RESAMPLES: Final = 1000
INTERVAL: Final = (2.5, 97.5)
FEWEST: Final = 10
"""Samples that a group needs at least: of fewer, a bootstrap cannot tell how sure it is."""
FALSE_POSITIVES: Final = 0.01
FOLDS: Final = 10

Counts = NDArray[np.float64]
Values = NDArray[np.float64]


def figures_of(profiles: Mapping[SampleGroup, LossProfile], *, seed: int = 0) -> dict[str, float]:
    """All figures that the profiles of one model give.

    Those that need a group that is missing, empty, or smaller than FEWEST are left out.
    """
    found: dict[str, float] = {}
    for group in SampleGroup:
        profile = profiles.get(group)
        found[f"samples_{group}"] = float(profile.size if profile else 0)
        if profile is not None and profile.size:
            found[f"accuracy_{group}"] = profile.accuracy
    groups = {g: p for g, p in profiles.items() if p.size >= FEWEST}
    forgotten, unseen = groups.get(SampleGroup.FORGOTTEN), groups.get(SampleGroup.UNSEEN)
    if forgotten is not None and unseen is not None:
        low, high = auc_interval(forgotten, unseen, seed=seed)
        found |= {"auc": auc(forgotten, unseen), "auc_low": low, "auc_high": high}
        found["tpr_at_1_percent_fpr"] = true_positives(forgotten, unseen)
        found["loss_attack"] = loss_attack(forgotten, unseen, seed=seed)
    retained, test = groups.get(SampleGroup.RETAINED), groups.get(SampleGroup.TEST)
    if forgotten is not None and retained is not None and test is not None:
        found["confidence_attack"] = confidence_attack(retained, test, forgotten, seed=seed)
    return found


def auc(members: LossProfile, others: LossProfile) -> float:
    """The share of pairs in which the member has the lower loss; a pair in one bin counts half.

    Raises ValueError if either has no samples.
    """
    return float(_aucs(_shares(members)[None], _shares(others)[None])[0])


def auc_interval(
    members: LossProfile, others: LossProfile, *, seed: int, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """The bootstrap 95 % interval of the AUC: both groups are drawn anew, with replacement.

    Raises ValueError if either has no samples.
    """
    generator = np.random.default_rng(seed)
    drawn = [
        generator.multinomial(group.size, _shares(group), size=resamples) / group.size
        for group in (members, others)
    ]
    low, high = np.percentile(_aucs(*drawn), INTERVAL)
    return float(low), float(high)


def true_positives(
    members: LossProfile, others: LossProfile, *, false_positives: float = FALSE_POSITIVES
) -> float:
    """The share of members below the highest loss that no more than a share of others is below.

    Thresholds lie between bins. Raises ValueError if either has no samples.
    """
    caught, wrong = np.cumsum(_shares(members)), np.cumsum(_shares(others))
    allowed = caught[wrong <= false_positives]
    return float(allowed[-1]) if len(allowed) else 0.0


def loss_attack(members: LossProfile, others: LossProfile, *, seed: int) -> float:
    """How often a classifier that sees a sample's loss says rightly whether it was a member.

    `told_apart` by the logarithm of the loss. Raises ValueError for a group with fewer than two.
    """
    return told_apart(_log_losses(members), _log_losses(others), seed=seed)


def told_apart(members: Values, others: Values, *, seed: int) -> float:
    """How often a classifier of one value, of shape [N] for each group, tells the groups apart.

    Logistic regression, both groups brought to the same size by a draw that `seed` settles, the
    mean over a stratified 10-fold; 0.5 is as good as guessing. A few samples have fewer folds.
    Raises ValueError for a group with fewer than two.
    """
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
    from sklearn.model_selection import (  # type: ignore[import-untyped]
        StratifiedKFold,
        cross_val_score,
    )

    values, labels = balanced(members, others, seed)
    folds = min(FOLDS, len(labels) // 2)
    split = StratifiedKFold(folds, shuffle=True, random_state=seed)
    return float(cross_val_score(LogisticRegression(), values, labels, cv=split).mean())


def confidence_attack(
    retained: LossProfile, test: LossProfile, forgotten: LossProfile, *, seed: int
) -> float:
    """The share of forgotten samples that a classifier takes for members.

    Logistic regression on the confidence, exp(-loss), learned on retained against test samples of
    the same number. Raises ValueError if any has no samples.
    """
    from sklearn.linear_model import LogisticRegression

    values, labels = balanced(_confidences(retained), _confidences(test), seed)
    attack = LogisticRegression().fit(values, labels)
    return float(attack.predict(_confidences(forgotten)[:, None]).mean())


def balanced(members: Values, others: Values, seed: int) -> tuple[Any, NDArray[np.int64]]:
    """Values [2n, 1] and labels [2n], 1 for a member, of the smaller group's size n."""
    generator = np.random.default_rng(seed)
    size = min(len(members), len(others))
    if size < 2:
        raise ValueError("an attack needs at least two samples of each group")
    drawn = [generator.choice(group, size, replace=False) for group in (members, others)]
    labels = np.repeat(np.array([1, 0], dtype=np.int64), size)
    return np.concatenate(drawn)[:, None], labels


def _shares(profile: LossProfile) -> Counts:
    if not profile.size:
        raise ValueError("a group without samples has no losses")
    return np.asarray(profile.counts, dtype=np.float64) / profile.size


def _aucs(members: Counts, others: Counts) -> Values:
    above = 1.0 - np.cumsum(others, axis=1)
    found: Values = (members * (above + others / 2)).sum(axis=1)
    return found


def _log_losses(profile: LossProfile) -> Values:
    found: Values = np.log10(np.maximum(profile.losses, EDGES[0] ** 2 / CENTRES[1]))
    return found


def _confidences(profile: LossProfile) -> Values:
    found: Values = np.exp(-profile.losses)
    return found
