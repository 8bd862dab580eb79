"""The layers that NoT may negate: how they are found, how they stand, and how a set is chosen.

The rules are those of the paper (Khalil et al., CVPR 2025): only weight tensors; the first layer by
default; a set must be an antichain of the model's graph and must not hold the output layer
(Theorem 4). `layer_map` finds the layers, `choose` and `next_choice` take from them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from fednot.dataflow import DataFlow, TraceError, trace
from fednot.errors import FednotError, Reason
from fednot.layer_choice import Choice, choose, next_choice
from fednot.layer_kinds import Kinds, Member, tell_apart
from fednot.layer_map import Layer, LayerMap, LayerMapError
from fednot.manifest import Manifest

__all__ = [
    "Choice",
    "Layer",
    "LayerMap",
    "LayerMapError",
    "choose",
    "layer_map",
    "next_choice",
]


def layer_map(
    manifest: Manifest,
    *,
    model: nn.Module | None = None,
    example_input: torch.Tensor | None = None,
    first_layers: Sequence[str] | None = None,
) -> LayerMap:
    """Finds a model's layers and their order.

    `model` and `example_input` (shape [1, ...], or what the model takes) let torch.export trace the
    graph; without them, or if that fails, the registration order stands in for it and the map's
    `warning` says why. `first_layers` are the state-dict names that the Task declares, bare
    parameters among them.

    Raises FednotError with NO_SUCH_LAYER if a declared name is no tensor of the model, and with
    LAYER_NOT_NEGATABLE if it is one that is never negated.
    """
    declared = tuple(first_layers or ())
    kinds = tell_apart(manifest, model, frozenset(_tensor_names(manifest, declared)))
    layers = _layers(kinds.members)
    flow, warning = _traced(model, example_input, layers, kinds)
    if flow is not None:
        layers, kinds = _only_used(layers, kinds, flow)
    first = _declared(declared, layers, kinds)
    order = _Order.traced(layers, flow) if flow else _Order.registered(layers, first)
    return LayerMap(
        layers=layers,
        first=first or order.first_tensors(layers),
        feeds=order.feeds,
        outputs=order.outputs,
        traced=flow is not None,
        warning=" ".join(filter(None, [warning, _no_types(manifest)])),
        excluded=kinds.excluded,
        synonyms=kinds.synonyms,
    )


@dataclass(frozen=True)
class _Order:
    feeds: Mapping[str, frozenset[str]]
    entries: frozenset[str]
    outputs: frozenset[str]

    @classmethod
    def traced(cls, layers: Sequence[Layer], flow: DataFlow) -> _Order:
        feeds = {layer.name: flow.feeds[layer.name] for layer in layers}
        return cls(feeds, flow.entries, flow.exits)

    @classmethod
    def registered(cls, layers: Sequence[Layer], first: tuple[str, ...]) -> _Order:
        """Each layer feeds all later ones; the last is the output.

        The Task is believed that the first layers which it declares stand side by side, and that
        none of them is the output.
        """
        names = [layer.name for layer in layers]
        side_by_side = {layer.name for layer in layers if set(layer.tensors) & set(first)}
        feeds = {
            name: frozenset(names[place + 1 :])
            - (side_by_side if name in side_by_side else frozenset())
            for place, name in enumerate(names)
        }
        return cls(feeds, frozenset(names[:1]), frozenset(names[-1:]) - side_by_side)

    def first_tensors(self, layers: Sequence[Layer]) -> tuple[str, ...]:
        """The default choice: the first entry in registration order that is no output."""
        entries = [layer for layer in layers if layer.name in self.entries]
        fitting = [layer for layer in entries if layer.name not in self.outputs]
        return next((layer.tensors for layer in fitting or entries), ())


def _layers(members: Sequence[Member]) -> tuple[Layer, ...]:
    groups: dict[tuple[str, str], list[Member]] = {}
    for member in members:
        groups.setdefault((member.module, member.level), []).append(member)
    modules = [module for module, level in groups]
    layers = []
    for position, ((module, level), group) in enumerate(groups.items()):
        tensors = tuple(member.tensor for member in group)
        alone = module and modules.count(module) == 1 and level not in tensors
        name = module if alone else tensors[0]
        layers.append(Layer(name, tensors, group[0].module_type, position))
    return tuple(layers)


def _traced(
    model: nn.Module | None,
    example_input: torch.Tensor | None,
    layers: Sequence[Layer],
    kinds: Kinds,
) -> tuple[DataFlow | None, str]:
    fallback = "The layers stand in registration order, each taken to feed all later ones"
    if model is None:
        return None, f"{fallback}: no Task was given, so the model's graph is not known."
    if example_input is None:
        return None, f"{fallback}: the Task gives no example input to trace the model with."
    layer_of = {tensor: layer.name for layer in layers for tensor in layer.tensors}
    layer_of |= {s: layer_of[t] for s, t in kinds.synonyms.items() if t in layer_of}
    try:
        return trace(model, example_input, layer_of), ""
    except TraceError as error:
        return None, f"{fallback}: torch.export could not trace the model ({error})."


def _only_used(
    layers: Sequence[Layer], kinds: Kinds, flow: DataFlow
) -> tuple[tuple[Layer, ...], Kinds]:
    used = [layer for layer in layers if layer.name in flow.used]
    renumbered = (
        Layer(layer.name, layer.tensors, layer.module_type, place)
        for place, layer in enumerate(used)
    )
    unused = {
        tensor: "has no part in the forward pass, so negating it would change nothing"
        for layer in layers
        if layer.name not in flow.used
        for tensor in layer.tensors
    }
    return tuple(renumbered), Kinds(kinds.members, {**kinds.excluded, **unused}, kinds.synonyms)


def _tensor_names(manifest: Manifest, declared: Sequence[str]) -> list[str]:
    aliases = {alias: spec.name for spec in manifest for alias in spec.aliases}
    return [aliases.get(name, name) for name in declared]


def _declared(declared: Sequence[str], layers: Sequence[Layer], kinds: Kinds) -> tuple[str, ...]:
    """The tensors of the declared layers, each layer whole."""
    layer_of = {tensor: layer for layer in layers for tensor in layer.tensors}
    tensors: dict[str, None] = {}
    for name in declared:
        tensor = kinds.synonyms.get(name, name)
        if tensor in kinds.excluded:
            raise FednotError(
                Reason.LAYER_NOT_NEGATABLE,
                f"first_layers names {name}, which {kinds.excluded[tensor]}. Declare other"
                " first_layers in the Task, or return None to have them derived.",
            )
        if tensor not in layer_of:
            raise FednotError(
                Reason.NO_SUCH_LAYER,
                f"first_layers names {name}, which is no tensor of the model; its layers hold"
                f" {', '.join(layer_of) or 'none'}.",
            )
        tensors.update(dict.fromkeys(layer_of[tensor].tensors))
    return tuple(tensors)


def _no_types(manifest: Manifest) -> str:
    if any(spec.module_type for spec in manifest):
        return ""
    return (
        "The model file names no module types, so only declared layers are known; give the server"
        " the Task (--task), or make the file with `fednot model init`."
    )
