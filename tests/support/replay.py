"""What a federation must have computed, computed again in the test's own process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from support.federation import LocalFederation
from support.small_digits import CLIENT_SIZE, SmallDigits

from fednot.manifest import Manifest
from fednot.model_file import read
from fednot.tensors import difference, flatten_module, load_into, views
from fednot.training import TrainContext
from fednot.v1 import federation_pb2, operator_pb2
from server.aggregation import RunningAverage
from server.cohorts.cohort import WorkKind, WorkPlan
from server.records import RoundPhase, Version, VersionOrigin

CPU = torch.device("cpu")
MANIFEST = Manifest.of(SmallDigits().build_model())
PHASES = {
    federation_pb2.ROUND_PHASE_TRAINING: RoundPhase.TRAINING,
    federation_pb2.ROUND_PHASE_RECOVERY: RoundPhase.RECOVERY,
}


def stored(federation: LocalFederation, number: int) -> torch.Tensor:
    """The flat model of a version, from the server's store."""
    return model_of(federation.version_file(federation.versions()[number].sha256))


def model_of(path: Path) -> torch.Tensor:
    flat, _, _ = read(path)
    return flat


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Flat models that differ by no more than two processes' float32 rounding."""
    wanted = views(expected, MANIFEST)
    for name, tensor in views(found, MANIFEST).items():
        torch.testing.assert_close(
            tensor, wanted[name], rtol=1e-4, atol=1e-5, msg=lambda why, name=name: f"{name}: {why}"
        )


def assert_negated_exactly(base: torch.Tensor, start: torch.Tensor, negated: set[str]) -> None:
    """Bit for bit: the named tensors times -1, all others the same."""
    found = views(start, MANIFEST)
    for name, tensor in views(base, MANIFEST).items():
        expected = tensor * -1 if name in negated else tensor
        assert torch.equal(found[name].view(torch.int32), expected.view(torch.int32)), name


def mean_of_clients(
    given: torch.Tensor,
    row: operator_pb2.Round,
    clients: Iterable[int],
    others: Iterable[tuple[torch.Tensor, int]] = (),
) -> torch.Tensor:
    """FedAvg over what these clients train in that round, and other updates with their weights."""
    average = RunningAverage(MANIFEST)
    for index in clients:
        average.add(trained(given, row, index), CLIENT_SIZE)
    for update, num_examples in others:
        average.add(update, num_examples)
    return average.applied_to(given).tensor


def trained(given: torch.Tensor, row: operator_pb2.Round, index: int) -> torch.Tensor:
    """The update that the client of an index makes in a round."""
    torch.set_num_threads(1)
    task = SmallDigits(str(index))
    model = task.build_model()
    load_into(model, given, MANIFEST)
    phase = PHASES[row.phase]
    context = TrainContext(
        CPU, seed=seed_of(row.number, f"c{index}"), round=row.number, phase=phase
    )
    task.train(model, task.train_data(), context)
    return difference(flatten_module(model, MANIFEST), given, MANIFEST)


def seed_of(number: int, client: str) -> int:
    version = Version(1, "", 0, 0, 1, VersionOrigin.INITIAL, 0, 0.0, MANIFEST.nbytes)
    flat = torch.zeros(0, dtype=torch.uint8)
    return WorkPlan(
        WorkKind.TRAIN, number, RoundPhase.TRAINING, version, flat, (client,), 1.0
    ).seed_of(client)


def weighted_scores(flat: torch.Tensor, holdings: Mapping[int, int]) -> dict[str, float]:
    """The mean of clients' scores by their numbers of test digits, from a pooled evaluation."""
    totals: dict[str, float] = {}
    for index, size in holdings.items():
        task = SmallDigits(str(index), client_test=str(size))
        model = task.build_model()
        load_into(model, flat, MANIFEST)
        data = task.test_data()
        assert data is not None
        assert len(data) == size
        for key, value in task.evaluate(model, data, CPU).items():
            totals[key] = totals.get(key, 0.0) + value * size
    return {key: total / sum(holdings.values()) for key, total in totals.items()}
