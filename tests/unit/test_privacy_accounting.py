"""The accountant: known figures, and composition."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
from opacus.accountants import RDPAccountant

from fednot.privacy.accounting import epsilon
from fednot.privacy.costs import Noise, Steps

ROOT = Path(__file__).parents[2]
DELTA = 1e-5


def test_nothing_was_spent_by_no_step() -> None:
    assert epsilon([], DELTA) == 0


def test_one_gaussian_step_is_bounded_as_theory_says() -> None:
    """Without sampling a step of noise s has Renyi divergence a / (2 s^2) at order a.

    Mironov's conversion gives the least of a / (2 s^2) + log(1/delta) / (a - 1), which for s = 4 is
    1.23 (at a = 20.2); Opacus' conversion (Balle et al., 2020) is tighter, and exact calibration
    (Balle and Wang, ICML 2018: the epsilon at which Phi(1/(2s) - s e) - e^e Phi(-1/(2s) - s e) is
    delta) bounds it from below.
    """
    noise = 4.0
    found = epsilon([Steps(Noise(noise, 1.0), 1.0, 1)], DELTA)
    mironov = min(
        a / (2 * noise**2) + math.log(1 / DELTA) / (a - 1) for a in (x / 10 for x in range(11, 600))
    )
    assert mironov == pytest.approx(1.23, abs=0.01)
    assert exact(noise, DELTA) < found < mironov


def exact(noise: float, delta: float) -> float:
    """The least epsilon of one Gaussian step, by bisection of Balle and Wang's equation."""

    def phi(x: float) -> float:
        return math.erfc(-x / math.sqrt(2)) / 2

    low, high = 0.0, 50.0
    for _ in range(100):
        middle = (low + high) / 2
        at = phi(1 / (2 * noise) - noise * middle)
        at -= math.exp(middle) * phi(-1 / (2 * noise) - noise * middle)
        low, high = (middle, high) if at > delta else (low, middle)
    return high


def test_steps_compose_over_noises_and_rates_as_opacus_composes_them() -> None:
    theirs = RDPAccountant()
    theirs.history = [(1.3, 0.08, 130), (0.9, 0.1, 20), (1.3, 0.08, 13)]
    ours = [
        Steps(Noise(*each), rate, count)
        for each, rate, count in (
            ((1.3, 1.0), 0.08, 130),
            ((0.9, 5.0), 0.1, 20),
            ((1.3, 1.0), 0.08, 13),
        )
    ]
    assert epsilon(ours, DELTA) == pytest.approx(theirs.get_epsilon(DELTA), rel=1e-6)


def test_more_steps_spend_more_and_clipping_does_not() -> None:
    def of(count: int, clip: float = 1.0) -> float:
        return epsilon([Steps(Noise(1.1, clip), 0.05, count)], DELTA)

    assert 0 < of(10) < of(20) < of(200)
    assert of(10, clip=7.0) == of(10)


def test_opacus_is_imported_by_nobody_who_does_not_ask_for_it() -> None:
    """The extra is optional: both daemons and the command line start without it."""
    look = (
        "import sys, client.__main__, client.exclusions, server.__main__, fednot.cli.main\n"
        "assert 'opacus' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", look], check=True, timeout=250, cwd=ROOT)


def test_only_the_package_of_privacy_knows_opacus() -> None:
    """The types that Opacus' extra is about stay in one place."""
    paths = [
        path for name in ("fednot", "server", "client") for path in (ROOT / name).rglob("*.py")
    ]
    knowing = {
        path for path in paths if re.search(r"^\s*(from|import) opacus", path.read_text(), re.M)
    }
    assert knowing
    assert {path.parent for path in knowing} == {ROOT / "fednot" / "privacy"}
