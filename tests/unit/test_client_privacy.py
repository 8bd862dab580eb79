"""The client's history of spent privacy, its limit, and what excludes differential privacy."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fednot
from client import exclusions
from client.device import Device
from client.privacy import HISTORY_FILE, History, HistoryError, Privacy, Spent
from client.profiling import LookedAt
from client.settings import PREFIX, PROGRAM, ClientSettings
from client.state_directory import StateDirectory
from client.trainer import Trainer
from fednot.data import InMemoryDataset
from fednot.errors import FednotError, Reason
from fednot.manifest import Manifest
from fednot.privacy.costs import Noise, Steps
from fednot.settings import SettingsError, load
from fednot.tensors import flatten_module
from fednot.tombstones import Tombstones
from fednot.training import TrainContext, TrainResult
from fednot.v1 import federation_pb2 as pb

ROOT = Path(__file__).parents[2]
NOISE = Noise(1.0, 1.0)
WANTED_GROUPS = (pb.SAMPLE_GROUP_RETAINED, pb.SAMPLE_GROUP_TEST)


class Blobs(fednot.Task):
    batch_size = 4

    def build_model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


class OwnLoop(Blobs):
    def train(self, model: nn.Module, data: Any, context: TrainContext) -> TrainResult:
        return TrainResult(len(data))


class Normed(Blobs):
    def build_model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def blobs(size: int) -> InMemoryDataset:
    inputs = torch.randn(size, 3, generator=torch.Generator().manual_seed(1))
    return InMemoryDataset(inputs, (inputs[:, 0] > 0).long(), [str(i) for i in range(size)])


def context(**config: float) -> TrainContext:
    return TrainContext(torch.device("cpu"), seed=5, round=1, config=config)


def trainer(folder: Path, privacy: Privacy | None, task: fednot.Task | None = None) -> Trainer:
    task = task or Blobs()
    return Trainer(
        *(task, Manifest.of(task.build_model()), blobs(12), blobs(6)),
        Device(torch.device("cpu"), lambda _: None),
        Tombstones(folder),
        privacy=privacy,
    )


def given(by: Trainer) -> torch.Tensor:
    return flatten_module(by.task.build_model(), by.manifest)


def settings(*flags: str) -> ClientSettings:
    arguments = ("--identity", "i", "--task", "t.py:T", *flags)
    return load(ClientSettings, program=PROGRAM, prefix=PREFIX, arguments=arguments, environment={})


def test_what_a_round_spends_is_on_the_disk_with_its_update(tmp_path: Path) -> None:
    """12 samples in batches of 4 are 3 steps of rate 1/3; the next round counts with them."""
    path, heard = tmp_path / HISTORY_FILE, list[Spent]()
    private = trainer(tmp_path, Privacy(path, NOISE, on_spent=heard.append))
    update = private.train(given(private), context())
    assert not update.metrics
    assert History.read(path).taken == (Steps(NOISE, 1 / 3, 3),)
    private.train(given(private), context())
    assert History.read(path).taken == (Steps(NOISE, 1 / 3, 6),)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.steps for each in heard] == [0, 3, 6]
    assert heard[1].epsilon < heard[2].epsilon


def test_a_history_goes_on_after_a_restart_with_other_noise(tmp_path: Path) -> None:
    path = tmp_path / HISTORY_FILE
    first = trainer(tmp_path, Privacy(path, NOISE))
    first.train(given(first), context())
    again = Privacy(path, Noise(2.0, 0.5))
    assert again.spent is not None
    assert first.privacy is not None
    assert again.spent == first.privacy.spent
    second = trainer(tmp_path, again)
    second.train(given(second), context())
    assert [each.noise for each in again.history.taken] == [NOISE, Noise(2.0, 0.5)]
    alone = History((Steps(Noise(2.0, 0.5), 1 / 3, 3),)).epsilon(1e-5)
    assert again.spent.epsilon > max(alone, History.read(path).epsilon(1e-4))


def test_nothing_leaves_if_what_it_spends_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private = trainer(tmp_path, Privacy(tmp_path / HISTORY_FILE, NOISE))

    def full(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("client.privacy.write_whole", full)
    with pytest.raises(OSError, match="No space"):
        private.train(given(private), context())


def test_cancelled_training_spends_nothing(tmp_path: Path) -> None:
    private = trainer(tmp_path, Privacy(tmp_path / HISTORY_FILE, NOISE))
    over = context()
    over.cancelled.set()
    with pytest.raises(fednot.WorkCancelledError):
        private.train(given(private), over)
    assert not History.read(tmp_path / HISTORY_FILE).taken


def test_a_round_that_would_pass_the_limit_is_refused_and_a_smaller_one_is_not(
    tmp_path: Path,
) -> None:
    once = History((Steps(NOISE, 1 / 3, 3),)).epsilon(1e-5)
    path = tmp_path / HISTORY_FILE
    private = trainer(tmp_path, Privacy(path, NOISE, limit=once * 1.01))
    private.afford(context())
    private.train(given(private), context())
    for refused in (private.afford, lambda at: private.train(given(private), at)):
        with pytest.raises(FednotError, match="--dp-epsilon is") as caught:
            refused(context())
        assert caught.value.reason is Reason.PRIVACY_SPENT
    assert private.privacy is not None
    assert private.privacy.spent is not None
    assert private.privacy.spent.exhausted
    assert str(private.privacy.spent).endswith("so it is refused")
    assert private.privacy.spent.epsilon == pytest.approx(once)
    assert private.evaluate(given(private)).num_examples == 6
    assert History.read(path).taken == (Steps(NOISE, 1 / 3, 3),)


def test_training_without_noise_is_noted_for_ever(tmp_path: Path) -> None:
    path = tmp_path / HISTORY_FILE
    plain = trainer(tmp_path, Privacy(path))
    update = plain.train(given(plain), context())
    assert "loss" in update.metrics
    assert History.read(path).unprotected
    assert math.isinf(History.read(path).epsilon(1e-5))
    assert plain.privacy is not None
    assert plain.privacy.spent is None


def test_a_state_directory_that_lost_its_history_counts_as_unprotected(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    private = settings("--dp-noise", "1")
    state = StateDirectory.open(tmp_path / "s", "c1")
    assert not Privacy.of(private, state, lambda _: None).history.unprotected
    assert "without --dp-epsilon the server decides" in caplog.text
    state.remember("c1")
    assert not Privacy.of(private, state, lambda _: None).history.unprotected
    (state.path / HISTORY_FILE).unlink()
    assert Privacy.of(private, state, lambda _: None).history.unprotected
    state.close()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        '{"taken": [], "unprotected"',
        '{"taken": [{"noise": 0, "clip": 1, "rate": 0.1, "steps": 1}], "unprotected": false}',
        '{"taken": [{"noise": 1, "clip": 1, "rate": 1.5, "steps": 1}], "unprotected": false}',
        '{"taken": [{"noise": 1, "clip": 1, "rate": 0.5, "steps": 1e999}], "unprotected": false}',
    ],
)
def test_a_history_that_cannot_be_read_is_not_begun_anew(tmp_path: Path, text: str) -> None:
    (tmp_path / HISTORY_FILE).write_text(text)
    with pytest.raises(HistoryError, match="restore it from a backup"):
        Privacy(tmp_path / HISTORY_FILE, NOISE)
    assert (tmp_path / HISTORY_FILE).read_text() == text


def test_a_history_reads_as_it_was_written(tmp_path: Path) -> None:
    history = History((Steps(NOISE, 0.1, 5), Steps(Noise(0.7, 2.0), 1 / 3, 1)), unprotected=True)
    history.write(tmp_path / HISTORY_FILE)
    assert History.read(tmp_path / HISTORY_FILE) == history
    assert set(json.loads((tmp_path / HISTORY_FILE).read_text())) == {"taken", "unprotected"}


def test_losses_of_samples_that_are_trained_on_are_not_shown(tmp_path: Path) -> None:
    wanted = LookedAt("j", False, (), frozenset(), WANTED_GROUPS, 0, 1)
    plain = trainer(tmp_path, Privacy(tmp_path / "a.json"))
    assert set(plain.profile(given(plain), wanted)) == set(WANTED_GROUPS)
    private = trainer(tmp_path, Privacy(tmp_path / "b.json", NOISE))
    assert set(private.profile(given(private), wanted)) == {pb.SAMPLE_GROUP_TEST}


def tried(folder: Path, task: fednot.Task, *, noise: bool = True) -> exclusions.Tried:
    privacy = Privacy(folder / HISTORY_FILE, NOISE if noise else None)
    return exclusions.Tried(task, task.build_model(), blobs(4), privacy)


def test_what_excludes_differential_privacy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exclusions.check(tried(tmp_path, Blobs()))
    with pytest.raises(exclusions.ExcludedError, match=r"train\(\) of its own \(OwnLoop\)"):
        exclusions.check(tried(tmp_path, OwnLoop()))
    with pytest.raises(exclusions.ExcludedError, match=r"BatchNorm cannot support.*GroupNorm"):
        exclusions.check(tried(tmp_path, Normed()))
    with monkeypatch.context() as patched:
        patched.setenv("WORLD_SIZE", "2")
        with pytest.raises(exclusions.ExcludedError, match=r"torchrun \(2 ranks\)"):
            exclusions.check(tried(tmp_path, Blobs()))
    with monkeypatch.context() as patched:
        patched.setattr(exclusions, "is_installed", lambda: False)
        with pytest.raises(exclusions.ExcludedError, match=r"pip install 'fednot\[privacy\]'"):
            exclusions.check(tried(tmp_path, Blobs()))
    History(unprotected=True).write(tmp_path / HISTORY_FILE)
    with pytest.raises(exclusions.ExcludedError, match="without noise"):
        exclusions.check(tried(tmp_path, Blobs()))
    exclusions.check(tried(tmp_path, Normed(), noise=False))


def test_the_document_has_the_table() -> None:
    text = (ROOT / "docs" / "differential-privacy.md").read_text()
    section = text.partition("## What excludes it")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")][1:]
    assert rows == [f"| {what} | {why} |" for what, why in exclusions.EXCLUSIONS.items()]


def test_a_limit_without_noise_is_refused() -> None:
    assert settings("--dp-noise", "1", "--dp-epsilon", "8").dp_epsilon == 8
    with pytest.raises(SettingsError, match="--dp-noise, too"):
        settings("--dp-epsilon", "8")
    with pytest.raises(SettingsError, match="protects nobody"):
        settings("--dp-noise", "0.001")
    for wrong in ("inf", "nan", "-1"):
        with pytest.raises(SettingsError):
            settings("--dp-noise", wrong)
