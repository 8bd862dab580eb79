"""Rounds whose mean is no number, and files that cannot be destroyed at once."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from support.in_process import in_process
from support.small_digits import SmallDigits
from torch import nn

from fednot import SampleDataset, TrainContext, TrainResult
from server.federation import Defaults
from server.records import JobPhase, RecoveryPolicy, RoundOutcome, RunState
from server.state import round_rows

ONE_ROUND = RecoveryPolicy(max_rounds=1, tolerance=0.9)


class Overflowing(SmallDigits):
    """Each update is finite, and adding the mean of the second to the first overflows float32."""

    def train(self, model: nn.Module, data: SampleDataset, context: TrainContext) -> TrainResult:
        with torch.no_grad():
            model.get_parameter("fc2.bias").mul_(0).add_(3e38 if context.round == 1 else -3e38)
        return TrainResult(len(data))


async def test_a_mean_that_overflows_makes_no_version(tmp_path: Path) -> None:
    """3e38 in round 1; every later update is -6e38, beyond float32, hence -Inf: refused."""
    tasks = {f"c{index}": Overflowing(str(index)) for index in range(2)}
    defaults = Defaults(round_retries=1, retry_wait=0.01, accumulator=torch.float64)
    async with in_process(
        tmp_path, SmallDigits(server_test="no", trace="no"), tasks, defaults
    ) as federation:
        run = await federation.train(3)
        assert run.state is RunState.FAILED
        assert run.rounds_done == 1
        assert "2 rounds in a row failed" in run.failure
        assert "NOT_FINITE" in run.failure
        assert federation.federation.model.current.number == 2
        rounds = await federation.federation.database.read(
            lambda c: round_rows.list_rounds(c, 0, 10)
        )
        outcomes = [found.outcome for found in reversed(rounds)]
        assert outcomes == [RoundOutcome.COMPLETED, RoundOutcome.FAILED, RoundOutcome.FAILED]


class Growing(SmallDigits):
    """Each update adds 2e38: finite by itself, but twice is beyond float32."""

    def train(self, model: nn.Module, data: SampleDataset, context: TrainContext) -> TrainResult:
        with torch.no_grad():
            model.get_parameter("fc2.bias").add_(2e38)
        return TrainResult(len(data))


async def test_finite_updates_cannot_make_an_infinite_model(tmp_path: Path) -> None:
    """2e38 + 2e38 = 4e38 is beyond float32's 3.4e38: the client's own model overflows first."""
    tasks = {f"c{index}": Growing(str(index)) for index in range(2)}
    defaults = Defaults(round_retries=0, accumulator=torch.float64)
    async with in_process(
        tmp_path, SmallDigits(server_test="no", trace="no"), tasks, defaults
    ) as federation:
        run = await federation.train(3)
        assert (run.state, run.rounds_done) == (RunState.FAILED, 1)
        flat = federation.federation.model.flat
        assert bool(torch.isfinite(flat.view(torch.float32)).all())


async def test_a_deletion_completes_only_once_the_files_are_gone(tmp_path: Path) -> None:
    tasks: Mapping[str, SmallDigits] = {f"c{i}": SmallDigits(str(i)) for i in range(3)}
    async with in_process(tmp_path, SmallDigits(trace="no"), tasks, Defaults()) as federation:
        await federation.train(2)
        real = federation.store.delete_all_but
        refused = []

        def busy_once(kept: Collection[str]) -> int:
            if federation.federation.model.current.generation and not refused:
                refused.append(len(kept))
                raise OSError("device or resource busy")
            return real(kept)

        federation.store.delete_all_but = busy_once  # type: ignore[method-assign]
        async with asyncio.timeout(60):
            deletion = await federation.forget("c0", policy=ONE_ROUND)
        assert refused, "the store was asked to destroy, and could not"
        assert deletion.job.phase is JobPhase.COMPLETED
        assert deletion.job.destroyed
        for version in deletion.job.destroyed:
            assert not federation.store.path(version.sha256).exists()
