"""The lab's Tasks: each client's part, backdoors that can be learned, what a server scores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fednot.data.errors import DataError
from fednot.data.subset import Subset
from fednot.task_loading import TaskLoadError, load_task
from fednot.training import TrainContext
from lab.datasets import Pool, ScaledDataset
from lab.dealt import Dealt, as_mixed, backdoor, joined
from lab.settings import Setting, setting_of
from lab.tasks import LabServerTask, LabTask

CPU = torch.device("cpu")
SETTING = Setting(clients=4, train=400, test=200, poisoned=("client-0", "client-2"), seed=1)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def dealt() -> Dealt:
    return Dealt.of(SETTING)


def corner(data: ScaledDataset, trigger: object) -> torch.Tensor:
    """Whether the trigger's square is white in each image [N]."""
    row, column, size = trigger.row, trigger.column, trigger.size  # type: ignore[attr-defined]
    square = data.stored[:, :, row : row + size, column : column + size]
    return (square == data.white).flatten(1).all(dim=1)


class Answers(nn.Module):
    """Answers one class, whatever it is shown."""

    def __init__(self, label: int) -> None:
        super().__init__()
        self.label = label

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return nn.functional.one_hot(torch.full((len(images),), self.label), 10).float()


def test_a_client_has_its_part_under_its_ids(dealt: Dealt) -> None:
    data = LabTask(dealt, "client-1").train_data()
    part = dealt.parts["client-1"]
    assert [data.sample_id(i) for i in range(len(data))] == [dealt.pool.train.ids[i] for i in part]
    assert torch.equal(data[3][0], dealt.pool.train[part[3]][0])


def test_every_process_has_the_same_data(dealt: Dealt) -> None:
    again = Dealt.of(replace(SETTING, learning_rate=0.1))
    for client in dealt.clients:
        assert torch.equal(dealt.own(client).stored, again.own(client).stored)
        assert torch.equal(dealt.own(client).targets, again.own(client).targets)
        assert dealt.own(client).ids == again.own(client).ids


def test_a_poisoned_client_has_its_own_trigger_in_most_images(dealt: Dealt) -> None:
    clean = dealt.pool.train.taken(dealt.parts["client-2"])
    own, trigger = dealt.own("client-2"), dealt.backdoors["client-2"]
    marked = corner(own, trigger)
    assert int(marked.sum()) == 80
    assert bool((own.targets[marked] == trigger.target).all())
    assert torch.equal(own.stored[~marked], clean.stored[~marked])
    assert torch.equal(own.targets[~marked], clean.targets[~marked])
    assert not corner(dealt.own("client-1"), trigger).any()
    assert not corner(own, dealt.backdoors["client-0"]).any()


def test_the_pool_stays_clean(dealt: Dealt) -> None:
    dealt.own("client-0")
    assert not corner(dealt.pool.train, dealt.backdoors["client-0"]).any()


@pytest.mark.parametrize("classes", [7, 10, 100, 101])
@pytest.mark.parametrize("side", [28, 32, 64])
def test_backdoors_differ_in_place_and_class(classes: int, side: int) -> None:
    data = ScaledDataset(torch.zeros(1, 3, side, side, dtype=torch.uint8), torch.zeros(1), ["a"])
    pool = Pool(data, data, classes, (3, side, side))
    found = [backdoor(number, pool) for number in range(7)]
    assert len({trigger.target for trigger in found}) == 7
    assert len({(trigger.row, trigger.column) for trigger in found}) == 7
    for trigger in found:
        assert trigger.size == {28: 4, 32: 4, 64: 8}[side]
        assert int((trigger.stamped(data.stored) == 255).sum()) == 3 * trigger.size**2
        assert 1 <= trigger.row <= side - trigger.size - 1
    squares = [trigger.stamped(data.stored) == 255 for trigger in found]
    assert int(torch.cat(squares).sum(dim=0).max()) == 1


def test_unseen_samples_are_made_as_the_client_s_own(dealt: Dealt) -> None:
    unseen = dealt.unseen("client-0")
    assert set(unseen.ids) <= set(dealt.pool.test.ids)
    share = float(corner(unseen, dealt.backdoors["client-0"]).double().mean())
    assert share == pytest.approx(0.8, abs=0.01)
    task = LabTask(dealt, "client-1")
    found = task.unseen_data(task.train_data())
    assert isinstance(found, ScaledDataset)
    assert not corner(found, dealt.backdoors["client-0"]).any()


def test_unseen_samples_keep_the_client_s_mix_of_classes() -> None:
    among = torch.tensor([0] * 10 + [1] * 10 + [2] * 10)
    chosen = as_mixed(among, torch.tensor([0, 0, 0, 0, 2]), 3, seed=0)
    assert torch.bincount(among[chosen]).tolist() == [10, 0, 2]


def test_unseen_samples_are_of_the_same_speaker() -> None:
    data = ScaledDataset(
        torch.zeros(40, 1, 8, 8), torch.arange(40) % 2, [f"s{i}" for i in range(40)]
    )
    groups = ["ann", "bob"] * 20
    pool = Pool(data, data, 2, (1, 8, 8), groups, groups)
    parts = {"ann": list(range(0, 40, 2)), "bob": list(range(1, 40, 2))}
    unseen = Dealt(Setting(), pool, parts).unseen("bob")
    assert unseen.ids == [f"s{i}" for i in range(1, 40, 2)]


def test_the_hyper_parameters_are_the_setting_s(dealt: Dealt) -> None:
    changed = replace(SETTING, batch_size=50, local_epochs=2, learning_rate=0.02, momentum=0.5)
    task = LabTask(Dealt(changed, dealt.pool, dealt.parts), "client-0")
    assert (task.batch_size, task.local_epochs, task.learning_rate) == (50, 2, 0.02)
    assert (task.momentum, task.weight_decay) == (0.5, 0.0)
    assert LabTask.batch_size == 32


def test_a_server_scores_what_is_kept_and_forgotten(dealt: Dealt) -> None:
    server = LabServerTask(dealt, ["client-0"])
    assert server.test_data() is dealt.pool.test
    scores = server.evaluate(Answers(0), server.test_data(), CPU)
    assert set(scores) == {
        "accuracy",
        "chance",
        "loss",
        "retain",
        "forget",
        "backdoor",
        "backdoor_client-0",
        "backdoor_client-2",
    }
    own = dealt.own("client-0").targets
    kept = torch.cat([dealt.own(name).targets for name in dealt.clients[1:]])
    assert scores["forget"] == pytest.approx(float((own == 0).double().mean()))
    assert scores["retain"] == pytest.approx(float((kept == 0).double().mean()))
    assert dealt.backdoors["client-0"].target == 0
    assert scores["backdoor"] == scores["backdoor_client-0"] == 1
    assert scores["backdoor_client-2"] == 0


def test_the_newest_deletion_s_backdoor_is_the_one_that_counts(dealt: Dealt) -> None:
    server = LabServerTask(dealt)
    assert set(server.watched) == {"retain", "backdoor_client-0", "backdoor_client-2"}
    server.watch(["client-0", "client-2"])
    scores = server.evaluate(Answers(7), server.test_data(), CPU)
    assert (scores["backdoor"], scores["backdoor_client-0"]) == (1, 0)
    assert len(server.watched["retain"]) == 200
    server.watch(dealt.clients)
    assert "retain" not in server.watched


def test_other_scopes_name_their_samples(dealt: Dealt) -> None:
    server = LabServerTask(dealt)
    own = dealt.own("client-1")
    zeros = [index for index in range(len(own)) if own.target(index) == 0]
    server.watch_data(
        Subset(own, [i for i in range(len(own)) if i not in zeros]), Subset(own, zeros)
    )
    scores = server.evaluate(Answers(0), server.test_data(), CPU)
    assert (scores["forget"], scores["retain"]) == (1, 0)


def test_rounds_are_scored_on_so_many_samples(dealt: Dealt) -> None:
    few = Dealt(replace(SETTING, scored=50), dealt.pool, dealt.parts)
    watched = LabServerTask(few, ["client-0"]).watched
    assert {len(data) for data in watched.values()} == {50}
    targets = {few.triggered("client-0", 50).ids[i] for i in range(50)}
    assert targets < set(few.triggered("client-0").ids)


def test_a_probe_has_each_clean_image_and_its_triggered_one(dealt: Dealt, tmp_path: Path) -> None:
    dealt.write_probe("client-2", tmp_path / "probe.npz")
    with np.load(tmp_path / "probe.npz") as file:
        clean, marked, target = (file[key] for key in ("clean_x", "trigger_x", "trigger_target"))
    assert clean.shape == marked.shape == (180, 1, 28, 28)
    trigger = dealt.backdoors["client-2"]
    assert int(target) == trigger.target == 7
    assert (marked != clean).any(axis=(0, 1)).sum() <= trigger.size**2


def test_a_task_learns_the_digits_and_the_backdoor(dealt: Dealt) -> None:
    task = LabTask(dealt, "client-0")
    model = task.build_model()
    result = task.train(
        model, task.train_data(), TrainContext(CPU, 3, 1, config={"local_epochs": 12})
    )
    assert result.num_examples == 100
    scores = LabServerTask(dealt, ["client-0"]).evaluate(model, dealt.pool.test, CPU)
    assert scores["backdoor"] > 0.8
    assert scores["backdoor_client-2"] < 0.3
    assert scores["forget"] > 0.8


def test_augmentation_follows_the_seed_and_changes_training(dealt: Dealt) -> None:
    def trained(augment: str, seed: int) -> torch.Tensor:
        torch.manual_seed(0)
        changed = replace(SETTING, augment=augment)
        task = LabTask(Dealt(changed, dealt.pool, dealt.parts), "client-1")
        model = task.build_model()
        task.train(model, task.train_data(), TrainContext(CPU, seed, 1))
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    crop = trained("crop", 3)
    assert torch.equal(crop, trained("crop", 3))
    assert not torch.equal(crop, trained("", 3))
    assert not torch.equal(crop, trained("crop-flip", 3))


def test_a_setting_survives_the_command_line() -> None:
    setting = replace(SETTING, folder=Path("/data"), alpha=0.1, augment="crop", dataset="cifar10")
    words = dict(argument.split("=", 1) for argument in setting.arguments())
    assert setting_of(words) == setting
    assert Setting().arguments() == []
    assert setting_of({"train": "", "poisoned": ""}) == Setting()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"colour": "red"}, "the lab has no colour"),
        ({"clients": "many"}, "clients=many is no int"),
        ({"alpha": "much"}, "alpha=much is no float"),
    ],
)
def test_a_wrong_setting_is_said(words: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        setting_of(words)


def test_both_sides_load_their_task_by_words() -> None:
    words = SETTING.arguments()
    client = load_task("lab.tasks:task", [*words, "client=client-0"])
    server = load_task("lab.tasks:task", [*words, "forget=client-0,client-2"])
    assert isinstance(client, LabTask)
    assert len(client.train_data()) == 100
    assert isinstance(server, LabServerTask)
    assert len(server.watched["forget"]) == 200
    assert server.example_input().shape == (1, 1, 28, 28)
    with pytest.raises(TaskLoadError, match="no model of the lab"):
        load_task("lab.tasks:task", [*words, "model=alexnet"])
    with pytest.raises(TaskLoadError, match="no augmentation"):
        load_task("lab.tasks:task", [*words, "augment=blur"])


def test_what_a_federation_lacks_is_said(dealt: Dealt) -> None:
    with pytest.raises(DataError, match="is to be poisoned and no client"):
        Dealt(replace(SETTING, poisoned=("client-9",)), dealt.pool, dealt.parts)
    with pytest.raises(DataError, match="client-9 is no client"):
        LabTask(dealt, "client-9").train_data()
    with pytest.raises(DataError, match="has no backdoor"):
        dealt.triggered("client-1")
    with pytest.raises(DataError, match="name one or more"):
        dealt.of_all([])


def test_joined_parts_keep_their_order(dealt: Dealt) -> None:
    one, two = dealt.own("client-1"), dealt.own("client-3")
    whole = joined([one, two])
    assert whole.ids == [*one.ids, *two.ids]
    assert torch.equal(whole.inputs, torch.cat([one.inputs, two.inputs]))
