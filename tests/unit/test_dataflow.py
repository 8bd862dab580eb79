"""The order of layers that a traced graph gives, on models whose order is plain to see."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from fednot.dataflow import DataFlow, TraceError, trace


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def flow(model: nn.Module, example: torch.Tensor | None = None) -> DataFlow:
    """Traces with each matrix, the bare parameters too, as a layer named by its tensor."""
    parameters = model.named_parameters(remove_duplicate=False)
    canonical: dict[int, str] = {}
    layer_of = {n: canonical.setdefault(id(p), n) for n, p in parameters if p.dim() > 1}
    return trace(model, torch.ones(1, 4) if example is None else example, layer_of)


class Layers(nn.Module):
    """Linear layers a, b, c, d of 4 by 4; the subclasses wire them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(4, 4) for _ in range(4))


class Residual(Layers):
    """a, then b beside the identity, then c; d is not used."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.a(x)
        return self.c(x + torch.relu(self.b(x)))


class InPlace(Layers):
    """b is written into a part of a's output through a view, and a's name is read on."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.a(x).reshape(2, 2)
        y[0] = self.b(x).reshape(2, 2)[1]
        return self.c(y.reshape(1, 4))


class Branches(Layers):
    """a and b side by side, joined by cat, then c and d on halves: two outputs."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        both = torch.cat([self.a(x), self.b(x)])
        return self.c(both[:1]) + self.d(both[1:])


class Positional(nn.Module):
    """A projection plus a bare parameter, scaled by another one, then a head."""

    def __init__(self) -> None:
        super().__init__()
        self.pos = nn.Parameter(torch.randn(1, 4))
        self.scale = nn.Parameter(torch.randn(1, 4))
        self.a = nn.Linear(4, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head((self.a(x) + self.pos[:, :4]) * self.scale)


class Tied(nn.Module):
    """A language model whose output layer is its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.a = nn.Linear(4, 4)
        self.output = nn.Linear(4, 5, bias=False)
        self.output.weight = self.embedding.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.output(torch.relu(self.a(self.embedding(tokens))))


class LowRank(nn.Module):
    """One map from two factors: their product is a weight, and they stand in series."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Parameter(torch.randn(4, 2))
        self.right = nn.Parameter(torch.randn(2, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.left @ self.right)


class Branching(Layers):
    """Takes b only if the data says so."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.a(x)
        return self.b(y) if y.sum() > 0 else self.c(y)


def names(*layers: str) -> frozenset[str]:
    return frozenset(f"{layer}.weight" for layer in layers)


def test_residual_connection_keeps_the_series() -> None:
    found = flow(Residual())
    assert found.feeds == {
        "a.weight": names("b", "c"),
        "b.weight": names("c"),
        "c.weight": frozenset(),
    }
    assert found.entries == names("a")
    assert found.exits == names("c")
    assert found.used == names("a", "b", "c")


def test_branches_do_not_feed_each_other_and_cat_mixes_them() -> None:
    found = flow(Branches())
    assert found.feeds["a.weight"] == found.feeds["b.weight"] == names("c", "d")
    assert found.entries == names("a", "b")
    assert found.exits == names("c", "d")


def test_write_through_a_view_is_seen() -> None:
    found = flow(InPlace())
    assert found.feeds["a.weight"] == names("c")
    assert found.feeds["b.weight"] == names("c")


def test_added_parameter_is_a_source_but_a_factor_is_fed() -> None:
    found = flow(Positional())
    assert found.feeds["pos"] == found.feeds["a.weight"] == frozenset({"scale", "head.weight"})
    assert found.feeds["scale"] == names("head")
    assert found.entries == {"pos", "a.weight"}


def test_tied_weight_is_both_entry_and_exit() -> None:
    found = flow(Tied(), torch.ones(1, 3, dtype=torch.long))
    assert found.feeds == {
        "embedding.weight": names("a"),
        "a.weight": names("embedding"),
    }
    assert found.entries == names("embedding")
    assert found.exits == names("embedding")


def test_factors_of_one_weight_stand_in_series() -> None:
    found = flow(LowRank())
    assert found.feeds["left"] == {"right"}
    assert found.exits == {"left", "right"}


def test_sub_graph_without_gradients_is_looked_into() -> None:
    class NoGrad(Layers):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                left, right = self.a(x), self.b(x)
            return self.c(left + right)

    assert flow(NoGrad()).feeds == {
        "a.weight": names("c"),
        "b.weight": names("c"),
        "c.weight": frozenset(),
    }


def test_levels_of_a_recurrent_network_stand_in_series_and_directions_side_by_side() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = nn.GRU(4, 3, num_layers=2, bidirectional=True, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.gru(x)[0]

    layer_of = {
        f"gru.weight_ih_l{level}{side}": f"level{level}"
        for level in (0, 1)
        for side in ("", "_reverse")
    }
    found = trace(Recurrent(), torch.ones(1, 2, 4), layer_of)
    assert found.feeds == {"level0": frozenset({"level1"}), "level1": frozenset()}


def test_attention_orders_its_projections() -> None:
    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.attention(x, x, x, need_weights=False)[0]

    found = flow(Attending(), torch.ones(1, 3, 4))
    assert found.feeds["attention.in_proj_weight"] == names("attention.out_proj")
    assert found.exits == names("attention.out_proj")


def test_trace_leaves_the_model_as_it_is() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        flow(model)
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(before[n], tensor) for n, tensor in model.state_dict().items())


def test_control_flow_on_data_is_a_trace_error(capfd: pytest.CaptureFixture[str]) -> None:
    """Whatever torch's logging was told before, as by a library that began it."""
    shapes = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    handler = logging.StreamHandler(sys.stderr)
    shapes.addHandler(handler)
    try:
        _assert_a_quiet_trace_error(capfd)
    finally:
        shapes.removeHandler(handler)


def _assert_a_quiet_trace_error(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(TraceError, match="data-dependent") as caught:
        flow(Branching())
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_input_that_does_not_fit_is_a_trace_error() -> None:
    with pytest.raises(TraceError):
        flow(Residual(), torch.ones(1, 5))
