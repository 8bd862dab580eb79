"""Which layer feeds which, read off the model's graph as torch.export traces it.

A layer A feeds a layer B if B acts on activations that depend on A's weight. Two layers of which
one feeds the other stand in series, and negating both can cancel; NoT therefore wants an antichain
of this order without its maximal element (Khalil et al., CVPR 2025, Theorem 4).

A weight acts where it meets another value in a product: a convolution, a linear map, an embedding,
or any operation that is not known better. Where it is only added or joined to activations, as a
positional embedding is, it acts on nothing: it is a source, side by side with what made them.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import fx, nn
from torch.export import ExportedProgram, export

_JOINS: Final = frozenset(
    f"aten::{name}"
    for name in (
        *("add", "sub", "rsub", "cat", "stack", "where", "copy", "lerp"),
        *("select_scatter", "slice_scatter", "index_put", "index_add", "scatter", "scatter_add"),
    )
)


class TraceError(ValueError):
    """torch.export could not trace the model; the message says why in one line."""


@dataclass(frozen=True)
class DataFlow:
    """The order of the layers that a forward pass uses.

    `feeds`: for each used layer, the layers downstream of it. `entries`: layers that somewhere act
    on no other layer's output. `exits`: layers whose effect somewhere reaches no other layer. A
    tied weight may be both an entry and an exit.
    """

    feeds: Mapping[str, frozenset[str]]
    entries: frozenset[str]
    exits: frozenset[str]

    @property
    def used(self) -> frozenset[str]:
        """The layers that act at all."""
        return frozenset(self.feeds)


def trace(model: nn.Module, example_input: torch.Tensor, layer_of: Mapping[str, str]) -> DataFlow:
    """Traces a copy of the model, in evaluation mode on the CPU.

    `layer_of` gives the layer's name for each state-dict name (tied names included) of a layer's
    tensors; other tensors do not count. The model is left as it is, and the process's warnings and
    stderr are silenced meanwhile, since torch.export prints graphs there. Raises TraceError if it
    fails, for example on control flow that depends on the data.
    """
    program = _exported(model, example_input)
    parameters = program.graph_signature.inputs_to_parameters
    layers = {node: layer_of[name] for node, name in parameters.items() if name in layer_of}
    inputs = set(program.graph_signature.user_inputs)
    return _flow(program.graph, layers, inputs)


def _exported(model: nn.Module, example_input: torch.Tensor) -> ExportedProgram:
    # run_decompositions({}) keeps the operations and makes the graph functional: no in-place
    # writes through views, no sub-graphs for torch.no_grad().
    try:
        with _quiet(), torch.enable_grad():
            frozen = copy.deepcopy(model).cpu().eval()
            inputs = (example_input.detach().cpu(),)
            program: ExportedProgram = export(frozen, inputs, strict=False)
            functional: ExportedProgram = program.run_decompositions({})
            return functional
    except Exception as error:
        # User code runs here, and torch.export raises whatever it likes.
        first_line = (str(error).strip().splitlines() or ["no message"])[0]
        raise TraceError(f"{type(error).__name__}: {first_line}") from error


_SHAPES_LOG: Final = logging.getLogger("torch.fx.experimental.symbolic_shapes")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        # Its handler writes to the stderr that there was when torch's logging began.
        level = _SHAPES_LOG.level
        _SHAPES_LOG.setLevel(logging.ERROR)
        try:
            yield
        finally:
            _SHAPES_LOG.setLevel(level)


@dataclass
class _Walk:
    """What is known of each node: the layers in its value, and whether the input is in it."""

    depends: dict[fx.Node, frozenset[str]] = field(default_factory=dict)
    active: set[fx.Node] = field(default_factory=set)
    uses: list[_Use] = field(default_factory=list)
    acted_on: dict[fx.Node, set[str]] = field(default_factory=lambda: defaultdict(set))


@dataclass(frozen=True)
class _Use:
    layer: str
    node: fx.Node
    upstream: frozenset[str]


def _flow(graph: fx.Graph, layers: Mapping[str, str], inputs: set[str]) -> DataFlow:
    graph.eliminate_dead_code()
    walk = _Walk()
    for node in graph.nodes:
        _visit(node, walk, layers, inputs)
    downstream = _downstream(graph, walk)
    feeds: dict[str, set[str]] = {use.layer: set() for use in walk.uses}
    for use in walk.uses:
        for layer in use.upstream:
            feeds.setdefault(layer, set()).add(use.layer)
    return DataFlow(
        feeds={layer: frozenset(fed) for layer, fed in feeds.items()},
        entries=frozenset(use.layer for use in walk.uses if not use.upstream),
        exits=frozenset(u.layer for u in walk.uses if not downstream[u.node] - {u.layer}),
    )


def _visit(node: fx.Node, walk: _Walk, layers: Mapping[str, str], inputs: set[str]) -> None:
    arguments = node.all_input_nodes
    depends = frozenset().union(*(walk.depends[a] for a in arguments))
    if node.op == "placeholder" and node.name in layers:
        depends = frozenset({layers[node.name]})
    walk.depends[node] = depends
    if node.name in inputs or any(a in walk.active for a in arguments):
        walk.active.add(node)
    if node.op == "call_function":
        for index, argument in enumerate(arguments):
            if argument not in walk.active:
                _use(node, index, walk)


def _use(node: fx.Node, index: int, walk: _Walk) -> None:
    """Records that the layers in a weight argument act on the node's other arguments.

    Activations feed the weight. Of two weights, the earlier argument feeds the later: the input of
    a linear map, or the levels of a recurrent network, which share one operation.
    """
    weight = node.all_input_nodes[index]
    others: list[fx.Node] = []
    if not _joins(node):
        others = [
            other
            for place, other in enumerate(node.all_input_nodes)
            if other is not weight and (other in walk.active or place < index)
        ]
    upstream = frozenset().union(*(walk.depends[other] for other in others))
    if not upstream and node not in walk.active:
        return
    for layer in walk.depends[weight]:
        walk.uses.append(_Use(layer, node, upstream - {layer}))
        for other in others:
            walk.acted_on[other].add(layer)


def _joins(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.name in _JOINS


def _downstream(graph: fx.Graph, walk: _Walk) -> dict[fx.Node, set[str]]:
    """For each node, the layers that act on its value or on what becomes of it."""
    found: dict[fx.Node, set[str]] = {}
    for node in reversed(graph.nodes):
        found[node] = set(walk.acted_on.get(node, ()))
        for user in node.users:
            found[node] |= found[user]
    return found
