"""A negation that leaves the model at chance is abandoned for the next eligible layer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from support.in_process import InProcessFederation, in_process
from support.small_digits import SmallDigits
from torch import nn

from server.federation import Defaults
from server.records import AttemptOutcome, Deletion, JobPhase, RecoveryPolicy, StopReason, Version
from server.state import version_rows

POLICY = RecoveryPolicy(max_rounds=8, chance_rounds=2, tolerance=0.1)


class Dying(nn.Module):
    """A network that the negation of `scale` kills for good.

    What `scale` multiplies is not negative and its weights are positive, so negated it gives zero
    behind the ReLU whatever comes in, and no gradient passes a ReLU that is zero.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 5, padding=2)
        self.scale = nn.Conv2d(8, 8, 1, groups=8, bias=False)
        self.last = nn.Linear(8 * 7 * 7, 10)
        nn.init.ones_(self.scale.weight)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        scaled = torch.relu(self.scale(torch.relu(self.conv1(images))))
        logits: torch.Tensor = self.last(nn.functional.max_pool2d(scaled, 4).flatten(1))
        return logits


class DyingDigits(SmallDigits):
    """Small digits for that network."""

    def build_model(self) -> nn.Module:
        return Dying()


@pytest.fixture
def tasks() -> Mapping[str, DyingDigits]:
    torch.set_num_threads(1)
    return {f"c{index}": DyingDigits(str(index)) for index in range(3)}


async def test_a_layer_that_kills_the_model_gives_way_to_the_next(
    tmp_path: Path, tasks: Mapping[str, DyingDigits]
) -> None:
    async with in_process(tmp_path, DyingDigits(), tasks, Defaults()) as federation:
        await federation.train(6)
        generation = federation.federation.model.current.generation
        deletion = await federation.forget("c0", layers="layers=scale", policy=POLICY)

        dead, alive = deletion.job.attempts
        assert dead.tensors == ("scale.weight",)
        assert (dead.outcome, dead.stop_reason) == (AttemptOutcome.ABANDONED, StopReason.CHANCE)
        assert len(dead.rounds) == POLICY.chance_rounds
        assert alive.tensors == ("conv1.weight",)
        assert alive.outcome is AttemptOutcome.SUCCEEDED
        assert deletion.job.phase is JobPhase.COMPLETED
        current = federation.federation.model.current
        assert current.generation == generation + 2
        assert current.negated_tensors == ("conv1.weight",), "the dead attempt left no trace"
        for attempt in deletion.job.attempts:
            start = await _version(federation, attempt.start_version)
            assert start.parent == deletion.job.base_version, "each starts from the pinned base"


async def test_with_no_layer_left_the_job_retrains_in_a_new_lineage(
    tmp_path: Path, tasks: Mapping[str, DyingDigits]
) -> None:
    """Here no negation of any layer is ever recovered from."""
    async with in_process(tmp_path, Hopeless(), tasks, Defaults()) as federation:
        await federation.train(2)
        deletion = await federation.forget("c0", policy=POLICY)

        methods = [(attempt.method, attempt.tensors) for attempt in deletion.job.attempts]
        assert methods == [("not", ("conv1.weight",)), ("not", ("scale.weight",)), ("retrain", ())]
        assert deletion.job.phase is JobPhase.COMPLETED
        current = federation.federation.model.current
        assert current.lineage == 2
        assert current.negated_tensors == ()
        start = await _version(federation, deletion.job.attempts[-1].start_version)
        assert start.sha256 == (await _version(federation, 1)).sha256
        await _assert_nothing_old_is_left(federation, deletion)


async def _version(federation: InProcessFederation, number: int) -> Version:
    found = await federation.federation.database.read(lambda c: version_rows.get_version(c, number))
    if found is None:
        raise AssertionError(f"version {number} has a row for ever")
    return found


async def _assert_nothing_old_is_left(federation: InProcessFederation, deletion: Deletion) -> None:
    current = federation.federation.model.current
    initial = await _version(federation, 1)
    kept = {path.stem for path in federation.store.path(current.sha256).parent.iterdir()}
    assert kept == {current.sha256, initial.sha256}
    assert len(deletion.job.destroyed) == current.number - 2


class Hopeless(DyingDigits):
    """Scores a model as no better than chance if a layer of it points away from where it began."""

    def __init__(self, client: str = "") -> None:
        super().__init__(client)
        with torch.random.fork_rng():
            torch.manual_seed(Defaults().seed)
            self._began = self.build_model().state_dict()

    def evaluate(self, model: nn.Module, *_: object) -> Mapping[str, float]:
        now = model.state_dict()
        away = any(
            float((now[name] * self._began[name]).sum()) < 0
            for name in ("conv1.weight", "scale.weight")
        )
        return {"accuracy": 0.1 if away else 0.9, "chance": 0.1}
