"""The unlearning methods: negation bit by bit, fine-tuning, retraining, and the registry."""

from __future__ import annotations

import struct

import pytest
import torch

from fednot.errors import FednotError, Reason
from fednot.manifest import Manifest, TensorKind, TensorSpec
from fednot.tensors import flatten, views
from server.methods import DEFAULT, METHODS, Method, Needs, method_named
from server.methods.fine_tune import FineTune
from server.methods.method import StartContext
from server.methods.negation import Negation, negated
from server.methods.retrain import Retrain


def spec(name: str, dtype: str, size: int, offset: int, kind: str = "parameter") -> TensorSpec:
    return TensorSpec(name, dtype, (size,), TensorKind(kind), "", offset)


MANIFEST = Manifest(
    (
        spec("first.weight", "F32", 3, 0),
        spec("first.bias", "F32", 4, 16),
        spec("second.weight", "F16", 2, 32),
        spec("steps", "I64", 1, 40, "buffer"),
    )
)

QUIET_NAN, LOADED_NAN = 0x7FC00000, 0x7FC12345
"""Two bit patterns of NaN: arithmetic would lose the second one's payload."""


def floats_of_bits(*bits: int) -> torch.Tensor:
    raw = struct.pack(f"<{len(bits)}I", *bits)
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8).view(torch.float32)


def model() -> torch.Tensor:
    flat = flatten(
        {
            "first.weight": torch.tensor([1.5, -2.0, 0.0]),
            "first.bias": torch.zeros(4),
            "second.weight": torch.tensor([0.5, -0.0], dtype=torch.float16),
            "steps": torch.tensor([7]),
        },
        MANIFEST,
    )
    # -0.0, an infinity, and a NaN with a payload, written as bits so that nothing rounds them.
    views(flat, MANIFEST)["first.bias"].copy_(
        floats_of_bits(0x80000000, 0x7F800000, LOADED_NAN, QUIET_NAN)
    )
    return flat


def bits_of(flat: torch.Tensor, name: str) -> bytes:
    place = MANIFEST[name]
    return bytes(flat[place.byte_offset : place.byte_offset + place.nbytes].numpy())


def test_the_model_of_these_tests_holds_the_awkward_bits() -> None:
    assert bits_of(model(), "first.bias") == struct.pack(
        "<4I", 0x80000000, 0x7F800000, LOADED_NAN, QUIET_NAN
    )


def test_the_chosen_tensor_is_times_minus_one_exactly() -> None:
    """1.5, -2 and 0 become -1.5, 2 and -0: the sign bit alone, as IEEE 754 says of negation."""
    found = negated(model(), MANIFEST, ["first.weight"])
    assert bits_of(found, "first.weight") == struct.pack("<3f", -1.5, 2.0, -0.0)


def test_everything_else_stays_bit_for_bit() -> None:
    base = model()
    found = negated(base, MANIFEST, ["first.weight"])
    assert torch.equal(found[16:], base[16:])
    assert torch.equal(found[12:16], torch.zeros(4, dtype=torch.uint8))


def test_only_sign_bits_change() -> None:
    """Of 0x80000000, Inf, NaN with payload and NaN each keeps all bits but the first."""
    found = negated(model(), MANIFEST, ["first.bias"])
    assert bits_of(found, "first.bias") == struct.pack(
        "<4I", 0, 0xFF800000, LOADED_NAN | 1 << 31, QUIET_NAN | 1 << 31
    )


def test_several_tensors_are_negated_at_once() -> None:
    found = views(negated(model(), MANIFEST, ["first.weight", "second.weight"]), MANIFEST)
    assert found["first.weight"].tolist() == [-1.5, 2.0, -0.0]
    assert found["second.weight"].tolist() == [-0.5, 0.0]


def test_the_base_is_not_written_to() -> None:
    base = model()
    negated(base, MANIFEST, ["first.weight"])
    assert torch.equal(base, model())


@pytest.mark.parametrize("tensors", [["first.weight"], ["first.bias", "second.weight"]])
def test_negating_twice_gives_the_original_back(tensors: list[str]) -> None:
    once = negated(model(), MANIFEST, tensors)
    assert not torch.equal(once, model())
    assert torch.equal(negated(once, MANIFEST, tensors), model())


def test_a_tensor_that_is_named_twice_is_negated_once() -> None:
    once = negated(model(), MANIFEST, ["first.weight"])
    assert torch.equal(negated(model(), MANIFEST, ["first.weight", "first.weight"]), once)


def test_an_unknown_tensor_is_a_key_error_and_none_at_all_a_value_error() -> None:
    with pytest.raises(KeyError, match=r"third\.weight"):
        negated(model(), MANIFEST, ["first.weight", "third.weight"])
    with pytest.raises(ValueError, match="at least one tensor"):
        negated(model(), MANIFEST, [])


def context(*tensors: str, initial: torch.Tensor | None = None) -> StartContext:
    return StartContext(MANIFEST, model(), initial, tensors)


def test_not_starts_from_the_negated_base() -> None:
    start = Negation().start(context("first.weight"))
    assert torch.equal(start, negated(model(), MANIFEST, ["first.weight"]))


def test_fine_tuning_starts_from_a_copy_of_the_base() -> None:
    given = context()
    start = FineTune().start(given)
    assert torch.equal(start, model())
    start.zero_()
    assert torch.equal(given.base, model())


def test_retraining_starts_from_a_copy_of_the_initial_version() -> None:
    initial = torch.arange(MANIFEST.nbytes, dtype=torch.uint8)
    start = Retrain().start(context(initial=initial))
    assert torch.equal(start, initial)
    start.zero_()
    assert initial[1] == 1


def test_retraining_without_an_initial_version_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="needs the initial version"):
        Retrain().start(context())


def test_the_same_context_gives_the_same_start_always() -> None:
    given = context("first.weight", initial=model())
    for method in METHODS.values():
        assert torch.equal(method.start(given), method.start(given))


def test_each_method_says_what_it_needs() -> None:
    assert {name: method.needs for name, method in METHODS.items()} == {
        "not": Needs(layers=True),
        "fine-tune": Needs(),
        "retrain": Needs(initial=True, rounds_trained=True),
        "noise": Needs(layers=True),
        "reinitialise": Needs(layers=True, initial=True),
        "filter-signs": Needs(layers=True),
        "shrink-and-perturb": Needs(initial=True),
        "negate-and-perturb": Needs(layers=True, initial=True),
        "not-contrast": Needs(layers=True),
        "fed-eraser": Needs(initial=True, history=True),
        "pgd": Needs(target=True),
        "mode": Needs(initial=True, target=True),
        "fcu": Needs(target=True),
        "fukd": Needs(history=True, proxy=True),
    }


def test_who_starts_from_the_initial_version_starts_a_new_lineage() -> None:
    anew = {name for name, method in METHODS.items() if method.new_lineage}
    assert anew == {"retrain", "fed-eraser"}


def test_who_flips_signs_counts_as_negating_in_the_lineage() -> None:
    assert {name for name, method in METHODS.items() if method.negates} == {
        "not",
        "not-contrast",
        "filter-signs",
        "negate-and-perturb",
    }


def test_negation_is_undone_in_whatever_recovered() -> None:
    """The recovered 4, 5, -6 of the negated tensor become -4, -5, 6; the rest stays."""
    recovered = model()
    views(recovered, MANIFEST)["first.weight"].copy_(torch.tensor([4.0, 5.0, -6.0]))
    found = Negation().undone(context("first.weight"), recovered)
    assert bits_of(found, "first.weight") == struct.pack("<3f", -4, -5, 6)
    assert torch.equal(found[16:], recovered[16:])


@pytest.mark.parametrize("method", [FineTune(), Retrain()])
def test_there_is_nothing_to_undo_in_a_start_without_a_trick(method: Method) -> None:
    assert method.undone(context(initial=model()), model()) is None


def test_retraining_takes_as_many_rounds_as_the_base_was_trained_for() -> None:
    """The others take the default of 20 whatever the base had; retraining 0 rounds takes it too."""
    budgets = {
        name: [method.budget(default=20, rounds_trained=n) for n in (0, 12)]
        for name, method in METHODS.items()
    }
    assert budgets == {name: [20, 12 if name == "retrain" else 20] for name in METHODS}


@pytest.mark.parametrize("method", METHODS.values(), ids=list(METHODS))
def test_a_method_is_found_by_its_name(method: Method) -> None:
    assert method_named(method.name) == method


def test_the_default_is_not() -> None:
    assert DEFAULT == "not"
    assert method_named("") is METHODS["not"]


def test_an_unknown_method_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(
        FednotError, match="no method 'NOT'; there are not, fine-tune, retrain"
    ) as refusal:
        method_named("NOT")
    assert refusal.value.reason is Reason.UNKNOWN_METHOD
