"""Noise, re-initialisation, signs by filter, shrink and perturb: starts, and undoing them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.manifests import manifest_of, manifests, random_flat

from fednot.manifest import Manifest, TensorKind, TensorSpec
from fednot.tensors import views
from server.methods import METHODS, Method
from server.methods.filter_signs import FilterSigns, signs_of
from server.methods.fresh import fresh
from server.methods.method import StartContext
from server.methods.noise import Noise
from server.methods.reinitialise import Reinitialise
from server.methods.shrink_and_perturb import NegateAndPerturb, ShrinkAndPerturb, mixed, unmixed

MODELS = manifests().filter(lambda found: bool(found.tensors))
SEEDS = st.integers(0, 2**63 - 1)
FLOATS = ("F64", "F32", "F16", "BF16")
TOLERANCE = {"F64": 1e-12, "F32": 1e-5, "F16": 0.05, "BF16": 0.4}
"""Of a value of about 4, after it was rounded to the dtype twice and scaled by 1 / 0.3."""


def buffer(name: str, dtype: str, size: int, offset: int) -> TensorSpec:
    return TensorSpec(name, dtype, (size,), TensorKind.BUFFER, "BatchNorm2d", offset)


def with_buffers(dtype: str = "F32") -> Manifest:
    """A filter bank [4, 50], a bias [4], and what batch normalisation keeps."""
    found = manifest_of(w=(dtype, (4, 50)), b=(dtype, (4,)))
    end = found.nbytes
    return Manifest((*found, buffer("mean", "F32", 2, end), buffer("steps", "I64", 1, end + 8)))


def context(manifest: Manifest, *tensors: str, seed: int = 5) -> StartContext:
    base, initial = random_flat(manifest, 1), random_flat(manifest, 2)
    return StartContext(manifest, base, initial, tensors, seed)


def norm(tensor: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor.double()))


PERTURBING = [METHODS[n] for n in ("noise", "reinitialise", "filter-signs")]
PERTURBING += [METHODS["shrink-and-perturb"], METHODS["negate-and-perturb"]]
every = pytest.mark.parametrize("method", PERTURBING, ids=lambda method: method.name)


@every
@pytest.mark.parametrize("dtype", FLOATS)
def test_a_start_leaves_its_context_and_the_buffers_alone(method: Method, dtype: str) -> None:
    given_ = context(with_buffers(dtype), "w")
    start = method.start(given_)
    again = context(with_buffers(dtype), "w")
    assert torch.equal(given_.base, again.base)
    assert again.initial is not None
    assert given_.initial is not None
    assert torch.equal(given_.initial, again.initial)
    found, old = views(start, given_.manifest), views(again.base, given_.manifest)
    assert torch.equal(found["mean"], old["mean"])
    assert torch.equal(found["steps"], old["steps"])
    assert not torch.equal(found["w"], old["w"])


@every
def test_a_start_follows_from_its_seed(method: Method) -> None:
    """The bias of four is left out of what is compared: it may come out the same."""
    one, same, other = (method.start(context(with_buffers(), "w", seed=seed)) for seed in (5, 5, 6))
    assert torch.equal(one, same)
    assert not torch.equal(one[:800], other[:800]) or isinstance(method, FilterSigns)


@every
def test_threads_change_no_bit_of_a_start(method: Method) -> None:
    manifest = manifest_of(w=("F32", (300, 1000)))
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 4):
            torch.set_num_threads(threads)
            found.append(method.start(context(manifest, "w")))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)


@every
@settings(deadline=None, max_examples=30)
@given(
    manifest=manifests().filter(lambda found: bool(found.tensors)), seed=st.integers(0, 2**63 - 1)
)
def test_any_model_has_a_start_whose_integers_and_padding_stay(
    method: Method, manifest: Manifest, seed: int
) -> None:
    chosen = [s.name for s in manifest if s.torch_dtype.is_floating_point]
    if not chosen:
        return
    given_ = context(manifest, *chosen, seed=seed)
    start = method.start(given_)
    assert start.shape == given_.base.shape
    kept = torch.ones(manifest.nbytes, dtype=torch.bool)
    for spec in manifest:
        if spec.torch_dtype.is_floating_point:
            kept[spec.byte_offset : spec.byte_offset + spec.nbytes] = False
    assert torch.equal(start[kept], given_.base[kept])


@every
def test_only_the_chosen_tensor_changes_unless_the_whole_model_is_mixed(method: Method) -> None:
    given_ = context(with_buffers(), "w")
    found = views(method.start(given_), given_.manifest)["b"]
    old = views(given_.base, given_.manifest)["b"]
    assert torch.equal(found, old) is not isinstance(method, ShrinkAndPerturb | NegateAndPerturb)


@pytest.mark.parametrize("method", [m for m in PERTURBING if m.needs.layers], ids=lambda m: m.name)
def test_without_a_tensor_there_is_no_start(method: Method) -> None:
    with pytest.raises(ValueError, match="at least one tensor"):
        method.start(context(with_buffers()))


@pytest.mark.parametrize("method", [m for m in PERTURBING if m.needs.initial], ids=lambda m: m.name)
def test_without_the_initial_version_there_is_no_start(method: Method) -> None:
    manifest = with_buffers()
    with pytest.raises(ValueError, match="initial version"):
        method.start(StartContext(manifest, random_flat(manifest, 1), None, ("w",)))


@every
@pytest.mark.parametrize("dtype", FLOATS)
def test_undoing_a_start_gives_the_base_again(method: Method, dtype: str) -> None:
    """But for what rounding lost; re-initialisation has nothing to give."""
    given_ = context(with_buffers(dtype), "w")
    found = method.undone(given_, method.start(given_))
    if isinstance(method, Reinitialise):
        assert found is None
        return
    assert found is not None
    old = views(given_.base, given_.manifest)
    for name, view in views(found, given_.manifest).items():
        assert torch.allclose(view.double(), old[name].double(), rtol=0, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("factor", [0.5, 1.0])
def test_the_noise_has_the_norm_of_what_negation_moves(factor: float) -> None:
    """w is 3 times ones [100]: |w| = 30, and negation moves it by 60; half of that is 30."""
    manifest = manifest_of(w=("F64", (100,)))
    base = torch.full((100,), 3.0, dtype=torch.float64).view(torch.uint8)
    start = Noise(factor).start(StartContext(manifest, base, None, ("w",), 7))
    moved = views(start, manifest)["w"] - 3.0
    assert norm(moved) == pytest.approx(60 * factor, rel=1e-6)
    assert abs(float(moved.mean())) < 3, "and it is noise: six of one is half a deviation"


def test_each_tensor_has_noise_of_its_own_norm() -> None:
    given_ = context(manifest_of(a=("F32", (64,)), b=("F32", (64,))), "a", "b", "a")
    old, new = (views(f, given_.manifest) for f in (given_.base, Noise().start(given_)))
    for name in "ab":
        assert norm(new[name] - old[name]) == pytest.approx(2 * norm(old[name]), rel=1e-4)
    assert not torch.equal(new["a"] - old["a"], new["b"] - old["b"])


def test_noise_on_zeros_is_nothing_and_on_the_largest_stays_finite() -> None:
    """float16 ends at 65504: 60000 and noise of about 120000 is kept within it."""
    manifest = manifest_of(zero=("F32", (8,)), large=("F16", (64,)))
    base = random_flat(manifest, 0, scale=0.0)
    views(base, manifest)["large"].fill_(60000)
    start = views(Noise().start(StartContext(manifest, base, None, ("zero", "large"))), manifest)
    assert not start["zero"].any()
    assert float(start["large"].abs().max()) == 65504.0


def test_a_fresh_tensor_has_the_elements_of_the_initial_one_in_another_order() -> None:
    manifest = with_buffers()
    initial = random_flat(manifest, 3)
    old, new = views(initial, manifest), views(fresh(initial, manifest, 1), manifest)
    assert not torch.equal(new["w"], old["w"])
    assert torch.equal(new["w"].flatten().sort().values, old["w"].flatten().sort().values)
    assert torch.equal(new["mean"], old["mean"])
    assert not torch.equal(new["w"], views(fresh(initial, manifest, 2), manifest)["w"])


def test_re_initialisation_takes_the_chosen_tensor_from_the_fresh_draw() -> None:
    given_ = context(with_buffers(), "w")
    assert given_.initial is not None
    drawn = views(fresh(given_.initial, given_.manifest, given_.seed), given_.manifest)
    assert torch.equal(views(Reinitialise().start(given_), given_.manifest)["w"], drawn["w"])


def weight(module: str, *shape: int) -> TensorSpec:
    return TensorSpec("w", "F32", shape, TensorKind.PARAMETER, module, 0)


@pytest.mark.parametrize(
    ("module", "shape", "signs"),
    [
        ("Conv2d", (6, 3, 2, 2), (6, 1, 1, 1)),
        ("Linear", (6, 3), (6, 1)),
        ("ConvTranspose2d", (6, 3, 2, 2), (1, 3, 1, 1)),
        ("Conv1D", (6, 3), (1, 3)),
        ("LayerNorm", (6,), (6,)),
        ("Scale", (), ()),
    ],
)
def test_there_is_a_sign_for_each_output_filter(
    module: str, shape: tuple[int, ...], signs: tuple[int, ...]
) -> None:
    assert tuple(signs_of(weight(module, *shape), 1).shape) == signs


@given(st.integers(1, 3), SEEDS)
def test_at_least_one_filter_is_negated(filters: int, seed: int) -> None:
    """Of one filter the draw is all positive every other time."""
    signs = signs_of(weight("Linear", filters, 2), seed)
    assert set(signs.flatten().tolist()) <= {1, -1}
    assert bool((signs < 0).any())


def test_whole_filters_are_negated_and_only_by_their_sign() -> None:
    given_ = context(manifest_of(w=("F32", (40, 5))), "w")
    old, new = (views(f, given_.manifest)["w"] for f in (given_.base, FilterSigns().start(given_)))
    signs = signs_of(given_.manifest["w"], given_.seed)
    assert torch.equal(new, old * signs)
    assert 0 < int((signs < 0).sum()) < 40
    undone = FilterSigns().undone(given_, FilterSigns().start(given_))
    assert torch.equal(undone, given_.base)


def test_the_mix_by_hand() -> None:
    """0.25 * (4, -8) + 0.75 * (2, 4) = (1 + 1.5, -2 + 3) = (2.5, 1); back: (2.5 - 1.5) / 0.25 = 4
    and (1 - 3) / 0.25 = -8. The buffer stays that of the old one.
    """
    manifest = Manifest((*manifest_of(w=("F32", (2,))), buffer("mean", "F32", 2, 8)))
    old = torch.tensor([4.0, -8.0, 9.0, 9.0]).view(torch.uint8)
    other = torch.tensor([2.0, 4.0, 1.0, 1.0]).view(torch.uint8)
    found = mixed(old, other, manifest, 0.25)
    assert found.view(torch.float32).tolist() == [2.5, 1.0, 9.0, 9.0]
    assert torch.equal(unmixed(found, other, manifest, 0.25), old)


def test_negate_and_perturb_mixes_the_negated_base() -> None:
    """So at -w for w, and -0.5 w + 0.5 w = 0 where the fresh draw is the old weight."""
    manifest = manifest_of(w=("F32", (3,)), b=("F32", (2,)))
    base = torch.tensor([3.0, 3.0, 3.0, 0.0, 5.0, 5.0]).view(torch.uint8)
    given_ = StartContext(manifest, base, base, ("w",), 1)
    found = NegateAndPerturb(0.5).start(given_)
    assert found.view(torch.float32).tolist() == [0, 0, 0, 0, 5, 5]
    assert torch.equal(NegateAndPerturb(0.5).undone(given_, found), base)


def test_a_mix_is_rounded_once_to_the_models_own_dtype() -> None:
    """In bfloat16, which has 8 bits: 0.3 * 1 + 0.7 * 256 = 179.5, between 179 and 180: even, 180.

    Rounding each product first would give 0.30078125 + 179 = 179.
    """
    manifest = manifest_of(w=("BF16", (1,)))
    old = torch.tensor([1.0], dtype=torch.bfloat16).view(torch.uint8)
    other = torch.tensor([256.0], dtype=torch.bfloat16).view(torch.uint8)
    pad = torch.zeros(6, dtype=torch.uint8)
    found = mixed(torch.cat((old, pad)), torch.cat((other, pad)), manifest, 0.3)
    assert views(found, manifest)["w"].tolist() == [180.0]
