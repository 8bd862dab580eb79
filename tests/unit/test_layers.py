"""Which layers are found, in which order they stand, and what a selector gives.

The exact tensors are named here, since a wrong one would be negated without a sound.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from fednot import zoo
from fednot.errors import FednotError, Reason
from fednot.layers import Choice, LayerMap, choose, layer_map, next_choice
from fednot.manifest import Manifest

IMAGE = torch.zeros(1, 3, 8, 8)
TOKENS = torch.ones(1, 4, dtype=torch.long)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def mapped(
    model: nn.Module, example: torch.Tensor | None = None, *, declared: bool = True
) -> LayerMap:
    first = getattr(model, "first_layers", None) if declared else None
    return layer_map(Manifest.of(model), model=model, example_input=example, first_layers=first)


def cnn() -> nn.Module:
    return zoo.Cnn(in_channels=3, image_size=8, widths=(2, 2), hidden=4)


def vit() -> nn.Module:
    return zoo.VisionTransformer(
        image_size=8, patch=4, dim=8, depth=1, heads=2, head_dim=4, mlp_dim=8
    )


@pytest.fixture(scope="module")
def cnn_map() -> LayerMap:
    return mapped(cnn(), IMAGE)


@pytest.fixture(scope="module")
def resnet_map() -> LayerMap:
    return mapped(zoo.ResNet18(width=2), IMAGE)


@pytest.fixture(scope="module")
def vit_map() -> LayerMap:
    return mapped(vit(), IMAGE)


def refusal(found: LayerMap, selector: str, **options: object) -> tuple[Reason, str]:
    with pytest.raises(FednotError) as caught:
        choose(found, selector, **options)  # type: ignore[arg-type]
    return caught.value.reason, caught.value.message


FIRST = {
    "cnn": (cnn, IMAGE, ("conv1.weight",), {"fc2"}),
    "resnet": (lambda: zoo.ResNet18(width=2), IMAGE, ("conv1.weight",), {"fc"}),
    "vit": (vit, IMAGE, ("pos_embedding", "patch_projection.weight"), {"head"}),
    "mlp": (
        lambda: zoo.Mlp(in_features=192, hidden=(4, 4)),
        IMAGE,
        ("hidden.0.weight",),
        {"output"},
    ),
    "lstm": (
        lambda: zoo.EmbeddingLstm(vocabulary=5, dim=3, hidden=3),
        TOKENS,
        ("embedding.weight",),
        {"fc"},
    ),
}


@pytest.mark.parametrize("example", [True, False], ids=["traced", "registered"])
@pytest.mark.parametrize("name", FIRST)
def test_first_is_exactly(name: str, example: bool) -> None:
    build, batch, expected, outputs = FIRST[name]
    found = mapped(build(), batch if example else None)
    assert found.traced is example
    assert bool(found.warning) is not example
    assert found.outputs == outputs
    choice = choose(found, "first")
    assert choice.tensors == expected
    assert choose(found, "") == choose(found, " first ") == choice
    assert choice.warnings == ((found.warning,) if found.warning else ())


@pytest.mark.parametrize("name", ["cnn", "resnet", "mlp", "lstm"])
def test_first_is_the_same_underived(name: str) -> None:
    build, batch, expected, _ = FIRST[name]
    assert mapped(build(), batch, declared=False).first == expected


def test_undeclared_vit_takes_the_projection_since_bare_parameters_are_no_layers() -> None:
    found = mapped(vit(), IMAGE, declared=False)
    assert found.first == ("patch_projection.weight",)
    reason, message = refusal(found, "layers=pos_embedding")
    assert reason is Reason.LAYER_NOT_NEGATABLE
    assert "may declare it in first_layers" in message


def test_first_goes_by_the_graph_and_not_by_registration() -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.output = nn.Linear(4, 2)
            self.middle = nn.Linear(4, 4)
            self.input = nn.Linear(3, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.output(torch.relu(self.middle(torch.relu(self.input(x)))))

    found = mapped(Backwards(), torch.zeros(1, 3))
    assert (found.first, found.outputs) == (("input.weight",), {"output"})


def test_layers_of_resnet_are_its_convolutions_and_its_output(resnet_map: LayerMap) -> None:
    assert len(resnet_map.layers) == 1 + 16 + 3 + 1
    assert {layer.module_type for layer in resnet_map.layers} == {"Conv2d", "Linear"}
    assert [layer.position for layer in resnet_map.layers] == list(range(21))


def test_residual_shortcut_stands_beside_the_block_and_behind_the_stem(
    resnet_map: LayerMap,
) -> None:
    shortcut = "layer2.0.shortcut.0"
    assert choose(resnet_map, f"layers=layer2.0.conv1,{shortcut}").tensors == (
        "layer2.0.conv1.weight",
        "layer2.0.shortcut.0.weight",
    )
    reason, message = refusal(resnet_map, f"layers=conv1,{shortcut}")
    assert reason is Reason.NOT_AN_ANTICHAIN
    assert f"conv1 feeds {shortcut}" in message


@pytest.mark.parametrize("name", ["bn1", "bn1.weight", "layer1.0.bn2.weight"])
def test_batchnorm_scale_is_refused_since_it_cancels(resnet_map: LayerMap, name: str) -> None:
    reason, message = refusal(resnet_map, f"layers=conv1,{name}", allow_unsafe=True)
    assert reason is Reason.LAYER_NOT_NEGATABLE
    assert "BatchNorm2d" in message
    assert "cancels out" in message


def test_bias_and_buffer_are_refused(resnet_map: LayerMap) -> None:
    assert refusal(resnet_map, "layers=fc.bias")[0] is Reason.LAYER_NOT_NEGATABLE
    reason, message = refusal(resnet_map, "layers=bn1.running_mean")
    assert reason is Reason.LAYER_NOT_NEGATABLE
    assert "is a buffer" in message


class TwoBranches(nn.Module):
    """Two convolutions on the same image, one output."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 2, 3)
        self.right = nn.Conv2d(3, 2, 3)
        self.output = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        both = torch.cat([self.left(x), self.right(x)], dim=1)
        return self.output(torch.relu(both).mean(dim=(2, 3)))


def test_two_branches_may_be_taken_together_if_the_graph_is_known() -> None:
    assert choose(mapped(TwoBranches(), IMAGE), "layers=left,right").warnings == ()
    reason, message = refusal(mapped(TwoBranches()), "layers=left,right")
    assert reason is Reason.NOT_AN_ANTICHAIN
    assert "registration order" in message


def test_a_module_of_several_layers_is_no_layer(resnet_map: LayerMap) -> None:
    reason, message = refusal(resnet_map, "layers=layer1")
    assert reason is Reason.NO_SUCH_LAYER
    assert "layer1.0.conv1, layer1.0.conv2" in message


def test_vit_in_part_negated_takes_what_is_left_of_first(vit_map: LayerMap) -> None:
    choice = choose(vit_map, "first", negated=["patch_projection.weight"])
    assert choice.tensors == ("pos_embedding",)


def test_untraceable_model_falls_back_and_says_why() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = (nn.Linear(4, 4) for _ in range(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.a(x)
            return self.b(y) if y.sum() > 0 else self.c(y)

    found = mapped(Branching(), torch.ones(1, 4))
    assert not found.traced
    assert "torch.export could not trace" in found.warning
    assert "data-dependent" in found.warning
    assert found.feeds == {"a": {"b", "c"}, "b": {"c"}, "c": frozenset()}
    assert found.outputs == {"c"}
    assert choose(found, "first") == Choice(("a",), ("a.weight",), (found.warning,))
    assert found.warning in next_choice(found, tried=(), negated=()).warnings  # type: ignore[union-attr]


def test_without_a_model_the_manifest_gives_the_same_layers() -> None:
    model = vit()
    bare = layer_map(Manifest.of(model), first_layers=model.first_layers)
    assert "no Task was given" in bare.warning
    assert bare.layers == mapped(model, IMAGE).layers
    assert choose(bare, "first").tensors == ("pos_embedding", "patch_projection.weight")


def test_manifest_without_module_types_knows_only_declared_layers() -> None:
    specs = tuple(replace(spec, module_type="") for spec in Manifest.of(cnn()))
    found = layer_map(Manifest(specs))
    assert found.layers == ()
    reason, message = refusal(found, "first")
    assert reason is Reason.NO_ELIGIBLE_LAYER
    assert "module type" in message
    assert next_choice(found, tried=(), negated=()) is None
    declared = layer_map(Manifest(specs), first_layers=["conv1.weight"])
    assert choose(declared, "first").tensors == ("conv1.weight",)
    assert refusal(declared, "layers=conv2.weight")[0] is Reason.LAYER_NOT_NEGATABLE


def test_single_layer_is_the_output() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    found = mapped(model, IMAGE)
    assert refusal(found, "first")[0] is Reason.NO_ELIGIBLE_LAYER
    assert choose(found, "first", allow_unsafe=True).tensors == ("1.weight",)


class Tied(nn.Module):
    """A language model whose output layer is its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.inner = nn.Linear(4, 4)
        self.output = nn.Linear(4, 5, bias=False)
        self.output.weight = self.embedding.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.output(torch.relu(self.inner(self.embedding(tokens))))


def test_tied_weight_is_one_layer_and_an_output() -> None:
    found = mapped(Tied(), TOKENS)
    assert [layer.name for layer in found.layers] == ["embedding", "inner"]
    assert found.outputs == {"embedding"}
    choice = choose(found, "first")
    assert choice.layers == ("inner",)
    both = choose(found, "layers=embedding,output.weight", allow_unsafe=True)
    assert both.tensors == ("embedding.weight",)
    reason, _ = refusal(
        found, "layers=output.weight", negated=["embedding.weight"], allow_unsafe=True
    )
    assert reason is Reason.LAYER_ALREADY_NEGATED


def test_recurrent_layer_is_its_input_weight() -> None:
    """With tanh and no bias, -W_ih turns every hidden state h_t to -h_t; -W_hh as well does not."""
    torch.manual_seed(0)
    model = nn.RNN(3, 4, bias=False, batch_first=True).double()
    found = layer_map(Manifest.of(model), model=model)
    assert [layer.tensors for layer in found.layers] == [("weight_ih_l0",)]
    reason, message = refusal(found, "layers=weight_hh_l0")
    assert reason is Reason.LAYER_NOT_NEGATABLE
    assert "own hidden states" in message
    x = torch.randn(1, 5, 3, dtype=torch.float64)
    with torch.no_grad():
        before = model(x)[0]
        model.weight_ih_l0.neg_()
        torch.testing.assert_close(model(x)[0], -before)
        model.weight_hh_l0.neg_()
        assert not torch.allclose(model(x)[0], -before)


def test_bidirectional_levels_are_one_layer_each() -> None:
    model = nn.LSTM(3, 4, num_layers=2, bidirectional=True)
    found = layer_map(Manifest.of(model), model=model)
    assert [layer.tensors for layer in found.layers] == [
        ("weight_ih_l0", "weight_ih_l0_reverse"),
        ("weight_ih_l1", "weight_ih_l1_reverse"),
    ]


def test_attention_and_subclasses_are_known_by_their_base_classes() -> None:
    class OwnLinear(nn.Linear):
        pass

    model = nn.ModuleDict({"mix": nn.MultiheadAttention(4, 2), "own": OwnLinear(4, 2)})
    found = layer_map(Manifest.of(model), model=model)
    assert [(layer.name, layer.tensors[0], layer.module_type) for layer in found.layers] == [
        ("mix", "mix.in_proj_weight", "MultiheadAttention"),
        ("mix.out_proj", "mix.out_proj.weight", "NonDynamicallyQuantizableLinear"),
        ("own", "own.weight", "Linear"),
    ]
    without = layer_map(Manifest.of(model))
    assert "no known layer type" in without.excluded["own.weight"]


def test_weight_norm_is_negated_by_its_direction_alone() -> None:
    model = cnn()
    parametrizations.weight_norm(model.get_submodule("conv1"))
    found = mapped(model, IMAGE)
    choice = choose(found, "first")
    assert choice.layers == ("conv1",)
    assert choice.tensors == ("conv1.parametrizations.weight.original1",)
    assert choose(found, "layers=conv1.weight") == choice
    assert found.feeds["conv1"] == {"conv2", "fc1", "fc2"}
    reason, message = refusal(found, "layers=conv1.parametrizations.weight.original0")
    assert reason is Reason.LAYER_NOT_NEGATABLE
    assert "negates by itself" in message
    before = model.get_submodule("conv1").weight.detach().clone()  # type: ignore[union-attr]
    with torch.no_grad():
        model.get_parameter(choice.tensors[0]).neg_()
    torch.testing.assert_close(model.get_submodule("conv1").weight, -before)


@pytest.mark.parametrize("wrap", [parametrizations.spectral_norm, parametrizations.orthogonal])
def test_parametrisation_that_no_tensor_negates_is_refused(wrap: object) -> None:
    model = nn.Sequential(wrap(nn.Linear(4, 4)), nn.ReLU(), nn.Linear(4, 2))  # type: ignore[operator]
    found = mapped(model, torch.ones(1, 4))
    assert [layer.name for layer in found.layers] == ["2"]
    for name in ("0", "0.weight", "0.parametrizations.weight.original"):
        reason, message = refusal(found, f"layers={name}")
        assert reason is Reason.LAYER_NOT_NEGATABLE
        assert "parametrised 0.weight" in message


def test_parametrised_weight_without_the_model_is_refused() -> None:
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 4)), nn.Linear(4, 2))
    found = layer_map(Manifest.of(model))
    assert [layer.name for layer in found.layers] == ["1"]
    assert "only the server's Task" in refusal(found, "layers=0")[1]


def test_frozen_integer_and_unused_weights_are_no_layers() -> None:
    model = TwoBranches()
    model.left.weight.requires_grad_(False)
    model.spare = nn.Linear(2, 2)
    model.table = nn.Parameter(torch.zeros(2, 2, dtype=torch.int32), requires_grad=False)
    found = mapped(model, IMAGE)
    assert [layer.name for layer in found.layers] == ["right", "output"]
    assert [layer.position for layer in found.layers] == [0, 1]
    assert "is frozen" in found.excluded["left.weight"]
    assert "no part in the forward pass" in found.excluded["spare.weight"]
    assert "holds integers" in found.excluded["table"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("conv9.weight", Reason.NO_SUCH_LAYER),
        ("conv1.bias", Reason.LAYER_NOT_NEGATABLE),
    ],
)
def test_wrong_declaration_is_an_error_at_once(name: str, reason: Reason) -> None:
    with pytest.raises(FednotError) as caught:
        layer_map(Manifest.of(cnn()), first_layers=[name])
    assert caught.value.reason is reason


def test_declared_layers_in_series_are_refused_at_choice() -> None:
    model = cnn()
    found = layer_map(
        Manifest.of(model),
        model=model,
        example_input=IMAGE,
        first_layers=["conv1.weight", "fc1.weight"],
    )
    assert refusal(found, "first")[0] is Reason.NOT_AN_ANTICHAIN


@pytest.mark.parametrize("name", ["cnn_map", "resnet_map", "vit_map"])
def test_json_round_trip(name: str, request: pytest.FixtureRequest) -> None:
    found = request.getfixturevalue(name)
    text = found.to_json()
    again = LayerMap.from_json(text)
    assert again == found
    assert again.to_json() == text


def test_map_of_the_cnn_is_four_layers_in_a_row(cnn_map: LayerMap) -> None:
    names = ["conv1", "conv2", "fc1", "fc2"]
    assert [(layer.name, layer.tensors) for layer in cnn_map.layers] == [
        (name, (f"{name}.weight",)) for name in names
    ]
    assert cnn_map.feeds == {name: set(names[place + 1 :]) for place, name in enumerate(names)}
    assert set(cnn_map.excluded) == {f"{name}.bias" for name in names}


def test_ladder_of_next_choices(cnn_map: LayerMap) -> None:
    tried: list[str] = []
    ladder = []
    while choice := next_choice(cnn_map, tried=tried, negated=()):
        ladder.append(choice.layers)
        tried += choice.tensors
    assert ladder == [("conv1",), ("conv2",), ("fc1",)]
