"""A forgotten client that is readmitted trains again, and may be forgotten again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from support.in_process import InProcessFederation, asked, in_process
from support.small_digits import SmallDigits
from support.state import DORA, EMIL, OLGA

from fednot.errors import FednotError, Reason
from server.coordinator import released
from server.federation import Defaults
from server.records import JobPhase, RecoveryPolicy
from server.state import deletion_rows, round_rows

UNTRACED = SmallDigits(trace="no")
SHORT = RecoveryPolicy(max_rounds=2)


@pytest.fixture
def tasks() -> Mapping[str, SmallDigits]:
    torch.set_num_threads(1)
    return {f"c{index}": SmallDigits(str(index)) for index in range(3)}


async def last_cohort(federation: InProcessFederation) -> tuple[str, ...]:
    (found,) = await federation.federation.database.read(lambda c: round_rows.list_rounds(c, 0, 1))
    return found.cohort


async def test_readmitted_it_trains_and_can_be_forgotten_again(
    tmp_path: Path, tasks: Mapping[str, SmallDigits]
) -> None:
    async with in_process(tmp_path, UNTRACED, tasks, Defaults()) as federation:
        await federation.train(3)
        first = await federation.forget("c0", policy=SHORT, caller=DORA)
        await federation.train(1)
        assert await last_cohort(federation) == ("c1", "c2")

        assert await federation.coordinator.readmit("c0", OLGA) is None
        await federation.train(1)
        assert await last_cohort(federation) == ("c0", "c1", "c2")

        second = await federation.forget("c0", policy=SHORT, caller=EMIL)
        assert (first.job.phase, second.job.phase) == (JobPhase.COMPLETED, JobPhase.COMPLETED)
        assert first.job.id != second.job.id
        assert not set(first.job.attempts[-1].tensors) & set(second.job.attempts[-1].tensors)
        assert federation.federation.fences.bar_of("c0") is not None
        assert (await federation.federation.database.read(released)).number > 0


async def test_the_same_request_is_the_old_deletion_even_after_readmission(
    tmp_path: Path, tasks: Mapping[str, SmallDigits]
) -> None:
    """A request id names one deletion for ever: what was forgotten once does not bar again."""
    async with in_process(tmp_path, UNTRACED, tasks, Defaults()) as federation:
        await federation.train(2)
        done = await federation.forget("c0", policy=SHORT, caller=DORA)
        await federation.coordinator.readmit("c0", OLGA)
        again = await federation.coordinator.accept(asked("c0", policy=SHORT, caller=DORA))
        assert again == done
        assert federation.federation.fences.bar_of("c0") is None


async def test_what_is_being_forgotten_is_cancelled_rather_than_readmitted(
    tmp_path: Path, tasks: Mapping[str, SmallDigits]
) -> None:
    defaults = Defaults(require_approval=True)
    async with in_process(tmp_path, UNTRACED, tasks, defaults) as federation:
        await federation.coordinator.accept(asked("c0", caller=DORA))
        with pytest.raises(FednotError) as refusal:
            await federation.coordinator.readmit("c0", OLGA)
        assert refusal.value.reason is Reason.DELETION_IN_PROGRESS
        assert federation.federation.fences.bar_of("c0") is not None


async def test_a_readmission_that_waits_lifts_nothing_across_a_restart(
    tmp_path: Path, tasks: Mapping[str, SmallDigits]
) -> None:
    twice = Defaults(require_approval=True)
    async with in_process(tmp_path, UNTRACED, tasks, Defaults()) as federation:
        await federation.train(2)
        await federation.forget("c0", policy=SHORT, caller=DORA)
    async with in_process(tmp_path, UNTRACED, tasks, twice) as federation:
        wanted = await federation.coordinator.readmit("c0", OLGA)
    async with in_process(tmp_path, UNTRACED, tasks, twice) as federation:
        assert federation.federation.fences.bar_of("c0") is not None
        await federation.train(1)
        assert await last_cohort(federation) == ("c1", "c2")
        assert wanted is not None
        await federation.coordinator.approve(wanted.id, EMIL)
        assert federation.federation.fences.bar_of("c0") is None
        await federation.train(1)
        assert await last_cohort(federation) == ("c0", "c1", "c2")
        found = await federation.federation.database.read(
            lambda c: deletion_rows.get_deletion(c, "forget-c0", DORA)
        )
        assert found.job.phase is JobPhase.COMPLETED
