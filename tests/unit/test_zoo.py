"""The zoo's models run forwards and backwards, and their state survives a model file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from fednot import model_file, tensors, zoo
from fednot.manifest import Manifest, TensorKind


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny_vit() -> nn.Module:
    return zoo.VisionTransformer(
        image_size=8, patch=4, num_classes=3, dim=8, depth=2, heads=2, head_dim=4, mlp_dim=8
    )


MODELS: dict[str, tuple[Callable[[], nn.Module], torch.Tensor]] = {
    "cnn": (lambda: zoo.Cnn(widths=(2, 3), hidden=4, num_classes=3), torch.rand(2, 1, 28, 28)),
    "cnn of colour": (
        lambda: zoo.Cnn(in_channels=3, image_size=9, widths=(2, 2), hidden=4, num_classes=3),
        torch.rand(2, 3, 9, 9),
    ),
    "mlp": (lambda: zoo.Mlp(in_features=6, hidden=(4, 5), num_classes=3), torch.rand(2, 2, 3)),
    "resnet": (lambda: zoo.ResNet18(width=2, num_classes=3), torch.rand(2, 3, 8, 8)),
    "vit": (tiny_vit, torch.rand(2, 3, 8, 8)),
    "lstm": (
        lambda: zoo.EmbeddingLstm(vocabulary=7, dim=3, hidden=4, levels=2, num_classes=3),
        torch.randint(7, (2, 5)),
    ),
}


@pytest.fixture(params=MODELS)
def model_and_batch(request: pytest.FixtureRequest) -> tuple[nn.Module, torch.Tensor]:
    build, batch = MODELS[request.param]
    torch.manual_seed(0)
    return build(), batch


def test_a_batch_gives_logits_and_gradients(
    model_and_batch: tuple[nn.Module, torch.Tensor],
) -> None:
    model, batch = model_and_batch
    logits = model(batch)
    assert logits.shape == (2, 3)
    nn.functional.cross_entropy(logits, torch.tensor([0, 2])).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_every_sample_counts_for_itself(model_and_batch: tuple[nn.Module, torch.Tensor]) -> None:
    model, batch = model_and_batch
    model.eval()
    torch.testing.assert_close(model(batch)[:1], model(batch[:1]))


def test_first_layers_are_parameters_of_the_model(
    model_and_batch: tuple[nn.Module, torch.Tensor],
) -> None:
    model, _ = model_and_batch
    manifest = Manifest.of(model)
    declared = model.first_layers
    assert isinstance(declared, tuple)
    assert declared
    assert all(manifest[name].kind is TensorKind.PARAMETER for name in declared)


def test_state_survives_a_model_file(
    model_and_batch: tuple[nn.Module, torch.Tensor], tmp_path: Path
) -> None:
    model, batch = model_and_batch
    manifest = Manifest.of(model)
    path = tmp_path / "model.safetensors"
    path.write_bytes(model_file.serialise(tensors.flatten_module(model, manifest), manifest))
    flat, read, _ = model_file.read(path)
    assert read == manifest
    expected = model.eval()(batch)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    tensors.load_into(model, flat, read)
    assert torch.equal(model(batch), expected)


def test_the_default_cnn_suits_digits_and_has_four_layers() -> None:
    model = zoo.Cnn()
    assert model(torch.rand(1, 1, 28, 28)).shape == (1, 10)
    assert [name for name, _ in model.named_children()] == ["conv1", "conv2", "fc1", "fc2"]


def test_resnet18_has_the_parameters_of_the_paper_for_cifar() -> None:
    """ResNet-18 with the 3x3 stem and ten classes has 11,173,962 parameters (by hand: 11,689,512 of
    the ImageNet form, less 7,680 for the smaller stem and 507,870 for the smaller output)."""
    model = zoo.ResNet18(width=64)
    assert sum(p.numel() for p in model.parameters()) == 11_689_512 - 7_680 - 507_870
    assert 11_689_512 - 7_680 - 507_870 == 11_173_962


def test_shapes_that_cannot_work_are_refused() -> None:
    with pytest.raises(ValueError, match="does not divide"):
        zoo.VisionTransformer(image_size=9, patch=4)
    with pytest.raises(ValueError, match="one hidden layer"):
        zoo.Mlp(hidden=())
    with pytest.raises(ValueError, match="two pools"):
        zoo.Cnn(image_size=3)
