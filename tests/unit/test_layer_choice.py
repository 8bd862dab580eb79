"""What a selector gives on a map of four layers in a row, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fednot.errors import FednotError, Reason
from fednot.layers import Choice, Layer, LayerMap, LayerMapError, choose, next_choice

NAMES = ("conv1", "conv2", "fc1", "fc2")
BIAS = "is a bias or another one-dimensional parameter; only weight tensors are negated"


def written_out() -> LayerMap:
    """The map of zoo.Cnn, written out; test_layers.py proves it equal to the traced one."""
    return LayerMap(
        layers=tuple(
            Layer(name, (f"{name}.weight",), "Conv2d" if "conv" in name else "Linear", place)
            for place, name in enumerate(NAMES)
        ),
        first=("conv1.weight",),
        feeds={name: frozenset(NAMES[place + 1 :]) for place, name in enumerate(NAMES)},
        outputs=frozenset({"fc2"}),
        traced=True,
        excluded={f"{name}.bias": BIAS for name in NAMES},
    )


@pytest.fixture
def cnn_map() -> LayerMap:
    return written_out()


def refusal(found: LayerMap, selector: str, **options: object) -> tuple[Reason, str]:
    with pytest.raises(FednotError) as caught:
        choose(found, selector, **options)  # type: ignore[arg-type]
    return caught.value.reason, caught.value.message


def test_antichain_rule_and_its_lifting(cnn_map: LayerMap) -> None:
    reason, message = refusal(cnn_map, "layers=conv1,conv2")
    assert reason is Reason.NOT_AN_ANTICHAIN
    assert "conv1.weight, conv2.weight" in message
    assert "conv1 feeds conv2" in message
    choice = choose(cnn_map, "layers=conv2.weight,conv1", allow_unsafe=True)
    assert choice.layers == ("conv1", "conv2")
    assert len(choice.warnings) == 1
    assert "no antichain" in choice.warnings[0]


def test_output_rule_and_its_lifting(cnn_map: LayerMap) -> None:
    reason, message = refusal(cnn_map, "layers=fc2")
    assert reason is Reason.OUTPUT_LAYER
    assert "Eligible: conv1 (conv1.weight), conv2 (conv2.weight), fc1 (fc1.weight)" in message
    choice = choose(cnn_map, "index=-1", allow_unsafe=True)
    assert choice.tensors == ("fc2.weight",)
    assert "output layer fc2" in choice.warnings[0]


@pytest.mark.parametrize(
    ("selector", "layers"),
    [
        ("index=0", ("conv1",)),
        ("index= -3 ", ("conv2",)),
        ("index=1,1,-3", ("conv2",)),
        ("layers=conv2, conv2.weight", ("conv2",)),
    ],
)
def test_selectors_that_name_layers(
    cnn_map: LayerMap, selector: str, layers: tuple[str, ...]
) -> None:
    assert choose(cnn_map, selector).layers == layers


@pytest.mark.parametrize(
    ("selector", "reason", "said"),
    [
        ("lest", Reason.INVALID_SELECTOR, "all-but-last, last or all"),
        ("last=1", Reason.INVALID_SELECTOR, "use first"),
        ("all=1", Reason.INVALID_SELECTOR, "use first"),
        ("first=1", Reason.INVALID_SELECTOR, "use first"),
        ("layers=", Reason.INVALID_SELECTOR, "missing"),
        ("layers=conv1,,conv2", Reason.INVALID_SELECTOR, "missing"),
        ("index=one", Reason.INVALID_SELECTOR, "no whole number"),
        ("index=4", Reason.NO_SUCH_LAYER, "from 0 to 3"),
        ("index=-5", Reason.NO_SUCH_LAYER, "from 0 to 3"),
        ("layers=conv3", Reason.NO_SUCH_LAYER, "did you mean conv"),
        ("layers=x", Reason.NO_SUCH_LAYER, "layers: conv1 (conv1.weight), conv2 (conv2.weight)"),
    ],
)
def test_selectors_that_are_refused(
    cnn_map: LayerMap, selector: str, reason: Reason, said: str
) -> None:
    found, message = refusal(cnn_map, selector)
    assert found is reason
    assert said in message


def test_all_but_last(cnn_map: LayerMap) -> None:
    choice = choose(cnn_map, "all-but-last")
    assert choice.tensors == ("conv1.weight", "conv2.weight", "fc1.weight")
    assert "no antichain" in choice.warnings[0]
    later = choose(cnn_map, "all-but-last", negated=["conv1.weight"])
    assert later.layers == ("conv2", "fc1")
    assert "Left out" in later.warnings[1]
    negated = ["conv1.weight", "conv2.weight", "fc1.weight"]
    assert refusal(cnn_map, "all-but-last", negated=negated)[0] is Reason.NO_ELIGIBLE_LAYER


def test_last_takes_the_output_layers_if_that_is_allowed(cnn_map: LayerMap) -> None:
    assert refusal(cnn_map, "last")[0] is Reason.OUTPUT_LAYER
    choice = choose(cnn_map, "last", allow_unsafe=True)
    assert choice.tensors == ("fc2.weight",)
    assert "output layer fc2" in choice.warnings[0]
    again = refusal(cnn_map, "last", allow_unsafe=True, negated=["fc2.weight"])
    assert again[0] is Reason.LAYER_ALREADY_NEGATED
    nameless = replace(cnn_map, outputs=frozenset())
    assert refusal(nameless, "last", allow_unsafe=True)[0] is Reason.NO_ELIGIBLE_LAYER


def test_all_takes_every_layer_if_that_is_allowed(cnn_map: LayerMap) -> None:
    assert refusal(cnn_map, "all")[0] is Reason.OUTPUT_LAYER
    choice = choose(cnn_map, "all", allow_unsafe=True)
    assert choice.layers == NAMES
    assert "output layer fc2" in choice.warnings[0]
    assert "no antichain" in choice.warnings[1]
    later = choose(cnn_map, "all", negated=["conv1.weight"], allow_unsafe=True)
    assert later.layers == NAMES[1:]
    assert later.warnings[-1] == "Left out, since this lineage has negated them before: conv1."
    every = [f"{name}.weight" for name in NAMES]
    none_left = refusal(cnn_map, "all", negated=every, allow_unsafe=True)
    assert none_left[0] is Reason.NO_ELIGIBLE_LAYER


def test_first_falls_to_the_next_eligible_layer(cnn_map: LayerMap) -> None:
    choice = choose(cnn_map, "first", negated=["conv1.weight"])
    assert choice.layers == ("fc1",)
    assert "conv1 was negated before" in choice.warnings[0]
    negated = ["conv1.weight", "fc1.weight"]
    assert choose(cnn_map, "first", negated=negated).layers == ("conv2",)
    reason, message = refusal(cnn_map, "first", negated=[*negated, "conv2.weight"])
    assert reason is Reason.NO_ELIGIBLE_LAYER
    assert "retrain" in message


@pytest.mark.parametrize("selector", ["layers=conv1", "index=0", "layers=conv1.weight,conv2"])
def test_explicit_choice_of_a_negated_layer_is_always_refused(
    cnn_map: LayerMap, selector: str
) -> None:
    reason, message = refusal(cnn_map, selector, negated=["conv1.weight"], allow_unsafe=True)
    assert reason is Reason.LAYER_ALREADY_NEGATED
    assert "Eligible: conv2 (conv2.weight), fc1 (fc1.weight)" in message


def test_a_layer_directly_behind_a_negated_one_comes_last(cnn_map: LayerMap) -> None:
    """conv1 was negated for an earlier deletion: fc1 goes before conv2, which stands behind it."""
    assert next_choice(cnn_map, tried=(), negated=["conv1.weight"]).tensors == ("fc1.weight",)
    left = next_choice(cnn_map, tried=["fc1.weight"], negated=["conv1.weight"])
    assert left.tensors == ("conv2.weight",)
    assert choose(cnn_map, "first", negated=["conv1.weight"]).tensors == ("fc1.weight",)


def test_directly_behind_is_the_next_layer_on_every_path(cnn_map: LayerMap) -> None:
    assert cnn_map.directly_behind("conv1") == {"conv2"}
    assert cnn_map.directly_behind("fc2") == frozenset()
    assert cnn_map.directly_behind("no such layer") == frozenset()


def test_next_choice_passes_over_what_the_lineage_negated(cnn_map: LayerMap) -> None:
    found = next_choice(cnn_map, tried=["conv1.weight"], negated=["conv2.weight"])
    assert found == Choice(("fc1",), ("fc1.weight",))
    assert (
        next_choice(cnn_map, tried=["conv1.weight", "fc1.weight"], negated=["conv2.weight"]) is None
    )


def test_what_is_no_layer_map_is_refused(cnn_map: LayerMap) -> None:
    good = json.loads(cnn_map.to_json())
    for text in ("", "[]", "{}", "null", "3", '"x"'):
        with pytest.raises(LayerMapError):
            LayerMap.from_json(text)
    for change in (
        {"outputs": ["conv9"]},
        {"first": ["conv1"]},
        {"first": "conv1.weight"},
        {"feeds": [[1]]},
        {"feeds": [[9], [], [], []]},
        {"layers": good["layers"][::-1]},
        {"synonyms": []},
    ):
        with pytest.raises(LayerMapError):
            LayerMap.from_json(json.dumps({**good, **change}))


def test_a_map_without_order_tells_so_with_every_choice(cnn_map: LayerMap) -> None:
    unknown = replace(cnn_map, traced=False, warning="Nobody knows.")
    assert choose(unknown, "first").warnings == ("Nobody knows.",)
    assert next_choice(unknown, tried=(), negated=()) == Choice(
        ("conv1",), ("conv1.weight",), ("Nobody knows.",)
    )
    assert "Nobody knows." in refusal(unknown, "layers=conv1,fc1")[1]


@given(
    selector=st.one_of(
        st.text(max_size=30),
        st.lists(st.integers(-9, 9)).map(lambda ns: "index=" + ",".join(map(str, ns))),
        st.lists(st.sampled_from(NAMES)).map(lambda ns: "layers=" + ",".join(ns)),
        st.sampled_from(["first", "all-but-last", "last", "all"]),
    ),
    negated=st.sets(st.sampled_from([f"{name}.weight" for name in NAMES])),
    allow_unsafe=st.booleans(),
)
def test_no_selector_gives_a_layer_twice_or_breaks_a_rule_in_silence(
    selector: str, negated: set[str], allow_unsafe: bool
) -> None:
    found = written_out()
    try:
        choice = choose(found, selector, negated=negated, allow_unsafe=allow_unsafe)
    except FednotError:
        return
    assert choice.tensors
    assert not negated & set(choice.tensors)
    assert choice.warnings or found.in_series(choice.layers) == []
    assert allow_unsafe or not found.outputs & set(choice.layers)
