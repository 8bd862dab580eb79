"""Momentum in the recovery of a federation within one process, whose numbers are known."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.in_process import InProcessFederation, asked, in_process
from support.small_digits import SmallDigits

from fednot.manifest import Manifest
from fednot.tensors import views
from server.aggregation.momentum import add_momentum
from server.federation import Defaults
from server.records import (
    JobPhase,
    RecoveryPolicy,
    VerificationPolicy,
    Version,
    VersionOrigin,
)
from server.state import version_rows
from server.state.model_store import sha256_of

POLICY = RecoveryPolicy(max_rounds=3, full_budget=True, min_rounds=1, tolerance=0.9)
BETA = 0.5
DEFAULTS = Defaults(
    recovery_momentum=BETA,
    keep_versions=0,
    destruction_wait=0.1,
    verification=VerificationPolicy(enabled=False),
)


@pytest.fixture
def tasks() -> Mapping[str, SmallDigits]:
    torch.set_num_threads(1)
    return {f"c{index}": SmallDigits(str(index)) for index in range(3)}


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    found = tmp_path / "plain", tmp_path / "moved"
    for folder in found:
        folder.mkdir()
    return found


async def recovered(
    folder: Path, tasks: Mapping[str, SmallDigits], defaults: Defaults
) -> list[torch.Tensor]:
    """The start, which has round 0, and the versions of three recovery rounds, kept by a hold."""
    async with in_process(folder, SmallDigits(), tasks, defaults) as running:
        await running.train(2)
        kept: list[torch.Tensor] = []
        _watch(running, kept)
        deletion = await running.forget("c0", policy=POLICY)
        assert deletion.job.phase is JobPhase.COMPLETED, deletion.job.failure
        found = await running.federation.database.read(
            lambda c: version_rows.list_versions(c, 1000, 100)
        )
        assert [v.origin for v in sorted(found, key=_number)][-4:] == [
            VersionOrigin.UNLEARNING,
            *(VersionOrigin.RECOVERY,) * 3,
        ]
    return kept


def _number(version: Version) -> int:
    return version.number


def _watch(running: InProcessFederation, kept: list[torch.Tensor]) -> None:
    """Keeps the flat model of every version that is committed from now on."""
    model = running.federation.model
    commit = model.commit

    async def watched(*args: object) -> Version:
        version = await commit(*args)  # type: ignore[arg-type]
        kept.append(model.flat.clone())
        return version

    model.commit = watched  # type: ignore[method-assign,assignment]


async def test_without_momentum_and_with_it_the_first_round_is_the_same(
    folders: tuple[Path, Path], tasks: Mapping[str, SmallDigits]
) -> None:
    """theta_0 and theta_1 are the same; theta_2 has half of theta_1 - theta_0 more, theta_3 another
    training altogether.
    """
    plain = await recovered(folders[0], tasks, replace(DEFAULTS, recovery_momentum=0.0))
    moved = await recovered(folders[1], tasks, DEFAULTS)
    assert len(plain) == len(moved) == 4
    assert torch.equal(plain[0], moved[0])
    assert torch.equal(plain[1], moved[1])
    manifest = Manifest.of(SmallDigits().build_model())
    start, one, two, with_momentum = (
        views(each, manifest) for each in (*moved[:2], plain[2], moved[2])
    )
    for name, view in with_momentum.items():
        expected = two[name].double() + BETA * (one[name].double() - start[name].double())
        assert torch.equal(view, expected.to(view.dtype)), name
    assert not torch.equal(plain[3], moved[3])


async def test_a_server_that_starts_again_reads_the_step_before_from_its_versions(
    folders: tuple[Path, Path], tasks: Mapping[str, SmallDigits], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step is that from a version's parent to it, and none is that to the starting point."""
    steps: list[tuple[str, str]] = []

    def noted(mean: torch.Tensor, now: torch.Tensor, before: torch.Tensor, *rest: object) -> None:
        steps.append((sha256_of(before), sha256_of(now)))
        add_momentum(mean, now, before, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr("server.recovery_momentum.add_momentum", noted)
    defaults = replace(DEFAULTS, seed=3)
    async with in_process(folders[0], SmallDigits(), tasks, defaults) as running:
        await running.train(1)
        await running.coordinator.accept(asked("c0", policy=POLICY))
        while True:
            if running.federation.model.current.origin is VersionOrigin.RECOVERY:
                break
            await asyncio.sleep(0.01)
    async with in_process(folders[0], SmallDigits(), tasks, defaults) as running:
        deletion = await running.forget("c0", policy=POLICY)
        assert deletion.job.phase is JobPhase.COMPLETED, deletion.job.failure
        versions = await running.federation.database.read(
            lambda c: version_rows.list_versions(c, 1000, 100)
        )
    by_number = {version.number: version for version in versions}
    recovered_ = sorted((v for v in versions if v.origin is VersionOrigin.RECOVERY), key=_number)
    assert len(recovered_) == 3
    assert set(steps) == {
        (by_number[version.parent].sha256, version.sha256) for version in recovered_[:-1]
    }
