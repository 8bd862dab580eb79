"""The default training loop under differential privacy: DP-SGD by Opacus.

Opacus gives each sample's gradient, clips it and steps; which samples take part and the noise are
drawn here, from the operating system. Importing this needs the extra `privacy`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from opacus.grad_sample import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import nn

from fednot.privacy.costs import Noise, PrivacyError, Steps
from fednot.privacy.randomness import gaussian, poisson_batch
from fednot.task import SampleDataset, Task
from fednot.training import Plan, TrainContext, TrainResult, batch_of

# Opacus' hooks make torch say so of each first layer, whose input is data and wants no gradient.
warnings.filterwarnings("ignore", "Full backward hook is firing", UserWarning)


class PrivateOptimizer(DPOptimizer):  # type: ignore[misc]
    """Opacus' optimiser with noise that no seed brings back."""

    def add_noise(self) -> None:
        """Puts the noisy sum of clipped gradients into each parameter's `grad`."""
        for parameter in self.params:
            total = parameter.summed_grad
            noise = gaussian(total.shape, self.noise_multiplier * self.max_grad_norm)
            parameter.grad = (total.double() + noise.to(total.device)).to(total.dtype)


def train(
    task: Task, model: nn.Module, data: SampleDataset, context: TrainContext, noise: Noise
) -> TrainResult:
    """Trains the model in place, with the Task's hyper-parameters and the run's overrides.

    Each step trains on a Poisson sample of the data. Nothing is measured, since a mean loss over
    the data would go out without noise. Raises WorkCancelledError when the round is over,
    ValueError if there is nothing to train on, PrivacyError if training changes a buffer.
    """
    plan = Plan.of(task, data, context)
    steps = Steps.of(plan, noise)
    model.train()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with wrapped(model) as private, torch.random.fork_rng(devices=[]):
        torch.manual_seed(context.seed)
        optimiser = PrivateOptimizer(
            plan.optimiser(model),
            noise_multiplier=noise.multiplier,
            max_grad_norm=noise.clip,
            expected_batch_size=min(plan.batch_size, plan.size),
        )
        for _ in range(steps.count):
            context.check()
            optimiser.zero_grad(set_to_none=True)
            chosen = poisson_batch(plan.size, steps.rate)
            differentiate(task, private, data, chosen, context.device)
            optimiser.step()
    _check_buffers(model, before)
    return TrainResult(len(data))


@contextmanager
def wrapped(model: nn.Module) -> Iterator[GradSampleModule]:
    """A model whose backward pass leaves each sample's gradient; at the end it is as it was."""
    private = GradSampleModule(model, loss_reduction="sum")
    try:
        yield private
    finally:
        private.to_standard_module()
        for parameter in model.parameters():
            parameter.grad = None
            for left in ("grad_sample", "summed_grad"):
                if hasattr(parameter, left):
                    delattr(parameter, left)


def differentiate(
    task: Task,
    private: GradSampleModule,
    data: SampleDataset,
    chosen: list[int],
    device: torch.device,
) -> None:
    """Leaves each sample's gradient at the parameters, [len(chosen), ...] each.

    The loss is taken of one sample at a time, so that it cannot mix samples, whatever the Task
    calls a batch's loss.
    """
    if not chosen:
        for parameter in private.parameters():
            if parameter.requires_grad:
                parameter.grad_sample = parameter.new_zeros((0, *parameter.shape))
        return
    inputs, targets = batch_of(data, chosen)
    outputs = private(inputs.to(device))
    targets = targets.to(device)
    losses = [task.loss(outputs[i : i + 1], targets[i : i + 1]) for i in range(len(chosen))]
    torch.autograd.backward(torch.stack(losses).sum())


def _check_buffers(model: nn.Module, before: dict[str, torch.Tensor]) -> None:
    for name, buffer in model.named_buffers():
        if name not in before or not torch.equal(buffer, before[name]):
            raise PrivacyError(
                f"training changed the buffer {name}, to which no noise is added; under "
                "differential privacy a model may learn by its parameters only"
            )
