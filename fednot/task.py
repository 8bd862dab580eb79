"""What a user's code is to fednot: a Task builds the model and gives the data.

Server and client load the same Task. The server only builds the model and reads `test_data`; only a
client reads `train_data`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import nn

from fednot import training
from fednot.training import TrainContext, TrainResult


@runtime_checkable
class SampleDataset(Protocol):
    """A map-style dataset whose samples have stable ids."""

    def __len__(self) -> int:
        """How many samples it has."""
        ...

    def __getitem__(self, index: int, /) -> tuple[torch.Tensor, Any]:
        """The sample at an index: input tensor and target (an int class for the default loss)."""
        ...

    def sample_id(self, index: int, /) -> str:
        """The id of the sample at an index, the same in every run."""
        ...


class Task:
    """A model and its data. Subclass it and override what differs.

    The class attributes are the hyper-parameters of the default training loop: SGD with momentum,
    made anew each round. A run may override them for all clients.
    """

    batch_size: ClassVar[int] = 32
    local_epochs: ClassVar[int] = 1
    learning_rate: ClassVar[float] = 0.05
    momentum: ClassVar[float] = 0.9
    weight_decay: ClassVar[float] = 0.0

    unsupported_scopes: Mapping[str, str] = MappingProxyType({})
    """Which kinds of deletion ("samples", "class") this Task cannot honour, each with the reason;
    the server refuses them then. Leave it empty if training reads nothing but the `data` that
    `train` is given, from which forgotten samples are taken out."""

    def build_model(self) -> nn.Module:
        """Builds the model with fresh weights. Every process must build the same tensors."""
        raise TypeError(f"{type(self).__name__} must define build_model()")

    def train_data(self) -> SampleDataset:
        """The samples that this client trains on."""
        raise TypeError(f"{type(self).__name__} must define train_data() to run on a client")

    def test_data(self) -> SampleDataset | None:
        """Held-out samples to evaluate on, or None."""
        return None

    def samples_of(self, subject: str) -> Sequence[str]:
        """The ids of the samples of a person, by a key such as a patient's number.

        Override it to take deletions that name a person. None is a fine answer. Raises
        NotImplementedError unless it is overridden.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define samples_of(subject)")

    def unseen_data(self, forgotten: SampleDataset) -> SampleDataset | None:
        """Samples that were never trained on, spread like the forgotten ones, or None.

        Verification compares how the model treats both. By default the test data.
        """
        return self.test_data()

    def proxy_data(self) -> SampleDataset | None:
        """Data of the server's own for methods that distil one model into another, or None.

        Only the inputs are used; they should look like the clients' and hold none of theirs.
        """
        return None

    def first_layers(self, model: nn.Module) -> Sequence[str] | None:
        """State-dict names of the first layers' weights, or None to derive them.

        Declare them where the first layer is a bare parameter, which has no module type. The model
        may declare them instead, as an attribute `first_layers` (the zoo does).
        """
        declared = getattr(model, "first_layers", None)
        return list(declared) if declared is not None else None

    def example_input(self) -> torch.Tensor | None:
        """An input of shape [1, ...] to trace the model with; by default a test sample."""
        data = self.test_data()
        return data[0][0].unsqueeze(0) if data is not None and len(data) else None

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean loss over a batch; by default the cross-entropy."""
        return nn.functional.cross_entropy(outputs, targets)

    def sample_losses(
        self, model: nn.Module, data: SampleDataset, device: torch.device
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss of each sample, float64 [N], and whether it is answered correctly, bool [N].

        By default `loss` of batches of one and the largest output; verification reads it.
        """
        return training.sample_losses(self, model, data, device)

    def train(self, model: nn.Module, data: SampleDataset, context: TrainContext) -> TrainResult:
        """Trains the model in place; by default SGD over shuffled batches, on all ranks."""
        if context.world_size > 1:
            from fednot import distributed

            return distributed.train(self, model, data, context)
        return training.train(self, model, data, context)

    def evaluate(
        self, model: nn.Module, data: SampleDataset, device: torch.device
    ) -> Mapping[str, float]:
        """Scores the model; "accuracy" and "chance" (ratios) steer recovery, others are kept."""
        return training.evaluate(self, model, data, device)
