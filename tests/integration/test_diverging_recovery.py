"""A recovery whose training diverges is given up for the next layer, not tried for ever."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.in_process import in_process
from support.small_digits import SmallDigits
from torch import nn

from client.device import Device
from client.trainer import Trainer
from fednot import SampleDataset, TrainContext, TrainResult
from fednot.manifest import Manifest
from fednot.tensors import flatten_module
from fednot.tombstones import Tombstones
from server.divergence import ROUNDS, WORDS, only_diverged
from server.federation import Defaults
from server.records import (
    AttemptOutcome,
    JobPhase,
    RecoveryPolicy,
    VerificationPolicy,
)

POLICY = RecoveryPolicy(max_rounds=1, full_budget=True, min_rounds=1, tolerance=0.9)
DEFAULTS = Defaults(
    verification=VerificationPolicy(enabled=False), destruction_wait=0.1, retry_wait=0.01
)


class Diverging(SmallDigits):
    """Small digits whose training makes NaN in the first recovery rounds."""

    failing = ROUNDS

    def train(self, model: nn.Module, data: SampleDataset, context: TrainContext) -> TrainResult:
        result = super().train(model, data, context)
        if context.phase == "recovery" and self.failing:
            self.failing -= 1
            with torch.no_grad():
                next(model.parameters())[0] = torch.nan
        return result


async def test_the_next_attempt_takes_the_next_layer(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    tasks = {f"c{index}": Diverging(str(index)) for index in range(3)}
    async with in_process(tmp_path, SmallDigits(), tasks, DEFAULTS) as running:
        await running.train(1)
        deletion = await running.forget("c0", policy=POLICY)
        assert deletion.job.phase is JobPhase.COMPLETED, deletion.job.failure
        first, second = deletion.job.attempts
        assert first.outcome is AttemptOutcome.ABANDONED
        assert f"after 0 rounds: {ROUNDS} rounds in a row diverged" in first.explanation
        assert (first.tensors, second.tensors) == (("conv1.weight",), ("conv2.weight",))
        assert second.outcome is AttemptOutcome.SUCCEEDED


def test_a_client_tells_of_it_in_words_that_the_server_knows(tmp_path: Path) -> None:
    task = Diverging("0")
    model = task.build_model()
    manifest = Manifest.of(model)
    trainer = Trainer(
        task,
        manifest,
        task.train_data(),
        None,
        Device(torch.device("cpu"), lambda _: None),
        Tombstones(tmp_path),
    )
    context = TrainContext(torch.device("cpu"), seed=1, round=1, phase="recovery")
    with pytest.raises(ValueError, match=WORDS):
        trainer.train(flatten_module(model, manifest), context)


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        ({}, False),
        ({"a": "NOT_FINITE: the update of w holds NaN or Inf"}, True),
        ({"a": "NOT_FINITE: the update of w holds NaN or Inf", "b": "lost"}, False),
    ],
)
def test_a_client_that_is_away_is_no_divergence(missing: dict[str, str], expected: bool) -> None:
    assert only_diverged(missing) is expected
