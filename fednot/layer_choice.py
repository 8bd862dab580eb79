"""The choice of layers to negate, from a selector and what the lineage has negated before.

Negation undoes itself: a layer that is negated twice in a lineage restores what the first negation
took out, so `choose` never gives one twice, whatever the caller allows.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from fednot.errors import FednotError, Reason
from fednot.layer_map import Layer, LayerMap

_LISTED: Final = 12
_SELECTORS: Final = "first, layers=NAME,..., index=N,..., all-but-last, last or all"
KINDS: Final = ("first", "layers", "index", "all-but-last", "last", "all")
"""What stands before a selector's =, or alone."""


@dataclass(frozen=True)
class Choice:
    """The layers to negate and their tensors (manifest names), with what the receipt must say."""

    layers: tuple[str, ...]
    tensors: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def choose(
    layer_map: LayerMap,
    selector: str,
    *,
    negated: Collection[str] = (),
    allow_unsafe: bool = False,
) -> Choice:
    """Chooses the layers that a selector names.

    Selectors: `first` (or nothing): the default choice; `layers=NAME,...`: layers by their own name
    or a tensor's; `index=N,...`: places in `layer_map.layers`, negative ones from the end;
    `all-but-last`: all but the output layers; `last`: the output layers; `all`: every layer.
    `negated` are the tensors that the lineage has negated; `first`, `all-but-last` and `all` pass
    over them with a warning. `allow_unsafe` lifts the antichain and the output rule, with a warning
    each, and nothing else; without it `last` and `all` are refused.

    Raises FednotError: INVALID_SELECTOR, NO_SUCH_LAYER, LAYER_NOT_NEGATABLE, LAYER_ALREADY_NEGATED,
    OUTPUT_LAYER, NOT_AN_ANTICHAIN, NO_ELIGIBLE_LAYER. Source of the rules: Khalil et al., CVPR
    2025, Theorem 4, and the measurements in DESIGN section 2.
    """
    if not layer_map.layers:
        raise FednotError(Reason.NO_ELIGIBLE_LAYER, _no_layers(layer_map))
    done = layer_map.holding(negated)
    kind, _, value = selector.strip().partition("=")
    if kind.strip() in ("", "first") and "=" not in selector:
        return _first(layer_map, done, allow_unsafe)
    if kind.strip() == "all-but-last" and "=" not in selector:
        return _all_but_last(layer_map, done)
    if kind.strip() == "last" and "=" not in selector:
        return _explicit(layer_map, _outputs(layer_map), done, allow_unsafe)
    if kind.strip() == "all" and "=" not in selector:
        return _all(layer_map, done, allow_unsafe)
    if kind.strip() == "layers":
        layers = [_by_name(layer_map, name) for name in _items(selector, value)]
    elif kind.strip() == "index":
        layers = [_by_index(layer_map, item, selector) for item in _items(selector, value)]
    else:
        raise _invalid(selector, f"use {_SELECTORS}")
    return _explicit(layer_map, layers, done, allow_unsafe)


def next_choice(
    layer_map: LayerMap, *, tried: Collection[str], negated: Collection[str]
) -> Choice | None:
    """The next single layer to try, or None when none is left.

    It is no output layer, its lineage has not negated it, and none of its tensors is in `tried`
    (what the same job's earlier attempts negated). Layers come in registration order, but those
    directly behind one that the lineage has negated come last: two negations in series cancel in
    part, which killed the model or brought the first deletion's backdoor back
    (docs/decisions/0006). Source: DESIGN section 2, point 4.
    """
    done, barred = layer_map.holding(negated), layer_map.holding(tried)
    left = [layer for layer in _in_turn(layer_map, done) if layer.name not in barred]
    return _choice(layer_map, left[:1]) if left else None


def _first(layer_map: LayerMap, done: frozenset[str], allow_unsafe: bool) -> Choice:
    names = layer_map.holding(layer_map.first)
    layers = [layer for layer in layer_map.layers if layer.name in names]
    why = ""
    if again := [layer.name for layer in layers if layer.name in done]:
        why = f"{_listed(again)} was negated before in this lineage"
    elif not allow_unsafe and (last := [n.name for n in layers if n.name in layer_map.outputs]):
        why = f"{_listed(last)} is an output layer"
    if not why:
        return _explicit(layer_map, layers, done, allow_unsafe)
    left = _in_turn(layer_map, done)
    if not left:
        raise FednotError(
            Reason.NO_ELIGIBLE_LAYER,
            f"No layer is left to negate: {why}, and of {_listed(_shown(layer_map.layers))} every"
            " other layer is an output layer or was negated before; ask for the method retrain.",
        )
    warning = f"The first layer cannot be taken: {why}; {left[0].name} was taken instead."
    return _choice(layer_map, left[:1], warning)


def _all_but_last(layer_map: LayerMap, done: frozenset[str]) -> Choice:
    layers = _eligible(layer_map, done)
    if not layers:
        raise FednotError(
            Reason.NO_ELIGIBLE_LAYER,
            f"No layer is left to negate: each of {_listed(_shown(layer_map.layers))} is an output"
            " layer or was negated before in this lineage.",
        )
    warnings = _series_warning(layer_map, layers)
    if done:
        warnings += [_left_out(done)]
    return _choice(layer_map, layers, *warnings)


def _outputs(layer_map: LayerMap) -> list[Layer]:
    layers = [layer for layer in layer_map.layers if layer.name in layer_map.outputs]
    if not layers:
        raise FednotError(
            Reason.NO_ELIGIBLE_LAYER,
            "No output layer is known to be one of the layers that may be negated:"
            f" {_listed(_shown(layer_map.layers))}; name the layers that you mean.",
        )
    return layers


def _all(layer_map: LayerMap, done: frozenset[str], allow_unsafe: bool) -> Choice:
    layers = [layer for layer in layer_map.layers if layer.name not in done]
    if not layers:
        raise FednotError(
            Reason.NO_ELIGIBLE_LAYER,
            f"No layer is left to negate: each of {_listed(_shown(layer_map.layers))} was negated"
            " before in this lineage.",
        )
    found = _explicit(layer_map, layers, done, allow_unsafe)
    return replace(found, warnings=(*found.warnings, _left_out(done))) if done else found


def _left_out(done: frozenset[str]) -> str:
    return f"Left out, since this lineage has negated them before: {_listed(done)}."


def _explicit(
    layer_map: LayerMap, layers: Iterable[Layer], done: frozenset[str], allow_unsafe: bool
) -> Choice:
    chosen = sorted(set(layers), key=lambda layer: layer.position)
    if again := [layer.name for layer in chosen if layer.name in done]:
        left = _listed(_shown(_eligible(layer_map, done))) or "none; ask for the method retrain"
        raise FednotError(
            Reason.LAYER_ALREADY_NEGATED,
            f"{_listed(again)} was negated before in this lineage; negating it again restores what"
            f" was forgotten then. Eligible: {left}.",
        )
    warnings = []
    if last := [layer.name for layer in chosen if layer.name in layer_map.outputs]:
        warnings.append(f"The choice holds the output layer {_listed(last)}.")
    if last and not allow_unsafe:
        left = _listed(_shown(_eligible(layer_map, done))) or "none"
        raise FednotError(
            Reason.OUTPUT_LAYER,
            f"{_listed(last)} is an output layer, which NoT never negates; leave it out or allow"
            f" unsafe layers. Eligible: {left}.",
        )
    series = _series_warning(layer_map, chosen)
    if series and not allow_unsafe:
        raise FednotError(Reason.NOT_AN_ANTICHAIN, _not_an_antichain(layer_map, chosen))
    return _choice(layer_map, chosen, *warnings, *series)


def _choice(layer_map: LayerMap, layers: Sequence[Layer], *warnings: str) -> Choice:
    return Choice(
        layers=_names(layers),
        tensors=tuple(tensor for layer in layers for tensor in layer.tensors),
        warnings=tuple(filter(None, (*warnings, layer_map.warning))),
    )


def _eligible(layer_map: LayerMap, done: frozenset[str]) -> list[Layer]:
    barred = done | layer_map.outputs
    return [layer for layer in layer_map.layers if layer.name not in barred]


def _in_turn(layer_map: LayerMap, done: frozenset[str]) -> list[Layer]:
    behind = frozenset().union(*(layer_map.directly_behind(name) for name in done))
    return sorted(_eligible(layer_map, done), key=lambda layer: layer.name in behind)


def _by_name(layer_map: LayerMap, name: str) -> Layer:
    if layer := layer_map.find(name):
        return layer
    held = [layer.name for layer in layer_map.layers if _within(name, layer)]
    if held:
        raise FednotError(
            Reason.NO_SUCH_LAYER,
            f"{name} is a module that holds the layers {_listed(held)}; name those that you mean.",
        )
    tensor = layer_map.synonyms.get(name, name)
    whys = {
        other: why
        for other, why in layer_map.excluded.items()
        if other == tensor or other.startswith(f"{name}.")
    }
    if whys:
        reasons = "; ".join(f"{other} {why}" for other, why in list(whys.items())[:_LISTED])
        raise FednotError(
            Reason.LAYER_NOT_NEGATABLE,
            f"{name} cannot be negated: {reasons}. Layers: {_listed(_shown(layer_map.layers))}.",
        )
    raise FednotError(Reason.NO_SUCH_LAYER, _no_such(layer_map, name))


def _within(module: str, layer: Layer) -> bool:
    return any(name.startswith(f"{module}.") for name in (layer.name, *layer.tensors))


def _by_index(layer_map: LayerMap, item: str, selector: str) -> Layer:
    if not re.fullmatch(r"-?[0-9]{1,9}", item):
        raise _invalid(selector, f"{item!r} is no whole number")
    index, count = int(item), len(layer_map.layers)
    if not -count <= index < count:
        raise FednotError(
            Reason.NO_SUCH_LAYER,
            f"There is no layer {index}; the model has {count}, from 0 to {count - 1}:"
            f" {_listed(_shown(layer_map.layers))}.",
        )
    return layer_map.layers[index]


def _items(selector: str, value: str) -> list[str]:
    items = [item.strip() for item in value.split(",")]
    if not all(items):
        raise _invalid(selector, f"a name or number is missing; use {_SELECTORS}")
    return items


def _invalid(selector: str, why: str) -> FednotError:
    return FednotError(Reason.INVALID_SELECTOR, f"The selector {selector[:200]!r}: {why}.")


def _no_such(layer_map: LayerMap, name: str) -> str:
    known = [*_names(layer_map.layers), *(t for n in layer_map.layers for t in n.tensors)]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return f"There is no layer {name}{hint}; layers: {_listed(_shown(layer_map.layers))}."


def _no_layers(layer_map: LayerMap) -> str:
    whys = "; ".join(f"{name} {why}" for name, why in list(layer_map.excluded.items())[:3])
    more = f" {layer_map.warning}" if layer_map.warning else ""
    return f"The model has no layer that may be negated. {whys or 'It has no tensors'}.{more}"


def _series_warning(layer_map: LayerMap, layers: Sequence[Layer]) -> list[str]:
    pairs = layer_map.in_series(_names(layers))
    if not pairs:
        return []
    shown = _listed([f"{one} feeds {other}" for one, other in pairs], 4)
    return [f"The choice is no antichain ({shown}), so negations can cancel each other."]


def _not_an_antichain(layer_map: LayerMap, layers: Sequence[Layer]) -> str:
    pairs = layer_map.in_series(_names(layers))
    shown = _listed([f"{one} feeds {other}" for one, other in pairs], 4)
    tensors = _listed([tensor for layer in layers for tensor in layer.tensors])
    message = (
        f"{tensors} are no antichain: {shown}, and two negations in series can cancel. Choose"
        " layers of which none feeds another, or allow unsafe layers."
    )
    return message if layer_map.traced else f"{message} {layer_map.warning}"


def _names(layers: Iterable[Layer]) -> tuple[str, ...]:
    return tuple(layer.name for layer in layers)


def _shown(layers: Iterable[Layer]) -> list[str]:
    return [f"{layer.name} ({', '.join(layer.tensors)})" for layer in layers]


def _listed(names: Iterable[str], limit: int = _LISTED) -> str:
    ordered = sorted(names) if isinstance(names, frozenset) else list(names)
    more = f" and {len(ordered) - limit} more" if len(ordered) > limit else ""
    return ", ".join(ordered[:limit]) + more
