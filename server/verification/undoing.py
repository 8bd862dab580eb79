"""Which tensors the undo attack negates again. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fednot.errors import FednotError
from fednot.layer_choice import choose
from fednot.layer_map import LayerMap

RECOVERED = "recovered"


@dataclass(frozen=True)
class Undoing:
    """The sets of tensors to negate, each once, and what is to be said of them."""

    sets: tuple[tuple[str, ...], ...]
    note: str = ""


def undoing(layers: LayerMap, tensors: Sequence[str], most: int) -> Undoing:
    """All tensors that an attempt negated, then each of their layers alone, at most `most` of them.

    For an attempt that negated none, those of the default choice.
    """
    note = ""
    if not tensors:
        try:
            tensors = choose(layers, "first").tensors
        except FednotError as error:
            return Undoing((), f"No layer could be negated: {error.message}")
    named = layers.holding(tensors)
    alone = [
        tuple(t for t in layer.tensors if t in tensors)
        for layer in layers.layers
        if layer.name in named
    ]
    if len(alone) > most:
        left = ", ".join(t for one in alone[most:] for t in one)
        note = f"Not negated alone, being more than {most} layers: {left}."
    sets = dict.fromkeys((tuple(tensors), *alone[:most]))
    same = {frozenset(one): one for one in reversed(sets)}
    return Undoing(tuple(one for one in sets if same[frozenset(one)] == one), note)


def undone_name(what: str) -> str:
    """What a finding's model is called: by the tensors, or the method, that was undone in it."""
    return f"undone: {what}"
