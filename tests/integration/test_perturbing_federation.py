"""The perturbing methods in a federation within one process: start, lineage, and undo attack."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from support.in_process import in_process
from support.small_digits import SmallDigits

from server.federation import Defaults
from server.methods import method_named
from server.records import (
    Assurance,
    Attempt,
    Deletion,
    JobPhase,
    RecoveryPolicy,
    Thresholds,
    VerificationPolicy,
)

POLICY = RecoveryPolicy(max_rounds=1, full_budget=True, min_rounds=1, tolerance=0.9)
LOOKS_ONCE = VerificationPolicy(wait=0.2, undo_rounds=0)
ALWAYS_FAILS = VerificationPolicy(thresholds=Thresholds(trigger_margin=-2.0), undo_rounds=0)
"""No trigger lowers the share of its class by two."""
METHODS = {
    "noise:0.5": ["noise:0.5", "conv1.weight"],
    "reinitialise": ["conv1.weight"],
    "filter-signs": ["filter-signs", "conv1.weight"],
    "shrink-and-perturb": ["shrink-and-perturb:0.3", "conv1.weight"],
    "negate-and-perturb:0.4": ["negate-and-perturb:0.4", "conv1.weight"],
    "not": ["conv1.weight"],
    "fine-tune": ["conv1.weight"],
}
"""What is undone after each: its own doing, if it can be undone, and the layers negated again."""

QUICK = ("negate-and-perturb:0.4", "reinitialise")
"""One with and one without a way to undo it."""


@pytest.fixture
def tasks() -> Mapping[str, SmallDigits]:
    torch.set_num_threads(1)
    return {f"c{index}": SmallDigits(str(index), client_test="yes") for index in range(3)}


def kept(deletion: Deletion) -> Attempt:
    assert deletion.job.phase is JobPhase.COMPLETED, deletion.job.failure
    (attempt,) = deletion.job.attempts
    return attempt


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.long) for name in METHODS],
)
async def test_a_deletion_by_each_method_completes_and_is_undone_by_its_own_way(
    tmp_path: Path, tasks: Mapping[str, SmallDigits], name: str
) -> None:
    defaults = Defaults(verification=LOOKS_ONCE, destruction_wait=0.1)
    async with in_process(tmp_path, SmallDigits(), tasks, defaults) as running:
        await running.train(1)
        deletion = await running.forget("c0", method=name, policy=POLICY)
        current = running.federation.model.current
    attempt = kept(deletion)
    method = method_named(name)
    assert attempt.method == method.name
    assert attempt.tensors == (("conv1.weight",) if method.needs.layers else ())
    assert current.negated_tensors == (attempt.tensors if method.negates else ())
    assert attempt.verification is not None
    undone = [found.model for found in attempt.verification.findings]
    assert undone == ["recovered", *(f"undone: {what}" for what in METHODS[name])]


async def test_rungs_of_other_methods_are_climbed(
    tmp_path: Path, tasks: Mapping[str, SmallDigits]
) -> None:
    """Every attempt fails, so the ladder is climbed to its end."""
    ladder = ("first*1", "negate-and-perturb:0.4@index=1*2", "shrink-and-perturb*1")
    probes = tmp_path / "probes"
    probes.mkdir()
    images = SmallDigits()._digits.inputs[:20].numpy()
    np.savez(probes / "client-c0.npz", trigger_x=images, clean_x=images, trigger_target=np.int64(3))
    defaults = Defaults(verification=ALWAYS_FAILS, ladder=ladder, destruction_wait=0.1)
    async with in_process(tmp_path, SmallDigits(), tasks, defaults, probes) as running:
        await running.train(1)
        deletion = await running.forget("c0", policy=POLICY, assurance=Assurance.DEEP)
    assert deletion.job.phase is JobPhase.COMPLETED
    attempts = [(a.rung, a.method, a.tensors, len(a.rounds)) for a in deletion.job.attempts]
    assert attempts == [
        (1, "not", ("conv1.weight",), 1),
        (2, "negate-and-perturb:0.4", ("conv2.weight",), 2),
        (3, "shrink-and-perturb:0.3", (), 1),
    ]
