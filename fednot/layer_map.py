"""A model's layers and their order: what a server must know to choose what NoT negates.

The map is made where the model can be built, and stored with the model file and in the database.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any


class LayerMapError(ValueError):
    """Text that is no layer map."""


@dataclass(frozen=True)
class Layer:
    """The weight of one module, which NoT negates as a whole.

    `tensors` are state-dict names as the manifest lists them; `position` is the place in
    registration order among the layers. The name is the module's path, or the tensor's name for a
    bare parameter and where one module holds several layers (the levels of a recurrent network).
    """

    name: str
    tensors: tuple[str, ...]
    module_type: str
    position: int


@dataclass(frozen=True)
class LayerMap:
    """The layers in registration order, and the order in which data flows through them.

    `first`: the tensors of the default choice. `feeds`: for each layer, all layers downstream.
    `outputs`: the layers whose result no other layer takes up. `traced` is False if `feeds` is only
    the registration order; `warning` then says why. `excluded`: why each other tensor is no layer.
    `synonyms`: names for tensors beside the manifest's own, such as tied names.
    """

    layers: tuple[Layer, ...]
    first: tuple[str, ...]
    feeds: Mapping[str, frozenset[str]]
    outputs: frozenset[str]
    traced: bool
    warning: str = ""
    excluded: Mapping[str, str] = field(default_factory=dict)
    synonyms: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def _by_name(self) -> dict[str, Layer]:
        names: dict[str, Layer] = {}
        for layer in self.layers:
            names.update(dict.fromkeys(layer.tensors, layer))
        names.update((s, names[t]) for s, t in self.synonyms.items() if t in names)
        names.update((layer.name, layer) for layer in self.layers)
        return names

    def find(self, name: str) -> Layer | None:
        """The layer of that name, or that holds the tensor of that name; tied names included."""
        return self._by_name.get(name)

    def holding(self, tensors: Iterable[str]) -> frozenset[str]:
        """The names of the layers that hold any of these tensors; unknown names are passed over."""
        found = (self._by_name.get(name) for name in tensors)
        return frozenset(layer.name for layer in found if layer is not None)

    def directly_behind(self, name: str) -> frozenset[str]:
        """The layers next behind a layer: fed by it, and by no other layer that it feeds."""
        fed = self.feeds.get(name, frozenset())
        beyond = frozenset().union(*(self.feeds.get(other, frozenset()) for other in fed))
        return fed - beyond

    def in_series(self, names: Iterable[str]) -> list[tuple[str, str]]:
        """The pairs among these layers of which the one feeds the other, each pair once."""
        wanted = set(names)
        chosen = [layer.name for layer in self.layers if layer.name in wanted]
        pairs = []
        for place, one in enumerate(chosen):
            for other in chosen[place + 1 :]:
                if other in self.feeds.get(one, ()):
                    pairs.append((one, other))
                elif one in self.feeds.get(other, ()):
                    pairs.append((other, one))
        return pairs

    def to_json(self) -> str:
        """The map as JSON text; equal maps give equal text. `feeds` is written as positions."""
        row = asdict(self)
        place = {layer.name: layer.position for layer in self.layers}
        row["feeds"] = [
            sorted(place[fed] for fed in self.feeds.get(layer.name, ())) for layer in self.layers
        ]
        row["outputs"] = sorted(self.outputs)
        return json.dumps(row, separators=(",", ":"), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> LayerMap:
        """Reads what `to_json` wrote. Raises LayerMapError if it is no layer map."""
        try:
            return _from_row(json.loads(text))
        except (TypeError, LookupError, ValueError, AttributeError) as error:
            raise LayerMapError(f"not a layer map: {error}") from error


def _from_row(row: dict[str, Any]) -> LayerMap:
    layers = tuple(_layer_from_row(layer, place) for place, layer in enumerate(row["layers"]))
    names = [layer.name for layer in layers]
    fed_by = dict(zip(names, row["feeds"], strict=True))
    found = LayerMap(
        layers=layers,
        first=_strings(row["first"]),
        feeds={name: frozenset(names[place] for place in fed) for name, fed in fed_by.items()},
        outputs=frozenset(_strings(row["outputs"])),
        traced=bool(row["traced"]),
        warning=str(row["warning"]),
        excluded={str(name): str(why) for name, why in row["excluded"].items()},
        synonyms={str(name): str(tensor) for name, tensor in row["synonyms"].items()},
    )
    tensors = {tensor for layer in layers for tensor in layer.tensors}
    if strangers := sorted(found.outputs - set(names)) + sorted(set(found.first) - tensors):
        raise ValueError(f"{', '.join(strangers)} stand in it, but are no layers of it")
    return found


def _layer_from_row(row: dict[str, Any], place: int) -> Layer:
    if row["position"] != place:
        raise ValueError(f"layer {row['name']} has position {row['position']}, not {place}")
    return Layer(str(row["name"]), _strings(row["tensors"]), str(row["module_type"]), place)


def _strings(rows: Any) -> tuple[str, ...]:
    if not isinstance(rows, list):
        raise TypeError(f"{rows!r} is no list")
    return tuple(str(row) for row in rows)
