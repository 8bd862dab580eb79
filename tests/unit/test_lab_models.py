"""The lab's models: what they take and give, which layers are first, and how large they are."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fednot.layers import choose, layer_map
from fednot.manifest import Manifest
from fednot.tensors import flatten_module, load_into
from lab.models import NAMES, build

PARAMETERS = {
    "cnn": 1_756_426,
    "cnn-small": 156_842,
    "cnn-digits": 277_610,
    "resnet18": 11_173_962,
    "resnet-small": 176_402,
    "vit": 15_819_370,
    "vit-small": 114_634,
}
SMALL = ("cnn-small", "cnn-digits", "resnet-small", "vit-small")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("name", NAMES)
def test_sizes_for_cifar10(name: str) -> None:
    with torch.device("meta"):
        model = build(name, (3, 32, 32), 10)
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (1, 32, 32)])
def test_a_batch_gives_logits_and_gradients(name: str, shape: tuple[int, ...]) -> None:
    model = build(name, shape, 7)
    logits = model(torch.rand(3, *shape))
    assert logits.shape == (3, 7)
    nn.functional.cross_entropy(logits, torch.tensor([0, 2, 6])).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_first_layers_are_parameters_that_exist(name: str) -> None:
    with torch.device("meta"):
        model = build(name, (3, 32, 32), 10)
    first = model.first_layers
    assert first
    assert set(first) <= set(dict(model.named_parameters()))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["cnn", "cnn-small"])
def test_the_layers_order_is_traced(name: str) -> None:
    model = build(name, (3, 32, 32), 10)
    found = layer_map(Manifest.of(model), model=model, example_input=torch.rand(1, 3, 32, 32))
    assert found.traced
    assert choose(found, "first").tensors == ("conv1.weight",)
    assert found.outputs == {"fc3" if name == "cnn" else "fc2"}


def test_the_paper_cnn_takes_cifar() -> None:
    assert build("cnn", (3, 32, 32), 100)(torch.rand(1, 3, 32, 32)).shape == (1, 100)


def test_a_small_cnn_survives_the_flat_model() -> None:
    """Its channels-last layout is of its images only: the flat model and its outputs stay equal."""
    model, other = (build("cnn-small", (3, 32, 32), 10).eval() for _ in range(2))
    manifest = Manifest.of(model)
    load_into(other, flatten_module(model, manifest), manifest)
    images = torch.rand(4, 3, 32, 32)
    assert torch.equal(model(images), other(images))


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("alexnet", (3, 32, 32), "take one of cnn"),
        ("cnn", (3, 32, 28), "square images"),
        ("vit", (3, 30, 30), "multiple of 4"),
        ("cnn-small", (64,), "square images"),
    ],
)
def test_what_cannot_be_built_is_said(name: str, shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build(name, shape, 10)
