"""FedAvg as a running sum: the mean by hand, weights, arrival order, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.manifests import manifest_of

from fednot.errors import FednotError, Reason
from fednot.manifest import Manifest
from fednot.tensors import flatten, views
from server.aggregation import RunningAverage


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


WEIGHT = manifest_of(w=("F32", (2,)))


def flat(*values: float, dtype: torch.dtype = torch.float32, of: Manifest = WEIGHT) -> torch.Tensor:
    return flatten({"w": torch.tensor(values, dtype=dtype)}, of)


def weights(model: torch.Tensor, of: Manifest = WEIGHT) -> list[float]:
    return views(model, of)["w"].tolist()


def averaged(
    model: torch.Tensor,
    updates: list[tuple[torch.Tensor, int]],
    precision: torch.dtype = torch.float32,
) -> torch.Tensor:
    average = RunningAverage(WEIGHT, precision=precision)
    for update, num_examples in updates:
        average.add(update, num_examples)
    return average.applied_to(model).tensor


def test_one_update_is_added_to_the_model() -> None:
    """Model (1, 2), update (0.5, -4), any weight: (1.5, -2)."""
    assert weights(averaged(flat(1, 2), [(flat(0.5, -4), 7)])) == [1.5, -2.0]


def test_updates_count_by_their_number_of_examples() -> None:
    """Model (10, 0); updates (4, 1) of 1 example and (8, -3) of 3.

    The mean is ((1*4 + 3*8)/4, (1*1 + 3*-3)/4) = (7, -2); the plain mean would be (6, -1).
    The new model is (17, -2).
    """
    updates = [(flat(4, 1), 1), (flat(8, -3), 3)]
    assert weights(averaged(flat(10, 0), updates)) == [17.0, -2.0]


def test_the_counts_say_what_was_added() -> None:
    average = RunningAverage(WEIGHT)
    average.add(flat(1, 1), 3)
    average.add(flat(1, 1), 4)
    assert average.num_examples == 7


def test_neither_the_model_nor_the_updates_are_written_to() -> None:
    model, update = flat(1, 2), flat(3, 4)
    averaged(model, [(update, 2)])
    assert (weights(model), weights(update)) == ([1, 2], [3, 4])


def test_the_mean_is_applied_once() -> None:
    """The new model may stand where the sums stood."""
    average = RunningAverage(WEIGHT)
    average.add(flat(2, 4), 5)
    average.applied_to(flat(0, 0))
    for again in (lambda: average.applied_to(flat(0, 0)), lambda: average.add(flat(1, 1), 1)):
        with pytest.raises(ValueError, match="the mean was applied already"):
            again()


def test_the_order_of_arrival_changes_no_bit() -> None:
    """1 + 1e-7 + -1 and the like: a float32 sum of these differs between orders, see the check."""
    values = (1.0, 1e-7, -1.0, 3.3e-7)
    updates = [
        (flat(value, -value), weight) for value, weight in zip(values, (3, 1, 3, 7), strict=True)
    ]
    in_float32 = {sum_in_float32(order) for order in permutations(updates)}
    assert len(in_float32) > 1
    found = {
        bytes(averaged(flat(0.1, 0.2), list(order), torch.float64).numpy())
        for order in permutations(updates)
    }
    assert len(found) == 1


def sum_in_float32(updates: tuple[tuple[torch.Tensor, int], ...]) -> float:
    total = torch.zeros(2)
    for update, num_examples in updates:
        total += views(update, WEIGHT)["w"] * num_examples
    return float(total[0])


def test_integers_are_averaged_and_rounded_to_the_nearest() -> None:
    """Model (5, 5, 5); updates (1, -1, 2) of 1 example and (2, -2, 2) of 2.

    Means 5/3, -5/3 and 2: the sums are 6.67, 3.33 and 7, so 7, 3 and 7; truncation says 6, 3, 7.
    """
    manifest = manifest_of(w=("I64", (3,)))
    average = RunningAverage(manifest)
    average.add(flat(1, -1, 2, dtype=torch.int64, of=manifest), 1)
    average.add(flat(2, -2, 2, dtype=torch.int64, of=manifest), 2)
    model = flat(5, 5, 5, dtype=torch.int64, of=manifest)
    assert weights(average.applied_to(model).tensor, manifest) == [7, 3, 7]


@pytest.mark.parametrize("dtype", ["I64", "I32", "I16", "I8"])
def test_an_integer_that_no_client_changed_stays_as_it_was(dtype: str) -> None:
    """2**62 + 1 is no float64: averaging it as one would give 2**62."""
    manifest = manifest_of(w=(dtype, (2,)))
    torch_dtype = manifest["w"].torch_dtype
    top = min(torch.iinfo(torch_dtype).max, 2**62 + 1)
    model = flat(top, -top, dtype=torch_dtype, of=manifest)
    average = RunningAverage(manifest)
    average.add(flat(0, 0, dtype=torch_dtype, of=manifest), 3)
    assert weights(average.applied_to(model).tensor, manifest) == [top, -top]


def test_bool_tensors_stay_the_models() -> None:
    manifest = manifest_of(w=("BOOL", (2,)))
    average = RunningAverage(manifest)
    average.add(flat(True, True, dtype=torch.bool, of=manifest), 1)
    model = flat(True, False, dtype=torch.bool, of=manifest)
    assert weights(average.applied_to(model).tensor, manifest) == [True, False]


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16"])
def test_every_float_dtype_is_averaged_in_its_own_precision(dtype: str) -> None:
    """Updates 0.5 and 1.5 of 1 example each on 0.25: 1.25, which every float dtype can hold."""
    manifest = manifest_of(w=(dtype, (1,)))
    torch_dtype = manifest["w"].torch_dtype
    average = RunningAverage(manifest)
    for value in (0.5, 1.5):
        average.add(flat(value, dtype=torch_dtype, of=manifest), 1)
    model = flat(0.25, dtype=torch_dtype, of=manifest)
    assert weights(average.applied_to(model).tensor, manifest) == [1.25]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_an_update_that_is_not_finite_is_refused_and_changes_nothing(bad: float) -> None:
    manifest = manifest_of(good=("F32", (1,)), bad=("F32", (2,)))
    average = RunningAverage(manifest)
    sound = flatten({"good": torch.tensor([1.0]), "bad": torch.tensor([2.0, 3.0])}, manifest)
    average.add(sound, 2)
    broken = flatten({"good": torch.tensor([9.0]), "bad": torch.tensor([9.0, bad])}, manifest)
    with pytest.raises(FednotError, match="the update of bad holds NaN or Inf") as refusal:
        average.add(broken, 4)
    assert refusal.value.reason is Reason.NOT_FINITE
    assert average.num_examples == 2
    model = flatten({"good": torch.zeros(1), "bad": torch.zeros(2)}, manifest)
    assert torch.equal(average.applied_to(model).tensor, sound)


@pytest.mark.parametrize("count", [0, -1])
def test_an_update_without_examples_is_refused(count: int) -> None:
    average = RunningAverage(WEIGHT)
    with pytest.raises(FednotError, match="has no weight") as refusal:
        average.add(flat(1, 1), count)
    assert refusal.value.reason is Reason.WRONG_NUM_EXAMPLES
    assert average.num_examples == 0


def test_an_update_of_another_size_is_refused_and_changes_nothing() -> None:
    average = RunningAverage(WEIGHT)
    with pytest.raises(FednotError, match="has 16 bytes, not 8") as refusal:
        average.add(torch.zeros(16, dtype=torch.uint8), 1)
    assert refusal.value.reason is Reason.WRONG_SIZE
    assert average.num_examples == 0


def test_there_is_no_mean_of_nothing() -> None:
    with pytest.raises(ValueError, match="no update was added"):
        RunningAverage(WEIGHT).applied_to(flat(1, 2))


FLOATS = st.floats(-1e3, 1e3, width=32, allow_subnormal=False)
UPDATES = st.lists(st.tuples(FLOATS, FLOATS, st.integers(1, 10_000)), min_size=1, max_size=8)


@settings(deadline=None)
@given(model=st.tuples(FLOATS, FLOATS), updates=UPDATES)
def test_the_result_is_the_float64_mean_to_float32_rounding(
    model: tuple[float, float], updates: list[tuple[float, float, int]]
) -> None:
    """By definition: model + sum(n_i * u_i) / sum(n_i), in exact-enough float64, cast to float32.

    The two float64 sums may differ in their last bits, so one float32 step apart is allowed.
    """
    torch.set_num_threads(1)
    found = averaged(flat(*model), [(flat(a, b), n) for a, b, n in updates], torch.float64)
    total = sum(count for *_, count in updates)
    for place, value in enumerate(weights(found)):
        mean = sum(update[place] * update[2] for update in updates) / total
        expected = torch.tensor(model[place] + mean, dtype=torch.float64)
        step = float(torch.finfo(torch.float32).eps) * max(abs(float(expected)), 1e-9)
        assert abs(value - float(expected)) <= step


@settings(deadline=None)
@given(updates=UPDATES)
def test_the_result_lies_between_the_smallest_and_the_largest_update(
    updates: list[tuple[float, float, int]],
) -> None:
    found = averaged(flat(0, 0), [(flat(a, b), n) for a, b, n in updates], torch.float64)
    for place, value in enumerate(weights(found)):
        values = [update[place] for update in updates]
        slack = 1e-6 * max(map(abs, values))
        assert min(values) - slack <= value <= max(values) + slack
