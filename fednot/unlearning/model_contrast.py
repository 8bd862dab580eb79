"""The work `unlearn-contrast`: the target moves the model's features towards a fresh model's.

Source: FCU (Deng, Luo, Chen, "Enable the Right to be Forgotten with Federated Client Unlearning in
Medical Imaging", MICCAI 2024, arXiv 2407.02356, and github.com/dzp2095/FCU). On the target's data
the features z are pulled to those of a downgraded model and pushed from those of the given one:
cross-entropy of the logits [cos(z, z_given), cos(z, z_downgraded)] / temperature, whose answer is
the downgraded one. No labels are used. Every few iterations the weights are mixed with the given
model's by frequency (`fednot.unlearning.frequencies`).

| setting | default | what |
|---|---|---|
| contrast_learning_rate | 1e-5 | Adam, betas 0.9 and 0.9999 |
| contrast_weight_decay | 5e-4 | of Adam |
| contrast_temperature | 0.5 | the authors' factor 2.0 on the cosines |
| contrast_iterations | 100 | batches |
| fusion_interval | 10 | batches between two fusions; the last batch is followed by one, too |
| low_frequencies | 0.5 | ratio of the window (theirs: 0.5 for one data set, 0.7 for the other) |
| low_from_unlearned | 0 | 1: as the authors' code calls it, the high ones are the given model's |

Ours: features are the input of the last linear layer. The downgraded model is Task.build_model()
with fresh weights by the seed, once; in the authors' code it is made anew at each fusion and starts
from ImageNet. The paper and a comment in the code keep the given model's low frequencies, the call
in the code the unlearned one's: the paper is followed unless `low_from_unlearned`. All parameters
of two or more dimensions are fused; all others and buffers become the given model's again at each
fusion, as norm layers and biases do in the authors' code. Their schedule of the learning rate
(on a plateau) is left out. The default learning rate is for DenseNet-121 from
ImageNet and does little to a small model. Cost: `contrast_iterations` steps with two more forward
passes each; memory: two models more, and Adam's two moments.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from typing import Final

import torch
from torch import nn

from fednot.task import SampleDataset, Task
from fednot.training import Plan, TrainContext, TrainResult, batch_of
from fednot.unlearning.alone import alone
from fednot.unlearning.copies import copy_of, fresh_models, put, trainable
from fednot.unlearning.features import Forward, featured
from fednot.unlearning.frequencies import fused, fuses
from fednot.unlearning.work_settings import Setting, values

SETTINGS: Final[Mapping[str, Setting]] = {
    "contrast_learning_rate": Setting(1e-5),
    "contrast_weight_decay": Setting(5e-4),
    "contrast_temperature": Setting(0.5, 1e-6),
    "contrast_iterations": Setting(100, 1),
    "fusion_interval": Setting(10, 1),
    "low_frequencies": Setting(0.5, 0.0, 1.0),
    "low_from_unlearned": Setting(0, 0, 1),
}
_BETAS: Final = (0.9, 0.9999)


def unlearn_contrast(
    task: Task,
    model: nn.Module,
    data: SampleDataset,
    context: TrainContext,
    reference: nn.Module | None,
) -> TrainResult:
    """Moves the features off the given model's and towards a fresh model's; measures the mean loss.

    `reference`, if one comes, is the downgraded model. Raises ValueError if the model has no linear
    layer.
    """
    given = values("unlearn-contrast", context, SETTINGS)
    mine = alone(task)
    pretrained = copy_of(mine, model, context)
    downgraded = reference if reference is not None else next(fresh_models(mine, context, 1))
    downgraded = downgraded.to(context.device).eval()
    fusion = Fusion(model, pretrained, given["low_frequencies"], given["low_from_unlearned"] > 0)
    optimiser = torch.optim.Adam(
        list(trainable(model).values()),
        lr=given["contrast_learning_rate"],
        betas=_BETAS,
        weight_decay=given["contrast_weight_decay"],
    )
    model.train()
    losses: list[float] = []
    with ExitStack() as stack:
        forwards = [stack.enter_context(featured(m)) for m in (model, pretrained, downgraded)]
        stack.enter_context(torch.random.fork_rng(devices=[]))
        torch.manual_seed(context.seed)
        for inputs in _inputs(mine, data, context, int(given["contrast_iterations"])):
            optimiser.zero_grad()
            loss = _loss(forwards, inputs, given["contrast_temperature"])
            torch.autograd.backward(loss)
            optimiser.step()
            losses.append(float(loss.detach()))
            if len(losses) % int(given["fusion_interval"]) == 0:
                fusion.fuse()
    if len(losses) % int(given["fusion_interval"]):
        fusion.fuse()
    return TrainResult(len(data), {"loss": sum(losses) / len(losses)})


def _inputs(
    task: Task, data: SampleDataset, context: TrainContext, count: int
) -> Iterator[torch.Tensor]:
    """The inputs of so many shuffled batches, over and over the data, on the device."""
    plan = replace(Plan.of(task, data, context), epochs=count)
    for indices in islice(plan.batches(), count):
        context.check()
        yield batch_of(data, indices)[0].to(context.device)


def _loss(forwards: list[Forward], inputs: torch.Tensor, temperature: float) -> torch.Tensor:
    trained, pretrained, downgraded = forwards
    _, features = trained(inputs)
    with torch.no_grad():
        others = [forward(inputs)[1] for forward in (pretrained, downgraded)]
    return contrast(features, others[0], others[1], temperature)


def contrast(
    features: torch.Tensor, given: torch.Tensor, downgraded: torch.Tensor, temperature: float
) -> torch.Tensor:
    """The model-contrastive loss of features [N, D]: small where they are the downgraded ones."""
    similarities = [nn.functional.cosine_similarity(features, z) for z in (given, downgraded)]
    logits = torch.stack(similarities, dim=1) / temperature
    answers = torch.ones(len(features), dtype=torch.long, device=features.device)
    return nn.functional.cross_entropy(logits, answers)


@dataclass(frozen=True)
class Fusion:
    """Mixes a model with the pretrained one, in place.

    With `low_from_unlearned` the model's low frequencies are kept, else its high ones.
    """

    model: nn.Module
    pretrained: nn.Module
    ratio: float
    low_from_unlearned: bool

    @torch.no_grad()
    def fuse(self) -> None:
        """Fuses each trainable weight that has frequencies; all else becomes the pretrained's."""
        old = dict(self.pretrained.named_parameters())
        for name, weight in trainable(self.model).items():
            weight.copy_(self._fused(weight, old[name]) if fuses(weight) else old[name])
        put(self.model.buffers(), self.pretrained.buffers())

    def _fused(self, unlearned: torch.Tensor, pretrained: torch.Tensor) -> torch.Tensor:
        low, high = (unlearned, pretrained) if self.low_from_unlearned else (pretrained, unlearned)
        return fused(low, high, self.ratio)
