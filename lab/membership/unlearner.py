"""A model that learned some examples and unlearned them: what a shadow model of U-LiRA is.

One model on one machine and no federation: retained and candidate samples are trained on together,
then the method's start is made, and recovery trains on the retained ones alone. A federation of one
client does the same. Only methods without steps of their own and without history can be looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from fednot.data.in_memory import InMemoryDataset
from fednot.layers import choose, layer_map
from fednot.manifest import Manifest
from fednot.task import SampleDataset, Task
from fednot.tensors import flatten_module, load_into
from fednot.training import TrainContext, batch_of
from server.methods import Method, method_named
from server.methods.method import TRAIN, StartContext

CPU: Final = torch.device("cpu")
BEFORE: Final = "before the deletion"
UNDONE: Final = ", undone"

Logits = NDArray[np.floating]


@dataclass(frozen=True)
class Course:
    """How long to train, in epochs: at first, and in recovery.

    Retraining takes as long as at first. `layers` selects what is negated, as in a request.
    """

    epochs: int = 8
    recovery: int = 4
    layers: str = "first"


class Unlearner:
    """Trains, unlearns by each of several methods, and answers for all candidates.

    `__call__` gives the answers by what made the model: before the deletion, each method, and each
    that can be undone with ", undone". Raises ValueError for a method that needs more than a start,
    FednotError for one that is not known.
    """

    def __init__(
        self,
        task: Task,
        retained: SampleDataset,
        candidates: InMemoryDataset,
        methods: Sequence[str],
        course: Course = Course(),
    ) -> None:
        self._task = task
        self._retained = _gathered(retained, range(len(retained)))
        self._candidates = candidates
        self._methods = [_checked(name) for name in methods]
        self._course = course
        model = task.build_model()
        self._manifest = Manifest.of(model)
        layers = layer_map(
            self._manifest,
            model=model,
            example_input=candidates[0][0].unsqueeze(0),
            first_layers=task.first_layers(model),
        )
        self._tensors = choose(layers, course.layers, allow_unsafe=True).tensors

    def __call__(self, indices: Sequence[int], seed: int) -> dict[str, Logits]:
        """Logits of shape [candidates, C] by name, after learning those of the indices."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            initial = flatten_module(self._task.build_model(), self._manifest)
        learned = _joined(self._retained, _gathered(self._candidates, indices))
        base = self._trained(initial, learned, self._course.epochs, seed)
        found = {BEFORE: self._answers(base)}
        for method in self._methods:
            tensors = self._tensors if method.needs.layers else ()
            context = StartContext(self._manifest, base, initial, tensors, seed)
            epochs = self._course.epochs if method.new_lineage else self._course.recovery
            flat = self._trained(method.start(context), self._retained, epochs, seed + 1)
            found[method.name] = self._answers(flat)
            undone = method.undone(context, flat)
            if undone is not None:
                found[f"{method.name}{UNDONE}"] = self._answers(undone)
        return found

    def _trained(
        self, flat: torch.Tensor, data: InMemoryDataset, epochs: int, seed: int
    ) -> torch.Tensor:
        model = self._task.build_model()
        load_into(model, flat, self._manifest)
        context = TrainContext(CPU, seed=seed, round=1, config={"local_epochs": epochs})
        self._task.train(model, data, context)
        return flatten_module(model, self._manifest)

    @torch.no_grad()
    def _answers(self, flat: torch.Tensor) -> Logits:
        model = self._task.build_model()
        load_into(model, flat, self._manifest)
        model.eval()
        found: Logits = model(self._candidates.inputs).numpy()
        return found


def _checked(name: str) -> Method:
    method = method_named(name)
    needs = method.needs
    if needs.history or needs.target or needs.proxy or method.recovery_work != TRAIN:
        raise ValueError(
            f"{name} needs a federation, and shadow models are trained without one; "
            "take methods that only change the model, such as not or retrain"
        )
    return method


def _gathered(data: SampleDataset, indices: Sequence[int]) -> InMemoryDataset:
    inputs, targets = batch_of(data, indices)
    return InMemoryDataset(inputs, targets, [data.sample_id(index) for index in indices])


def _joined(first: InMemoryDataset, second: InMemoryDataset) -> InMemoryDataset:
    return InMemoryDataset(
        torch.cat([first.inputs, second.inputs]),
        torch.cat([first.targets, second.targets]),
        [data.sample_id(index) for data in (first, second) for index in range(len(data))],
    )
