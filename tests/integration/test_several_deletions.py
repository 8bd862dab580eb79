"""Several deletions at once in a running federation: which share a job, and in which order."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.in_process import InProcessFederation, asked, in_process
from support.small_digits import SmallDigits
from support.state import DORA

from server.federation import Defaults
from server.records import NOBODY, Deletion, JobPhase, RecoveryPolicy
from server.state import audit_rows, deletion_rows, round_rows, version_rows

SHORT = RecoveryPolicy(min_rounds=1, max_rounds=1)


@pytest.fixture(autouse=True)
def quick_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deadlines are looked at more often than once a second."""
    monkeypatch.setattr("server.clock.TICK", 0.05)


@pytest.fixture
def tasks() -> Mapping[str, SmallDigits]:
    torch.set_num_threads(1)
    return {f"c{index}": SmallDigits(str(index)) for index in range(6)}


async def found_by(federation: InProcessFederation, request_id: str) -> Deletion:
    return await federation.federation.database.read(
        lambda c: deletion_rows.get_deletion(c, request_id, NOBODY)
    )


async def completed(federation: InProcessFederation, request_id: str) -> Deletion:
    until = time.monotonic() + 60
    while (found := await found_by(federation, request_id)).job.phase is not JobPhase.COMPLETED:
        assert time.monotonic() < until, f"{request_id} is {found.job.phase}: {found.job.failure}"
        await asyncio.sleep(0.02)
    return found


async def test_equal_plans_are_served_by_one_negation_and_a_later_one_by_the_next_layer(
    tmp_path: Path, tasks: Mapping[str, SmallDigits]
) -> None:
    async with in_process(tmp_path, SmallDigits(), tasks, Defaults()) as federation:
        await federation.train(1)
        accept = federation.coordinator.accept
        three = [asked(f"c{n}", policy=SHORT) for n in range(3)]
        accepted = await asyncio.gather(*(accept(ask) for ask in three))
        late = replace(asked("c3", policy=SHORT), caller=DORA)
        own = await accept(late)

        served = [await completed(federation, ask.request_id) for ask in three]
        after = await federation.federation.database.read(
            lambda c: deletion_rows.get_deletion(c, late.request_id, DORA)
        )
        assert len({found.job.id for found in accepted}) == 3
        assert {found.job.id for found in served} == {accepted[0].job.id}
        attempt = served[0].job.attempts[-1]
        assert served[0].job.requests[:3] == ("forget-c0", "forget-c1", "forget-c2")
        for before, found in zip(accepted, served, strict=True):
            assert (found.client, found.accepted_at) == (before.client, before.accepted_at)

        if after.job.id != served[0].job.id:
            assert after.job.id == own.job.id
            until = time.monotonic() + 60
            while after.job.phase is not JobPhase.COMPLETED:
                assert time.monotonic() < until, after.job
                await asyncio.sleep(0.05)
                after = await federation.federation.database.read(
                    lambda c: deletion_rows.get_deletion(c, late.request_id, DORA)
                )
            assert not set(after.job.attempts[0].tensors) & set(attempt.tensors)

        rounds = await federation.federation.database.read(
            lambda c: round_rows.recovery_rounds(c, served[0].job.id, 1)
        )
        for found in rounds:
            assert not {"c0", "c1", "c2"} & set(found.cohort)
        entries = await federation.federation.database.read(
            lambda c: audit_rows.list_entries(c, 0, 999)
        )
        ends = [entry for entry in entries if entry.action == "job.completed"]
        assert len(ends) == 4
        assert len({entry.subject for entry in ends}) == 4


async def test_a_hold_keeps_the_old_versions_until_it_is_lifted(
    tmp_path: Path, tasks: Mapping[str, SmallDigits]
) -> None:
    async with in_process(tmp_path, SmallDigits(), tasks, Defaults()) as federation:
        await federation.train(2)
        held = replace(asked("c0", policy=SHORT), retain=True)
        await federation.coordinator.accept(held)
        job = (await completed(federation, "forget-c0")).job
        assert job.destroyed == ()
        versions = await federation.federation.database.read(
            lambda c: version_rows.list_versions(c, 0, 99)
        )
        kept = [found for found in versions if found.held_by == job.id]
        assert {found.number for found in kept} >= {2, job.base_version}
        model = federation.federation.model
        for found in kept:
            assert (await model.read_back(found.number))[0] == found

        lifted = await federation.coordinator.lift_hold("forget-c0", DORA)
        assert {each.sha256 for each in lifted.job.destroyed} == {each.sha256 for each in kept}
        again = await federation.coordinator.lift_hold("forget-c0", DORA)
        assert again == lifted
        await model.sweep()
        stay = await federation.federation.database.read(version_rows.kept_hashes)
        names = {path.stem for path in (tmp_path / "versions").iterdir()}
        assert names == stay
        assert versions[-1].sha256 in stay
        assert not stay & {found.sha256 for found in kept if found.sha256 != versions[-1].sha256}
        entries = await federation.federation.database.read(
            lambda c: audit_rows.list_entries(c, 0, 999)
        )
        actions = [entry.action for entry in entries]
        assert actions.count("DeletionService.LiftHold") == 1


async def test_a_late_deletion_is_told_and_completes_all_the_same(
    tmp_path: Path, tasks: Mapping[str, SmallDigits]
) -> None:
    """Nobody can serve it in time: it needs more clients than there are."""
    few = replace(SHORT, min_clients=7)
    async with in_process(tmp_path, SmallDigits(), tasks, Defaults()) as federation:
        await federation.train(1)
        late = replace(asked("c0", policy=few), not_after=time.time() + 0.3)
        await federation.coordinator.accept(late)
        until = time.monotonic() + 30
        while not (found := await found_by(federation, "forget-c0")).overdue:
            assert time.monotonic() < until
            await asyncio.sleep(0.02)
        activity = federation.federation.activity
        while "waiting for 2 of 7 clients" not in activity.waiting_for:
            assert time.monotonic() < until, activity
            await asyncio.sleep(0.02)
        assert (await found_by(federation, "forget-c0")).job.phase is JobPhase.RECOVERING
        entries = await federation.federation.database.read(
            lambda c: audit_rows.list_entries(c, 0, 999)
        )
        (noted,) = [entry for entry in entries if entry.action == "deletion.overdue"]
        assert noted.job_id == found.job.id
