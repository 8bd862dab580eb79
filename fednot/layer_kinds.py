"""Which of a model's tensors are layers, and why each other tensor is none.

A module's type decides, never the string of a name: a `Linear` has one weight that may be negated,
a `BatchNorm2d` has none. With the module at hand its base classes count too; without it only the
type's own name, which the manifest carries.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from torch import nn

from fednot.manifest import Manifest, TensorKind, TensorSpec
from fednot.parametrised import Parametrised, parametrised_weights

_RECURRENT: Final = r"weight_ih_l(\d+)(?:_reverse)?"
_WEIGHTS: Final[dict[str, re.Pattern[str]]] = {
    type_name: re.compile(pattern)
    for type_names, pattern in (
        ("Linear NonDynamicallyQuantizableLinear Bilinear", "weight"),
        ("Conv1d Conv2d Conv3d ConvTranspose1d ConvTranspose2d ConvTranspose3d", "weight"),
        ("Embedding EmbeddingBag", "weight"),
        ("MultiheadAttention", "in_proj_weight|[qkv]_proj_weight"),
        ("RNN LSTM GRU", _RECURRENT),
        ("RNNCell LSTMCell GRUCell", "weight_ih"),
    )
    for type_name in type_names.split()
}
_HIDDEN_TO_HIDDEN: Final = re.compile(r"weight_h[hr](_l\d+(_reverse)?)?")


@dataclass(frozen=True)
class Member:
    """A tensor that belongs to a layer: the layer's module, its level there, the type's name.

    `level` is empty but for a level of a recurrent network and for a declared bare parameter, which
    is a layer by itself.
    """

    tensor: str
    module: str
    level: str
    module_type: str


@dataclass(frozen=True)
class Kinds:
    """Every tensor of a manifest, told apart.

    `members` stand in registration order. `excluded` says for each other tensor why it is not
    negated. `synonyms` are names that the manifest does not list itself: tied names, and the name
    of a parametrised weight (conv1.weight); each stands for a tensor that it does list.
    """

    members: tuple[Member, ...]
    excluded: Mapping[str, str]
    synonyms: Mapping[str, str]


def tell_apart(manifest: Manifest, model: nn.Module | None, declared: frozenset[str]) -> Kinds:
    """Tells layer tensors from others. `declared` names bare parameters that are layers too.

    A recurrent layer is its input-to-hidden weight alone: with an odd activation that turns the
    sign of every hidden state, whereas the hidden-to-hidden weight acts on those states and would
    turn it back (the two stand in series).
    """
    parametrised = parametrised_weights(model) if model is not None else {}
    types = _module_types(model) if model is not None else {}
    frozen = _frozen(model) if model is not None else frozenset()
    members: list[Member] = []
    excluded: dict[str, str] = {}
    synonyms = {alias: spec.name for spec in manifest for alias in spec.aliases}
    for spec in manifest:
        own = parametrised.get(spec.name)
        if own is not None:
            synonyms[own.weight] = own.negating or spec.name
        why = _never(spec, spec.name in frozen)
        found = why or _kind(spec, own, types, spec.name in declared)
        if isinstance(found, Member):
            members.append(found)
        else:
            excluded[spec.name] = found
    return Kinds(tuple(members), excluded, synonyms)


def _never(spec: TensorSpec, frozen: bool) -> str | None:
    if spec.kind is TensorKind.BUFFER:
        return "is a buffer; only learned weights are negated"
    if not spec.torch_dtype.is_floating_point:
        return "holds integers; only real weights are negated"
    if frozen:
        return "is frozen (requires_grad is False), so no client's data is in it"
    return None


def _kind(
    spec: TensorSpec,
    own: Parametrised | None,
    types: Mapping[str, tuple[str, ...]],
    declared: bool,
) -> Member | str:
    module, _, attribute = (own.weight if own else spec.name).rpartition(".")
    names = types.get(module) or ((spec.module_type,) if spec.module_type else ())
    if norm := _norm(names):
        return (
            f"belongs to a {norm}; negating a convolution and the scale of the normalisation behind"
            " it cancels out, so normalisation parameters stay"
        )
    dimensions = own.dimensions if own else len(spec.shape)
    if dimensions < 2:
        return "is a bias or another one-dimensional parameter; only weight tensors are negated"
    if own is not None and spec.name != own.negating:
        return own.refusal
    if "ParametrizationList" in names:
        return "is part of a parametrised weight, which only the server's Task (--task) can judge"
    level, type_name = _weight_of(attribute, names)
    if type_name is None and declared:
        return Member(spec.name, module, spec.name, names[0] if names else "")
    if type_name is None or level is None:
        return _unknown(attribute, names)
    return Member(spec.name, module, level, type_name)


def _weight_of(attribute: str, names: tuple[str, ...]) -> tuple[str | None, str | None]:
    for name in names:
        if name in _WEIGHTS:
            match = _WEIGHTS[name].fullmatch(attribute)
            if match is None:
                return None, None
            return (match[1] if match.re.groups else ""), name
    return None, None


def _unknown(attribute: str, names: tuple[str, ...]) -> str:
    if not names:
        return (
            "has no module type in this model file, so nothing tells what it is; give the server"
            " the Task (--task), or make the file with `fednot model init`"
        )
    known = next((name for name in names if name in _WEIGHTS), None)
    if known and _HIDDEN_TO_HIDDEN.fullmatch(attribute):
        return (
            f"acts on the {known}'s own hidden states, whose sign its weight_ih turns already;"
            " negating both cancels out"
        )
    if known:
        return f"is not the weight of a {known}, but another parameter of it"
    return f"belongs to a {names[0]}, no known layer type; the Task may declare it in first_layers"


def _norm(names: tuple[str, ...]) -> str | None:
    if any(name in _WEIGHTS for name in names):
        return None
    return next((name for name in names if "Norm" in name), None)


def _module_types(model: nn.Module) -> dict[str, tuple[str, ...]]:
    return {
        path: tuple(base.__name__ for base in _bases(module))
        for path, module in model.named_modules()
    }


def _bases(module: nn.Module) -> Iterator[type]:
    """A module's classes, without the one that torch made to parametrise it."""
    generic = {nn.Module, object}
    made = hasattr(module, "parametrizations")
    yield from (base for base in type(module).__mro__[int(made) :] if base not in generic)


def _frozen(model: nn.Module) -> frozenset[str]:
    parameters = model.named_parameters(remove_duplicate=False)
    return frozenset(name for name, p in parameters if not p.requires_grad)
