"""The operator's sealed probes: what they give, and how a bad one is told."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fednot import SampleDataset, Task
from fednot.demo.backdoor import Backdoor
from server.cohorts.cohort import SampleGroup
from server.records import Scope, ScopeKind
from server.verification.probe import (
    Probe,
    ProbeError,
    profiles,
    read_probes,
    trigger_figures,
)
from server.verification.server_data import ServerData

CLIENT = Scope(ScopeKind.CLIENT, "c0")
IMAGES = np.zeros((4, 2), dtype=np.float32)
LABELS = np.array([0, 1, 1, 0])


class Largest(Task):
    """Answers the place of the largest input."""

    def build_model(self) -> nn.Module:
        return nn.Identity()

    def train_data(self) -> SampleDataset:
        raise AssertionError("no probe trains")


def written(folder: Path, **arrays: Any) -> Path:
    np.savez(folder / "client-c0.npz", **arrays)
    return folder / "client-c0.npz"


def read(folder: Path) -> Probe:
    (found,) = read_probes(folder, [CLIENT, CLIENT, Scope(ScopeKind.CLASS, label=3)])
    return found


def test_samples_of_a_probe_are_profiled(tmp_path: Path) -> None:
    inputs = np.array([[9.0, 0.0], [9.0, 0.0], [0.0, 9.0], [9.0, 0.0]])
    path = written(tmp_path, forgotten_x=inputs, forgotten_y=LABELS)
    probe = read(tmp_path)
    assert probe.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    found = profiles(probe, Largest(), nn.Identity(), most=10)
    assert found.keys() == {SampleGroup.FORGOTTEN}
    assert (found[SampleGroup.FORGOTTEN].size, found[SampleGroup.FORGOTTEN].num_correct) == (4, 3)
    assert profiles(probe, Largest(), nn.Identity(), most=3)[SampleGroup.FORGOTTEN].size == 3


def test_the_effect_of_a_trigger_is_what_it_adds(tmp_path: Path) -> None:
    """Three of four are answered 1 with the trigger and one without: success 0.75, effect 0.5."""
    marked = np.array([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    clean = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    written(tmp_path, trigger_x=marked, clean_x=clean, trigger_target=np.int64(1))
    trigger = read(tmp_path).trigger
    assert trigger is not None
    found = trigger_figures(trigger, nn.Identity(), most=10)
    assert found == {"trigger_success": 0.75, "trigger_effect": 0.5}


def test_bytes_are_pictures_as_a_dataset_in_memory_gives_them(tmp_path: Path) -> None:
    bytes_ = np.full((2, 2), 255, dtype=np.uint8)
    written(tmp_path, trigger_x=bytes_, clean_x=bytes_, trigger_target=np.int64(1))
    trigger = read(tmp_path).trigger
    assert trigger is not None
    assert torch.equal(trigger.with_it, torch.ones(2, 2))


def test_the_probe_of_the_demonstration_is_one(tmp_path: Path) -> None:
    images, labels = torch.zeros(6, 1, 28, 28), torch.tensor([0, 1, 2, 3, 4, 0])
    Backdoor(23, 23, target=0).write_probe(tmp_path / "client-c0.npz", images, labels)
    trigger = read(tmp_path).trigger
    assert trigger is not None
    assert trigger.target == 0
    assert trigger.with_it.shape == (4, 1, 28, 28)


def test_each_scope_has_a_name_of_its_own(tmp_path: Path) -> None:
    scopes = [
        CLIENT,
        Scope(ScopeKind.SAMPLES, "c0", tombstone="t"),
        Scope(ScopeKind.CLASS, label=7),
    ]
    for name in ("client-c0", "samples-c0", "class-7", "client-c1"):
        np.savez(tmp_path / name, forgotten_x=IMAGES, forgotten_y=LABELS)
    found = [probe.name for probe in read_probes(tmp_path, scopes)]
    assert found == ["client-c0.npz", "samples-c0.npz", "class-7.npz"]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"forgotten_x": IMAGES}, "forgotten_y is missing"),
        ({"forgotten_x": IMAGES, "forgotten_y": LABELS[:2]}, "must be [N, ...] and [N]"),
        ({"forgotten_x": IMAGES[:0], "forgotten_y": LABELS[:0]}, "must be [N, ...] and [N]"),
        ({"forgotten_x": IMAGES, "forgotten_y": LABELS * 0.5}, "must hold whole numbers"),
        ({"forgotten_x": IMAGES * np.nan, "forgotten_y": LABELS}, "must hold finite numbers"),
        ({"trigger_x": IMAGES, "clean_x": IMAGES}, "trigger_target is missing"),
        (
            {"trigger_x": IMAGES, "clean_x": IMAGES[:2], "trigger_target": np.int64(1)},
            "must both be [N, ...] and equal",
        ),
        (
            {"trigger_x": IMAGES, "clean_x": IMAGES, "trigger_target": LABELS},
            "must be one whole number",
        ),
        ({"images": IMAGES}, "has images; known are"),
        ({}, "neither samples nor a trigger"),
        ({"forgotten_x": np.array([{}, {}]), "forgotten_y": LABELS[:2]}, "cannot be read"),
    ],
)
def test_a_bad_probe_says_what_is_wrong(
    tmp_path: Path, arrays: dict[str, Any], message: str
) -> None:
    written(tmp_path, **arrays)
    with pytest.raises(ProbeError) as caught:
        read(tmp_path)
    assert message in str(caught.value)
    assert "client-c0.npz" in str(caught.value)
    looking = ServerData(Largest(), None, tmp_path).opened([CLIENT])
    assert looking.probes == ()
    assert message in looking.fault


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 torn"])
def test_a_file_that_is_no_archive_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "client-c0.npz").write_bytes(content)
    with pytest.raises(ProbeError, match="cannot be read"):
        read(tmp_path)


def test_a_probe_needs_the_task(tmp_path: Path) -> None:
    written(tmp_path, forgotten_x=IMAGES, forgotten_y=LABELS)
    assert "needs the Task" in ServerData(None, None, tmp_path).opened([CLIENT]).fault
    assert ServerData(None, None, tmp_path).opened([Scope(ScopeKind.CLIENT, "c1")]).fault == ""


def test_images_that_the_model_cannot_take_are_told(tmp_path: Path) -> None:
    written(tmp_path, trigger_x=IMAGES, clean_x=IMAGES, trigger_target=np.int64(1))
    trigger = read(tmp_path).trigger
    assert trigger is not None
    with pytest.raises(ProbeError, match="cannot take the images"):
        trigger_figures(trigger, nn.Linear(5, 2), most=10)
