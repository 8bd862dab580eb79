"""Verification of the backdoored digits: each method gets the verdicts that it deserves.

Negating the first convolution takes the backdoor out of the model as it stands; negating it once
more brings it back. What all but the last layer does depends on the seed of the initial model and
on when recovery stops: with seed 2 it withstands the undo attack, with seed 1 that brings the
trigger back to 0.84, in a model that is otherwise broken (one that never saw the trigger: 0.00).
docs/verification.md has the figures.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.in_process import InProcessFederation, in_process

from fednot.demo.digits import DigitsTask
from server.federation import Defaults
from server.methods.negation import negated
from server.records import (
    Assurance,
    Attempt,
    Bar,
    Job,
    JobPhase,
    RecoveryPolicy,
    Scope,
    ScopeKind,
    Verdict,
    Verification,
)
from server.rounds import Rounds
from server.verification.verifier import Verifier

TARGET = "client-0"
ROUNDS = 12
SEED, WITHSTANDS, GIVES_WAY = 0, 2, 1
"""Seeds of initial models: that of most tests, and two by what all but the last layer does."""
POLICY = RecoveryPolicy(max_rounds=ROUNDS, full_budget=True)
pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


def tasks() -> dict[str, DigitsTask]:
    torch.set_num_threads(1)
    return {f"client-{index}": DigitsTask(str(index)) for index in range(5)}


def trained_from(folder: Path, seed: int) -> Path:
    """The state of five clients after twelve rounds, and the probe of the backdoor."""
    (folder / "probes").mkdir(parents=True)
    DigitsTask().write_probe(folder / "probes" / f"client-{TARGET}.npz")

    async def train() -> None:
        async with in_process(folder, DigitsTask(), tasks(), Defaults(seed=seed)) as federation:
            await federation.train(ROUNDS)

    asyncio.run(train())
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_from(tmp_path_factory.mktemp("trained"), SEED)


async def verified(
    trained: Path, tmp_path: Path, method: str, layers: str = "", seed: int = SEED
) -> Verification:
    """What verification finds of a deletion from a copy of the trained state."""
    folder = tmp_path / "copy"
    shutil.copytree(trained, folder)
    defaults = Defaults(seed=seed)
    probes = folder / "probes"
    async with in_process(folder, DigitsTask(), tasks(), defaults, probes) as federation:
        deletion = await federation.forget(TARGET, method=method, layers=layers, policy=POLICY)
        assert deletion.job.phase is JobPhase.COMPLETED
        found = deletion.job.attempts[-1].verification
    assert found is not None
    show(f"{method} {layers}", found)
    return found


def show(title: str, found: Verification) -> None:
    """Prints the figures, for whoever wants them with `-s`."""
    print(f"\n{title}: behaviour {found.behaviour}, depth {found.depth}")
    for one in found.findings:
        figures: Mapping[str, float] = one.figures
        told = ", ".join(f"{key} {value:.3f}" for key, value in figures.items())
        print(f"  {one.model} +{one.rounds}: {told}")


async def test_fine_tuning_fails_behaviour(trained: Path, tmp_path: Path) -> None:
    found = await verified(trained, tmp_path, "fine-tune")
    assert found.behaviour.verdict is Verdict.FAIL
    assert found.findings[0].figures["trigger_effect"] > 0.5


async def test_the_first_layer_passes_behaviour_and_fails_depth(
    trained: Path, tmp_path: Path
) -> None:
    found = await verified(trained, tmp_path, "not", "first")
    assert found.behaviour.verdict is Verdict.PASS
    assert found.depth.verdict is Verdict.FAIL
    undone, played_on = found.findings[1:]
    assert undone.figures["trigger_effect"] > 0.3
    assert undone.figures["trigger_effect"] > played_on.figures["trigger_effect"]


async def test_all_but_the_last_layer_passes_both(tmp_path: Path) -> None:
    trained = await asyncio.to_thread(trained_from, tmp_path / "trained", WITHSTANDS)
    found = await verified(trained, tmp_path, "not", "all-but-last", WITHSTANDS)
    assert (found.behaviour.verdict, found.depth.verdict) == (Verdict.PASS, Verdict.PASS)


async def test_where_the_backdoor_outlives_all_but_the_last_layer_depth_says_so(
    tmp_path: Path,
) -> None:
    trained = await asyncio.to_thread(trained_from, tmp_path / "trained", GIVES_WAY)
    found = await verified(trained, tmp_path, "not", "all-but-last", GIVES_WAY)
    assert found.behaviour.verdict is Verdict.PASS
    assert found.depth.verdict is Verdict.FAIL
    assert found.findings[1].figures["trigger_effect"] > 0.2


async def test_a_retrained_model_passes_both(trained: Path, tmp_path: Path) -> None:
    found = await verified(trained, tmp_path, "retrain")
    assert (found.behaviour.verdict, found.depth.verdict) == (Verdict.PASS, Verdict.PASS)
    figures = found.findings[0].figures
    assert figures["auc_low"] <= 0.5 <= figures["auc_high"]


async def test_without_recovery_depth_fails_outright(trained: Path, tmp_path: Path) -> None:
    """The undo attack on a model that was just negated gives the old model back."""
    folder = tmp_path / "copy"
    shutil.copytree(trained, folder)
    probes = folder / "probes"
    async with in_process(folder, DigitsTask(), tasks(), Defaults(seed=SEED), probes) as federation:
        found = await _just_negated(federation)
    show("no recovery", found)
    assert found.depth.verdict is Verdict.FAIL
    assert found.findings[1].figures["trigger_effect"] > 0.9


async def _just_negated(running: InProcessFederation) -> Verification:
    federation = running.federation
    federation.fences.load([Bar(TARGET, "by-the-test", 0.0)], {})
    tensors = federation.model.layers.first
    job = Job(
        id="job-1",
        phase=JobPhase.VERIFYING,
        method="not",
        layers="first",
        allow_unsafe_layers=False,
        policy=POLICY,
        created_at=0.0,
        scopes=(Scope(ScopeKind.CLIENT, TARGET),),
    )
    attempt = Attempt("job-1", 1, "not", tensors, start_version=1)
    flat = negated(federation.model.flat, federation.model.manifest, tensors)
    verifier = Verifier(federation, Rounds(federation))
    return await verifier.verify(job, attempt, flat)


async def test_a_deep_assurance_climbs_until_depth_passes(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(trained, folder)
    probes = folder / "probes"
    defaults = Defaults(seed=SEED, ladder=("first", *Defaults().ladder))
    async with in_process(folder, DigitsTask(), tasks(), defaults, probes) as federation:
        deletion = await federation.forget(
            TARGET, policy=replace(POLICY, full_budget=False), assurance=Assurance.DEEP
        )
    job = deletion.job
    for attempt in job.attempts:
        assert attempt.verification is not None
        show(f"{attempt.explanation}", attempt.verification)
    first = job.attempts[0].verification
    assert first is not None
    assert first.depth.verdict is Verdict.FAIL
    assert [attempt.method for attempt in job.attempts] == ["not", "shrink-and-perturb:0.3"]
    assert job.chosen_attempt == 2
    kept = job.attempts[job.chosen_attempt - 1]
    assert kept.verification is not None
    assert kept.verification.behaviour.verdict is Verdict.PASS
    assert kept.verification.depth.verdict is Verdict.PASS
