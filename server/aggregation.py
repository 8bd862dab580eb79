"""FedAvg as a running sum: memory does not grow with the number of updates.

McMahan et al. 2017, algorithm 1: the new model is the old one plus the mean of the updates, each
weighted by its number of examples. Sums are float64, so the order in which updates arrive does not
change the result beyond float64's own rounding, which the cast to the model's dtype hides in
practice (docs/decisions/0003).
"""

from __future__ import annotations

import torch

from fednot.errors import FednotError, Reason
from fednot.manifest import Manifest
from fednot.tensors import UNAVERAGED, first_not_finite, views


class RunningAverage:
    """The weighted mean of updates, added one at a time.

    Signed integers are averaged and rounded to the nearest; bool and uint8 stay the model's.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._sums = {
            spec.name: torch.zeros(spec.shape, dtype=torch.float64)
            for spec in manifest
            if spec.torch_dtype not in UNAVERAGED
        }
        self.num_examples = 0

    def add(self, update: torch.Tensor, num_examples: int) -> None:
        """Adds one update (flat, uint8). Raises FednotError if it is not finite or has no weight.

        A refused update leaves the sum as it was.
        """
        if num_examples < 1:
            raise FednotError(
                Reason.WRONG_NUM_EXAMPLES, f"an update of {num_examples} examples has no weight"
            )
        name = first_not_finite(update, self._manifest)
        if name is not None:
            raise FednotError(Reason.NOT_FINITE, f"the update of {name} holds NaN or Inf")
        found = views(update, self._manifest)
        for key, total in self._sums.items():
            total.add_(found[key], alpha=num_examples)
        self.num_examples += num_examples

    def applied_to(self, model: torch.Tensor) -> torch.Tensor:
        """A new flat model: the given one plus the mean update. Raises ValueError if none came."""
        if not self.num_examples:
            raise ValueError("no update was added, so there is no mean")
        result = model.clone()
        for key, view in views(result, self._manifest).items():
            if key in self._sums:
                mean = self._sums[key] / self.num_examples
                view.copy_(_added(view, mean))
        return result


def _added(model: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    if model.dtype.is_floating_point:
        return (model.double() + mean).to(model.dtype)
    # Not by way of float64, which does not hold every int64.
    return model + mean.round().to(model.dtype)
