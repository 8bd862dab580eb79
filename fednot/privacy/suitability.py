"""Whether a Task's model can be trained under differential privacy. Needs the extra `privacy`."""

from __future__ import annotations

import copy
import warnings
from typing import Final

import torch
from opacus.validators import ModuleValidator
from torch import nn

from fednot.privacy.costs import PrivacyError
from fednot.privacy.sgd import differentiate, wrapped
from fednot.task import SampleDataset, Task
from fednot.training import batch_of

CPU = torch.device("cpu")
AWAY: Final = 0.02
"""Standard deviation of what is added to parameters: a branch that begins at zero is then seen."""
_FAULTS = (NotImplementedError, RuntimeError, ValueError, TypeError, AttributeError)


def check(task: Task, model: nn.Module, data: SampleDataset) -> None:
    """Tries the model, in a copy, on two samples. Raises PrivacyError with what is in the way.

    What is looked at: that Opacus knows the layers, that one sample's output does not depend on the
    others of its batch, now or a little further on, that each trainable parameter gets a gradient
    of each sample, and that this is the gradient of that sample alone, with dropout turned off;
    the last not if the model draws other random numbers.
    """
    tried = copy.deepcopy(model).train()
    faults = [str(error) for error in ModuleValidator.validate(tried, strict=False)]
    if faults:
        raise PrivacyError("; ".join(" ".join(fault.split()) for fault in faults))
    pair = [0, min(1, len(data) - 1)]
    try:
        for each in (tried, _a_little_on(tried)):
            _check_apart(each, data, pair)
        found = _gradients(task, _without_dropout(tried.train()), data, pair)
        if not _is_random(tried, data, pair):
            for place, index in enumerate(pair):
                _check_gradients(task, tried, data, (index, place), found)
    except PrivacyError:
        raise
    except _FAULTS as error:
        raise PrivacyError(" ".join(str(error).split())) from error


@torch.no_grad()
def _a_little_on(model: nn.Module) -> nn.Module:
    """A copy with other parameters, the same each time."""
    other, draws = copy.deepcopy(model), torch.Generator().manual_seed(0)
    for parameter in other.parameters():
        if parameter.is_floating_point():
            parameter.add_(torch.randn(parameter.shape, generator=draws), alpha=AWAY)
    return other


def _without_dropout(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.eval()
    return model


def _gradients(
    task: Task, model: nn.Module, data: SampleDataset, pair: list[int]
) -> dict[str, torch.Tensor]:
    """The gradients of each sample, [2, ...], of each trainable parameter.

    Raises PrivacyError if one has none.
    """
    with wrapped(model) as private, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        differentiate(task, private, data, pair, CPU)
        found = {
            name: getattr(parameter, "grad_sample", None)
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        }
    known = {name: each for name, each in found.items() if isinstance(each, torch.Tensor)}
    missing = [name for name in found if name not in known or len(known[name]) != len(pair)]
    if missing:
        raise PrivacyError(f"no gradient of single samples for {', '.join(missing[:5])}")
    return known


@torch.no_grad()
def _is_random(model: nn.Module, data: SampleDataset, pair: list[int]) -> bool:
    inputs, _ = batch_of(data, pair)
    return not torch.equal(model(inputs), model(inputs))


def _check_gradients(
    task: Task,
    model: nn.Module,
    data: SampleDataset,
    sample: tuple[int, int],
    found: dict[str, torch.Tensor],
) -> None:
    """Compares the gradients of a sample, an index and its place, with those of a batch of one."""
    index, place = sample
    inputs, targets = batch_of(data, [index])
    model.zero_grad(set_to_none=True)
    torch.autograd.backward(task.loss(model(inputs), targets))
    for name, parameter in model.named_parameters():
        alone = parameter.grad
        if name not in found or alone is None:
            continue
        within = 1e-4 * float(alone.norm()) + 1e-7
        if not torch.allclose(found[name][place], alone, rtol=1e-2, atol=within):
            raise PrivacyError(f"the gradient of one sample is not its own at {name}")


@torch.no_grad()
def _check_apart(model: nn.Module, data: SampleDataset, pair: list[int]) -> None:
    model.eval()
    inputs, _ = batch_of(data, pair)
    alone = torch.cat([model(inputs[:1]), model(inputs[1:])])
    if not torch.allclose(model(inputs), alone, rtol=1e-3, atol=1e-5):
        raise PrivacyError("what the model makes of a sample depends on the others of its batch")
