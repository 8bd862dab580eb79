"""Further models beside the one that is worked on: fresh ones, copies, and tensors set aside."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import nn

from fednot.task import Task
from fednot.training import TrainContext

_SEEDS = 2**63


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that training moves, by name; a tied one once, a parametrised one as stored.

    Raises ValueError if there are none.
    """
    found = {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and parameter.is_floating_point()
    }
    if not found:
        raise ValueError("the model has no trainable parameters; there is nothing to unlearn in it")
    return found


def copied(tensors: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """Copies that no gradient reaches."""
    return [tensor.detach().clone() for tensor in tensors]


@torch.no_grad()
def put(tensors: Iterable[torch.Tensor], sources: Iterable[torch.Tensor]) -> None:
    """Overwrites tensors in place."""
    for tensor, value in zip(tensors, sources, strict=True):
        tensor.copy_(value)


@torch.no_grad()
def squared_distance(first: Sequence[torch.Tensor], second: Sequence[torch.Tensor]) -> float:
    """The squared L2 distance over all elements of two lists of tensors of equal shapes."""
    each = (
        float((a.detach() - b.detach().to(a.device)).float().square().sum())
        for a, b in zip(first, second, strict=True)
    )
    return sum(each)


def fresh_models(task: Task, context: TrainContext, count: int) -> Iterator[nn.Module]:
    """So many models of new weights on the CPU, one after the other; the seed decides which.

    The global random numbers are left as they were, and are the caller's between two models.
    """
    for number in range(count):
        context.check()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed((context.seed + 1 + number) % _SEEDS)
            model = task.build_model()
        yield model


def copy_of(task: Task, model: nn.Module, context: TrainContext) -> nn.Module:
    """A copy of the model as it is, in eval mode, on the context's device.

    It is built anew, since not every model can be deep-copied (torch's older weight_norm cannot).
    """
    twin = next(fresh_models(task, context, 1))
    twin.load_state_dict(model.state_dict())
    return twin.to(context.device).eval()


def named(model: nn.Module, names: Mapping[str, object]) -> list[torch.Tensor]:
    """The parameters of these names, in their order. Raises ValueError if the model lacks one."""
    found = dict(model.named_parameters())
    lacking = [name for name in names if name not in found]
    if lacking:
        raise ValueError(
            f"build_model() gave a model without {lacking[0]}; it must build the same tensors"
            " each time"
        )
    return [found[name] for name in names]
