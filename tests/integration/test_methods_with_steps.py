"""Methods that take steps of their own, through production's coordinator in one process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from support.in_process import InProcessFederation, in_process
from support.small_digits import SmallDigits

from fednot.errors import FednotError, Reason
from server.federation import Defaults
from server.records import (
    AttemptOutcome,
    Deletion,
    JobPhase,
    RecoveryPolicy,
    VerificationPolicy,
    VersionOrigin,
)
from server.state import kept_update_rows, version_rows

POLICY = RecoveryPolicy(max_rounds=2, full_budget=True, min_rounds=1, tolerance=0.9)
DEFAULTS = Defaults(
    verification=VerificationPolicy(enabled=False), destruction_wait=0.1, accumulator=torch.float64
)
STEPS = {"pgd": 1, "fcu": 1, "mode": 10, "fed-eraser": 2, "fukd": 2}


@pytest.fixture
def tasks() -> Mapping[str, SmallDigits]:
    torch.set_num_threads(1)
    return {f"c{index}": SmallDigits(str(index)) for index in range(3)}


async def forgotten_by(federation: InProcessFederation, method: str) -> Deletion:
    deletion = await federation.forget("c0", method=method, policy=POLICY)
    assert deletion.job.phase is JobPhase.COMPLETED, deletion.job.failure
    return deletion


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(name, marks=pytest.mark.long) if name in ("pgd", "fcu") else name
        for name in STEPS
    ],
)
async def test_each_method_takes_its_steps_and_recovers(
    tmp_path: Path, tasks: Mapping[str, SmallDigits], method: str
) -> None:
    async with in_process(
        tmp_path, SmallDigits(proxy="yes"), tasks, DEFAULTS, keep_updates=1
    ) as running:
        await running.train(2)
        (attempt,) = (await forgotten_by(running, method)).job.attempts
        assert (attempt.method, attempt.outcome) == (method, AttemptOutcome.SUCCEEDED)
        assert len(attempt.steps) == STEPS[method]
        assert len(attempt.rounds) == POLICY.max_rounds
        for number in attempt.steps:
            version = await running.federation.database.read(
                lambda c, number=number: version_rows.get_version(c, number)
            )
            assert version is not None
            assert version.origin is VersionOrigin.UNLEARNING
            assert "accuracy" in version.metrics
        first = running.federation.model.current
        assert first.parent == attempt.rounds[-2].version


async def test_fed_eraser_needs_no_target_and_starts_a_lineage_whose_history_goes_on(
    tmp_path: Path, tasks: Mapping[str, SmallDigits]
) -> None:
    """After it, the kept updates are those of its own steps and rounds: a second deletion works."""
    async with in_process(tmp_path, SmallDigits(), tasks, DEFAULTS, keep_updates=1) as running:
        await running.train(2)
        await forgotten_by(running, "fed-eraser")
        current = running.federation.model.current
        line = await running.federation.database.read(
            lambda c: kept_update_rows.of_line(c, current.number)
        )
        assert line is not None
        assert [{update.client for update in updates} for updates in line] == [{"c1", "c2"}] * 4
        assert current.lineage == 2
        names = {path.stem for path in (tmp_path / "updates").glob("*.safetensors")}
        assert names == {update.sha256 for updates in line for update in updates}
        gone = await running.federation.database.read(
            lambda c: kept_update_rows.stored(c, "job-none")
        )
        assert gone.count == 0


async def test_after_another_method_nothing_of_the_history_is_left(
    tmp_path: Path, tasks: Mapping[str, SmallDigits]
) -> None:
    async with in_process(tmp_path, SmallDigits(), tasks, DEFAULTS, keep_updates=1) as running:
        await running.train(2)
        deletion = await forgotten_by(running, "not")
        database = running.federation.database
        destroyed = await database.read(lambda c: kept_update_rows.stored(c, deletion.job.id))
        assert destroyed.count == 2 * 3, "two rounds of three clients"
        with pytest.raises(FednotError) as refused:
            await running.forget("c1", method="fed-eraser", policy=POLICY)
        assert refused.value.reason is Reason.METHOD_NEEDS


@pytest.mark.parametrize(
    ("method", "says"), [("fed-eraser", "--keep-updates 1"), ("fukd", "proxy_data()")]
)
async def test_a_method_whose_needs_are_not_met_is_refused_and_nobody_is_barred(
    tmp_path: Path, tasks: Mapping[str, SmallDigits], method: str, says: str
) -> None:
    async with in_process(tmp_path, SmallDigits(), tasks, DEFAULTS) as running:
        await running.train(1)
        with pytest.raises(FednotError, match=says) as refused:
            await running.forget("c0", method=method, policy=POLICY)
        assert refused.value.reason is Reason.METHOD_NEEDS
        assert running.federation.eligible() == ("c0", "c1", "c2")
