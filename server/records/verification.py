"""What verification found of an attempt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from fednot.loss_profile import LossProfile


class Verdict(StrEnum):
    """What verification says."""

    PASS = "pass"  # noqa: S105  # nosec B105 - a verdict
    FAIL = "fail"
    NOT_POSSIBLE = "not-possible"


@dataclass(frozen=True)
class Judged:
    """A verdict and its reason in a sentence."""

    verdict: Verdict
    reason: str


@dataclass(frozen=True)
class Thresholds:
    """What a verdict is measured by: half the width around 0.5 within which the interval of the
    membership AUC must lie, and by how much a trigger may raise the share of its class.
    """

    auc_margin: float = 0.1
    trigger_margin: float = 0.1


@dataclass(frozen=True)
class Finding:
    """The figures of one model, shares from 0 to 1; docs/verification.md names each.

    `model` is "recovered", or "undone: " and the tensors that were negated again or the method that
    was undone; `rounds` counts the rounds on retained data after that.
    """

    model: str
    rounds: int
    figures: Mapping[str, float]


@dataclass(frozen=True)
class Verification:
    """Verdicts on one attempt with all that they rest on; `found_at` in seconds since the epoch.

    `findings` has the recovered model first. The profiles are of the recovered model, None if they
    could not be had; `probe_sha256` is "" without a probe.
    """

    behaviour: Judged
    depth: Judged
    findings: tuple[Finding, ...]
    thresholds: Thresholds
    found_at: float
    forgotten: LossProfile | None = None
    unseen: LossProfile | None = None
    probe_sha256: str = ""


@dataclass(frozen=True)
class VerificationPolicy:
    """How a deletion is verified; times in seconds.

    `enabled` False leaves verification out, and both verdicts are NOT_POSSIBLE. `undo_rounds` is
    the rounds on retained data after the undo attack, `undo_layers` the most layers that it negates
    each alone, `wait` how long a client is waited for, `max_examples` the most samples of a group.
    """

    enabled: bool = True
    thresholds: Thresholds = field(default_factory=Thresholds)
    undo_rounds: int = 2
    undo_layers: int = 8
    wait: float = 60.0
    max_examples: int = 2000
