"""Which samples each group of a loss profile has, and when a client may not train at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import nn

import fednot
from client.device import Device
from client.own_data import OwnData
from client.profiling import LookedAt, report_of
from client.trainer import Trainer
from fednot.data import InMemoryDataset
from fednot.manifest import Manifest
from fednot.task import SampleDataset
from fednot.tensors import flatten_module
from fednot.tombstones import Tombstones
from fednot.training import TrainContext
from fednot.v1 import federation_pb2 as pb

FORGOTTEN, UNSEEN, RETAINED, TEST = 1, 2, 3, 4


def digits(size: int, prefix: str) -> InMemoryDataset:
    inputs = torch.arange(float(size)).view(size, 1)
    return InMemoryDataset(inputs, torch.arange(size) % 4, [f"{prefix}{i}" for i in range(size)])


class OwnTask(fednot.Task):
    """Its unseen samples are u0 to u7, for four classes."""

    def build_model(self) -> nn.Module:
        return nn.Linear(1, 4)

    def unseen_data(self, forgotten: SampleDataset) -> SampleDataset | None:
        return digits(8, "u")


class HoardingTask(OwnTask):
    unsupported_scopes: Mapping[str, str] = {
        "samples": "it reads its own files",
        "class": "it has no classes",
    }


def wanted(max_examples: int = 0, seed: int = 1, **forgotten: object) -> LookedAt:
    return LookedAt.of(
        pb.ProfileWork(
            job_id="j1",
            forgotten=pb.ForgottenData(**forgotten),  # type: ignore[arg-type]
            groups=[pb.SAMPLE_GROUP_FORGOTTEN, pb.SAMPLE_GROUP_UNSEEN, 3, 4],
            max_examples=max_examples,
            seed=seed,
        )
    )


def own(folder: Path, *, evaluate_forgotten: bool = True) -> OwnData:
    return OwnData(
        *(OwnTask(), digits(20, "a"), digits(12, "t"), Tombstones(folder)),
        evaluate_forgotten=evaluate_forgotten,
    )


def ids(groups: Mapping[int, SampleDataset]) -> dict[int, set[str]]:
    return {
        group: {data.sample_id(index) for index in range(len(data))}
        for group, data in groups.items()
    }


def these(prefix: str, *numbers: int) -> set[str]:
    return {f"{prefix}{number}" for number in numbers}


def test_samples_and_a_class_of_one_job_are_looked_at_together(tmp_path: Path) -> None:
    stones = Tombstones(tmp_path)
    stones.bar_samples(["a1", "t1", "u1"], name="s", job_id="j1")
    stones.bar_class(0, name="c", job_id="j1")
    stones.bar_class(2, name="older", job_id="j0")
    found = ids(own(tmp_path).groups(wanted(tombstones=["s"], class_labels=[0])))
    assert found == {
        FORGOTTEN: these("a", 1, 0, 4, 8, 12, 16),
        UNSEEN: these("u", 0, 3, 4, 5, 7),
        RETAINED: these("a", 3, 5, 7, 9, 11, 13, 15, 17, 19),
        TEST: these("t", 3, 5, 7, 9, 11),
    }


def test_a_class_by_its_tombstone_is_compared_with_its_test_samples(tmp_path: Path) -> None:
    Tombstones(tmp_path).bar_class(3, name="c", job_id="j1")
    found = ids(own(tmp_path).groups(wanted(tombstones=["c"])))
    assert found[FORGOTTEN] == these("a", 3, 7, 11, 15, 19)
    assert found[UNSEEN] == these("t", 3, 7, 11)


def test_everything_leaves_nothing_retained(tmp_path: Path) -> None:
    found = ids(own(tmp_path).groups(wanted(everything=True)))
    assert found[FORGOTTEN] == {f"a{index}" for index in range(20)}
    assert found[UNSEEN] == {f"u{index}" for index in range(8)}
    assert RETAINED not in found


def test_a_sample_that_a_closed_tombstone_bars_is_in_no_group(tmp_path: Path) -> None:
    stones = Tombstones(tmp_path)
    stones.bar_samples(["a1", "a2"], name="s", job_id="j0")
    stones.bar_samples(["a2", "a3"], name="s2", job_id="j1")
    stones.close("j0")
    assert ids(own(tmp_path).groups(wanted(tombstones=["s", "s2"])))[FORGOTTEN] == {"a3"}
    assert ids(own(tmp_path).groups(wanted(everything=True)))[FORGOTTEN].isdisjoint({"a1", "a2"})
    stones.close("j1")
    assert set(own(tmp_path).groups(wanted(everything=True))) == {TEST}


def test_whoever_forbids_it_has_no_forgotten_sample_evaluated(tmp_path: Path) -> None:
    Tombstones(tmp_path).bar_class(3, name="c", job_id="j1")
    data = own(tmp_path, evaluate_forgotten=False)
    assert set(data.groups(wanted(tombstones=["c"]))) == {RETAINED, TEST}
    assert data.forgotten_test() is None
    assert own(tmp_path).forgotten_test() is not None


def test_a_group_is_drawn_by_the_seed(tmp_path: Path) -> None:
    data = own(tmp_path)
    first = ids(data.groups(wanted(5, 1)))
    assert {group: len(found) for group, found in first.items()} == {RETAINED: 5, TEST: 5}
    assert ids(data.groups(wanted(5, 1))) == first
    assert ids(data.groups(wanted(5, 2))) != first
    assert ids(data.groups(wanted(5, (1 << 64) - 1)))


def trainer(task: fednot.Task, folder: Path) -> Trainer:
    return Trainer(
        *(task, Manifest.of(task.build_model()), digits(20, "a"), digits(12, "t")),
        Device(torch.device("cpu"), lambda _: None),
        Tombstones(folder),
    )


def test_a_profile_counts_each_sample_once(tmp_path: Path) -> None:
    Tombstones(tmp_path).bar_samples(["a1", "a2"], name="s", job_id="j1")
    here = trainer(OwnTask(), tmp_path)
    given = flatten_module(here.task.build_model(), here.manifest)
    found = here.profile(given, wanted(tombstones=["s"]))
    assert {group: profile.size for group, profile in found.items()} == {
        FORGOTTEN: 2,
        UNSEEN: 8,
        RETAINED: 18,
        TEST: 12,
    }
    told = report_of(found)
    assert [each.group for each in told] == [1, 2, 3, 4]
    assert sum(told[0].losses.counts) == 2
    assert len(told[0].losses.counts) == 402


@pytest.mark.parametrize(("kind", "says"), [("samples", "own files"), ("class", "no classes")])
def test_who_cannot_leave_out_what_was_forgotten_does_not_train(
    tmp_path: Path, kind: str, says: str
) -> None:
    stones, here = Tombstones(tmp_path), trainer(HoardingTask(), tmp_path)
    given = flatten_module(here.task.build_model(), here.manifest)
    context = TrainContext(torch.device("cpu"), seed=1, round=1)
    assert here.train(given, context).num_examples == 20
    if kind == "samples":
        stones.bar_samples(["a1"], own=True)
    else:
        stones.bar_class(3, name="c")
    with pytest.raises(ValueError, match=says):
        here.train(given, context)
