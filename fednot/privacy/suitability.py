"""Whether a Task's model can be trained under differential privacy. Needs the extra `privacy`."""

from __future__ import annotations

import copy
import warnings

import torch
from opacus.validators import ModuleValidator
from torch import nn

from fednot.privacy.costs import PrivacyError
from fednot.privacy.sgd import differentiate, wrapped
from fednot.task import SampleDataset, Task
from fednot.training import batch_of


def check(task: Task, model: nn.Module, data: SampleDataset) -> None:
    """Tries the model, in a copy, on two samples. Raises PrivacyError with what is in the way.

    What is looked at: that Opacus knows the layers, that each trainable parameter gets a gradient
    of each sample, and that one sample's output does not depend on the others of its batch.
    """
    tried = copy.deepcopy(model).train()
    faults = [str(error) for error in ModuleValidator.validate(tried, strict=False)]
    if faults:
        raise PrivacyError("; ".join(" ".join(fault.split()) for fault in faults))
    pair = [0, min(1, len(data) - 1)]
    try:
        with wrapped(tried) as private, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            differentiate(task, private, data, pair, torch.device("cpu"))
            missing = [
                name
                for name, parameter in tried.named_parameters()
                if parameter.requires_grad and _samples_in(parameter) != len(pair)
            ]
    except (NotImplementedError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise PrivacyError(" ".join(str(error).split())) from error
    if missing:
        raise PrivacyError(f"no gradient of single samples for {', '.join(missing[:5])}")
    _check_apart(tried, data, pair)


def _samples_in(parameter: torch.Tensor) -> int:
    found = getattr(parameter, "grad_sample", None)
    return len(found) if isinstance(found, torch.Tensor) else 0


@torch.no_grad()
def _check_apart(model: nn.Module, data: SampleDataset, pair: list[int]) -> None:
    model.eval()
    inputs, _ = batch_of(data, pair)
    together, alone = model(inputs), model(inputs[:1])
    if not torch.allclose(together[:1], alone, rtol=1e-3, atol=1e-5):
        raise PrivacyError("what the model makes of a sample depends on the others of its batch")
