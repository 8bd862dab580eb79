"""The lab's Tasks: a client's, and the server's, which scores what only a simulation knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from fednot import training
from fednot.task import SampleDataset, Task
from fednot.training import TrainContext, TrainResult
from lab.augmentation import KINDS, augmented
from lab.dealt import Dealt
from lab.models import build
from lab.settings import Setting, setting_of


class LabTask(Task):
    """A client's view: its own part of the pool, poisoned if the setting says so.

    The hyper-parameters are the setting's; a run may override them as any Task's.
    """

    def __init__(self, dealt: Dealt, client: str = "") -> None:
        """Raises ValueError if the setting's model or augmentation does not exist."""
        self.dealt = dealt
        self.client = client
        self.setting: Setting = dealt.setting
        if self.setting.augment not in KINDS:
            augmented(dealt.pool.train, self.setting.augment)
        self.__dict__.update(self.setting.hyper_parameters())
        with torch.device("meta"):
            self.build_model()

    def build_model(self) -> nn.Module:
        """The setting's model, with fresh weights by torch's seed."""
        return build(self.setting.model, self.dealt.pool.shape, self.dealt.pool.num_classes)

    def train_data(self) -> SampleDataset:
        """The client's samples, the poisoned ones among them. Raises DataError on the server."""
        return self.dealt.own(self.client)

    def unseen_data(self, forgotten: SampleDataset) -> SampleDataset | None:
        """Test samples spread as the client's own, made as they are."""
        return self.dealt.unseen(self.client)

    def example_input(self) -> torch.Tensor:
        """One training image [1, C, H, W]."""
        return self.dealt.pool.train[0][0].unsqueeze(0)

    def train(self, model: nn.Module, data: SampleDataset, context: TrainContext) -> TrainResult:
        """SGD over shuffled batches, augmented if the setting says so."""
        return super().train(model, augmented(data, self.setting.augment), context)


class LabServerTask(LabTask):
    """The server's view: the test data, and what a deletion is scored by.

    Its evaluation adds, as ratios, "retain" and "forget" (the accuracy on what is kept and on what
    is forgotten, as it was trained on), "backdoor" (the success of the forgotten client's trigger)
    and "backdoor_NAME" (that of each poisoned client), each where there is such data. So each
    round's stored metrics hold them. Real servers cannot know these: the data is the clients'.
    """

    def __init__(self, dealt: Dealt, forget: Sequence[str] = ()) -> None:
        """`forget` are the clients that a deletion takes out, the last one being the newest."""
        super().__init__(dealt)
        self.watched: dict[str, SampleDataset] = {}
        most = self.setting.scored
        self._triggered = {name: dealt.triggered(name, most) for name in dealt.backdoors}
        self.watch(forget)

    def watch(self, forget: Sequence[str]) -> None:
        """Scores the deletion of these clients from now on; none: no deletion."""
        most, newest = self.setting.scored, [name for name in forget if name in self._triggered]
        kept = [name for name in self.dealt.clients if name not in forget]
        watched: dict[str, SampleDataset] = {}
        if kept:
            watched["retain"] = self.dealt.of_all(kept, most)
        if forget:
            watched["forget"] = self.dealt.of_all(forget, most)
        if newest:
            watched["backdoor"] = self._triggered[newest[-1]]
        watched |= {f"backdoor_{name}": data for name, data in self._triggered.items()}
        self.watched = watched

    def watch_data(self, retain: SampleDataset, forget: SampleDataset) -> None:
        """Scores these samples as kept and forgotten from now on, for a class or some samples."""
        self.watched |= {"retain": retain, "forget": forget}

    def test_data(self) -> SampleDataset:
        """The pool's test samples."""
        return self.dealt.pool.test

    def evaluate(
        self, model: nn.Module, data: SampleDataset, device: torch.device
    ) -> Mapping[str, float]:
        """What every Task measures on the data, and the accuracy on all that is watched."""
        scores = dict(super().evaluate(model, data, device))
        found: dict[int, float] = {}
        for name, watched in self.watched.items():
            if id(watched) not in found:
                scored = training.evaluate(self, model, watched, device)
                found[id(watched)] = scored["accuracy"]
            scores[name] = found[id(watched)]
        return scores


def task(client: str = "", forget: str = "", **words: str) -> LabTask:
    """A client's Task, or without a client the server's: what `--task lab.tasks:task` calls.

    `forget` names clients, with commas; the rest are fields of the setting, as words. Raises
    ValueError.
    """
    dealt = Dealt.of(setting_of(words))
    if client:
        return LabTask(dealt, client)
    return LabServerTask(dealt, tuple(filter(None, forget.split(","))))
