"""The contrastive recovery: plain training at weight 0, the loss by hand, views, what it learns."""

from __future__ import annotations

import math

import pytest
import torch
from support.unlearning_tasks import CPU, StampsTask, built, flat, stamps
from torch import nn

from fednot.training import TrainContext
from fednot.unlearning.features import featured
from fednot.unlearning.view_contrast import train_contrast
from fednot.unlearning.views import Augmentation, alikeness


class PlainTask(StampsTask):
    """No BatchNorm, whose statistics the views would change."""

    def build_model(self) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 3))


def trained(weight: float, **config: float) -> tuple[nn.Module, dict[str, float]]:
    context = TrainContext(CPU, 1, 1, config={"weight": weight} | config)
    model = built(PlainTask())
    result = train_contrast(PlainTask(), model, stamps(60), context, None)
    return model, dict(result.metrics)


@pytest.mark.parametrize("weight", [0.0, 1e-12])
@pytest.mark.parametrize("views", [1.0, 2.0])
def test_without_weight_it_is_plain_training(weight: float, views: float) -> None:
    """Also its own loop, which a weight that is too small to matter runs."""
    model = built(PlainTask())
    expected = PlainTask().train(model, stamps(60), TrainContext(CPU, 1, 1))
    found, metrics = trained(weight, views=views)
    assert torch.allclose(flat(found), flat(model), atol=1e-6)
    assert metrics["loss"] == pytest.approx(expected.metrics["loss"], rel=1e-5)


@pytest.mark.parametrize("views", [1.0, 2.0])
def test_views_of_an_image_come_closer_than_by_plain_training(views: float) -> None:
    config = {"views": views, "local_epochs": 10.0, "padding": 1.0}
    plain, contrasted = trained(0.0, **config)[0], trained(1.0, **config)[0]
    assert apart(contrasted) < apart(plain) - 0.1


def apart(model: nn.Module) -> float:
    """NT-Xent of two views of images that were not trained on."""
    generator, augmentation = torch.Generator().manual_seed(9), Augmentation(1, flip=False)
    images = stamps(60, seed=8).inputs
    with featured(model) as forward, torch.no_grad():
        z = [forward(augmentation.view(images, generator))[1] for _ in range(2)]
    return float(alikeness(z[0], z[1], 0.5))


def test_it_still_learns_the_labels() -> None:
    model, metrics = trained(0.5, local_epochs=15.0, padding=1.0)
    assert PlainTask().evaluate(model, stamps(60), CPU)["accuracy"] > 0.9
    assert set(metrics) == {"loss", "contrast"}


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_the_loss_by_hand(temperature: float) -> None:
    """Two samples with orthogonal features, each the same in both views: of the three others one
    has a cosine of 1 and two of 0. Swapped views have the partner at 0 and one other at 1."""
    z = torch.tensor([[3.0, 0.0], [0.0, 2.0]])
    top = math.exp(1 / temperature)
    assert float(alikeness(z, z, temperature)) == pytest.approx(-math.log(top / (top + 2)))
    swapped = float(alikeness(z, z.flip(0), temperature))
    assert swapped == pytest.approx(-math.log(1 / (top + 2)))


def test_a_view_is_the_image_moved_by_at_most_the_padding() -> None:
    """One bright pixel in the middle of [9, 9] goes to each place within 2, and nowhere else."""
    images = torch.zeros(500, 2, 9, 9)
    images[:, 0, 4, 4], images[:, 1, 4, 4] = 1.0, 2.0
    views = Augmentation(2, flip=False).view(images, torch.Generator().manual_seed(0))
    assert views.shape == images.shape
    places = {tuple(place) for place in views[:, 0].nonzero()[:, 1:].tolist()}
    assert places == {(row, column) for row in range(2, 7) for column in range(2, 7)}
    assert torch.equal(views[:, 1], 2 * views[:, 0])  # channels move together


def test_half_of_the_views_are_mirrored_if_asked() -> None:
    images = torch.arange(6.0).reshape(1, 1, 2, 3).repeat(400, 1, 1, 1)
    views = Augmentation(0, flip=True).view(images, torch.Generator().manual_seed(0))
    mirrored = (views == images.flip(3)).flatten(1).all(dim=1)
    untouched = (views == images).flatten(1).all(dim=1)
    assert bool((mirrored ^ untouched).all())
    assert 150 < int(mirrored.sum()) < 250
    still = Augmentation(0, flip=False).view(images, torch.Generator().manual_seed(0))
    assert torch.equal(still, images)


@pytest.mark.parametrize(
    "inputs", [torch.zeros(4, 8), torch.zeros(4, 8, 8), torch.zeros(4, 1, 8, 8, dtype=torch.long)]
)
def test_inputs_that_are_no_images_are_refused(inputs: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="are no images"):
        Augmentation(4, flip=False).view(inputs, torch.Generator())
