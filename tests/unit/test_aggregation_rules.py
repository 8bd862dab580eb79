"""Median, trimmed mean, multi-Krum and clipping: figures by hand, spilled, and what they refuse."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.manifests import manifest_of, manifests, random_flat

from fednot.codecs import NAMES, codec_of
from fednot.codecs.none import Plain
from fednot.errors import FednotError, Reason
from fednot.manifest import Manifest
from fednot.runs import PIECE_ELEMENTS
from fednot.tensors import flatten, views
from server.aggregation import Aggregate, Aggregation, RuleName, TooFewUpdatesError
from server.aggregation.multi_krum import chosen, scores, squared_distances
from server.aggregation.ordering import FEW, ascending
from server.blocks import Block, Memory
from server.records import Anomaly

PLAIN = Plain()
TWO = manifest_of(w=("F32", (2,)))
KEEPING = (RuleName.MEDIAN, RuleName.TRIMMED_MEAN, RuleName.MULTI_KRUM)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def flat(*values: float) -> torch.Tensor:
    return flatten({"w": torch.tensor(values)}, TWO)


def aggregate(
    how: Aggregation,
    updates: Sequence[torch.Tensor],
    model: torch.Tensor | None = None,
    manifest: Manifest = TWO,
    memory: Memory | None = None,
    counts: Sequence[int] = (),
) -> Aggregate:
    """Client ci sends the i-th update, with one example if no counts are given."""
    memory = memory or Memory()
    rule = how.begun(manifest, memory, torch.float32)
    for index, update in enumerate(updates):
        rule.add(f"c{index}", Block.of(update), counts[index] if counts else 1, PLAIN)
    given = model if model is not None else torch.zeros(manifest.nbytes, dtype=torch.uint8)
    found = rule.applied_to(Block.of(given))
    rule.close()
    return found


def weights(found: Aggregate, manifest: Manifest = TWO) -> list[float]:
    return views(found.model.tensor, manifest)["w"].tolist()


def test_the_median_is_taken_coordinate_by_coordinate_and_added_to_the_model() -> None:
    """Of (1, 9), (2, -8) and (100, 0) the medians are 2 and 0; the model (10, 10) becomes (12, 10).

    The examples that a client claims do not count.
    """
    updates = [flat(1, 9), flat(2, -8), flat(100, 0)]
    found = aggregate(Aggregation(RuleName.MEDIAN), updates, flat(10, 10), counts=(1, 1, 1000))
    assert weights(found) == [12.0, 10.0]


def test_the_median_of_an_even_number_is_the_mean_of_the_middle_two() -> None:
    """Of 1, 2, 4, 100 it is 3; of -1, -1, 0, 5 it is -0.5."""
    updates = [flat(1, 5), flat(2, -1), flat(4, 0), flat(100, -1)]
    assert weights(aggregate(Aggregation(RuleName.MEDIAN), updates)) == [3.0, -0.5]


def test_the_trimmed_mean_leaves_out_the_ends_of_each_coordinate() -> None:
    """Of 1, 2, 3, 4, 1000 without one at either end: (2 + 3 + 4) / 3 = 3; without two: 3.

    Of -9, 0, 0, 3, 6 without one: (0 + 0 + 3) / 3 = 1; without two: 0.
    """
    updates = [flat(1000, 0), flat(2, -9), flat(1, 3), flat(3, 6), flat(4, 0)]
    one = aggregate(Aggregation(RuleName.TRIMMED_MEAN, byzantine=1), updates)
    two = aggregate(Aggregation(RuleName.TRIMMED_MEAN, byzantine=2), updates)
    assert weights(one) == [3.0, 1.0]
    assert weights(two) == [3.0, 0.0]


def test_multi_krum_averages_those_that_lie_close_together() -> None:
    """On a line at 0, 1, 2, 3 and 50, with f = 1: each score is of the 5 - 1 - 2 = 2 nearest.

    0: 1 + 4 = 5; 1: 1 + 1 = 2; 2: 2; 3: 1 + 4 = 5; 50: 47^2 + 48^2 = 4513. The four best are
    averaged, each once: 1.5.
    """
    line = [flat(x, 0) for x in (0, 50, 1, 2, 3)]
    found = aggregate(Aggregation(RuleName.MULTI_KRUM), line, counts=(1, 1000, 9, 9, 9))
    assert weights(found) == [1.5, 0.0]
    assert found.oddities == {"c1": (Anomaly.OUTLIER_NORM, Anomaly.LEFT_OUT)}
    points = torch.tensor([[0.0], [1.0], [2.0], [3.0], [50.0]])
    assert scores(squared_distances([points], 5), 1) == [5.0, 2.0, 2.0, 5.0, 4513.0]


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.lists(st.floats(-1e6, 1e6, width=32), min_size=3, max_size=3), min_size=5, max_size=9
    )
)
def test_distances_and_scores_are_those_of_the_definition(rows: list[list[float]]) -> None:
    points = torch.tensor(rows, dtype=torch.float64)
    count, byzantine = len(rows), 1
    found = squared_distances([points[:, :2].float(), points[:, 2:].float()], count)
    expected = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist").square()
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-3)
    for place, score in enumerate(scores(found, byzantine)):
        others = sorted(float(x) for i, x in enumerate(found[place]) if i != place)
        assert score == pytest.approx(sum(others[: count - byzantine - 2]), rel=1e-9, abs=1e-9)


def test_what_is_beyond_float64_is_far_from_everything() -> None:
    points = torch.tensor([[0.0], [1.0], [2.0], [3.0], [1e200]], dtype=torch.float64)
    found = scores(squared_distances([points], 5), 1)
    assert found[4] == math.inf
    assert chosen(found, 1) == [0, 1, 2, 3]


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 12), st.integers(0, 2**31))
def test_columns_are_sorted_and_the_stack_is_left_alone(count: int, seed: int) -> None:
    rows = torch.randn(count, 17, generator=torch.Generator().manual_seed(seed)).round(decimals=1)
    before = rows.clone()
    assert torch.equal(torch.stack(list(ascending(rows))), rows.sort(dim=0).values)
    assert torch.equal(rows, before)


def test_many_rows_are_sorted_too() -> None:
    rows = torch.randn(FEW + 3, 5, generator=torch.Generator().manual_seed(1))
    assert torch.equal(torch.stack(list(ascending(rows))), rows.sort(dim=0).values)


@pytest.mark.parametrize("rule", KEEPING)
@settings(deadline=None, max_examples=40)
@given(manifest=manifests(), seed=st.integers(0, 1000))
def test_alike_updates_move_the_model_by_themselves(
    rule: RuleName, manifest: Manifest, seed: int
) -> None:
    """Whatever the dtypes: what does not average, bool and uint8, stays as it was."""
    model, update = random_flat(manifest, seed), random_flat(manifest, seed + 1)
    found = aggregate(Aggregation(rule), [update] * 5, model, manifest)
    expected = aggregate(Aggregation(), [update] * 5, model, manifest)
    for name, tensor in views(expected.model.tensor, manifest).items():
        result = views(found.model.tensor, manifest)[name]
        if tensor.is_floating_point():
            torch.testing.assert_close(result, tensor, rtol=1e-2, atol=1e-2)
        else:
            assert torch.equal(result, tensor)


@pytest.mark.parametrize("rule", KEEPING)
def test_many_pieces_are_as_one(rule: RuleName, tmp_path: Path) -> None:
    """Three tensors that are longer than a piece, against the rule on whole tensors."""
    manifest = manifest_of(
        a=("F32", (2 * PIECE_ELEMENTS + 3,)), b=("F16", (PIECE_ELEMENTS + 1,)), c=("F64", (9,))
    )
    updates = [random_flat(manifest, seed) for seed in range(7)]
    spilled = Memory(0, tmp_path)
    found = aggregate(Aggregation(rule), updates, manifest=manifest, memory=spilled)
    for name in ("a", "b", "c"):
        rows = torch.stack([views(update, manifest)[name].double() for update in updates])
        ordered = rows.sort(dim=0).values
        if rule is RuleName.MULTI_KRUM:
            left_out = [int(n[1:]) for n, odd in found.oddities.items() if Anomaly.LEFT_OUT in odd]
            expected = rows[[i for i in range(7) if i not in left_out]].mean(dim=0)
        else:
            expected = ordered[3] if rule is RuleName.MEDIAN else ordered[1:-1].mean(dim=0)
        result = views(found.model.tensor, manifest)[name].double()
        torch.testing.assert_close(result, expected, rtol=1e-3, atol=1e-3)


def test_what_is_kept_is_on_disk_and_goes_with_the_round(tmp_path: Path) -> None:
    memory = Memory(None, tmp_path)
    rule = Aggregation(RuleName.MEDIAN).begun(TWO, memory, torch.float32)
    for index in range(3):
        rule.add(f"c{index}", Block.of(flat(index, index)), 1, PLAIN)
    assert memory.in_use == 0
    links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    kept = [link for link in links if str(link.readlink()).startswith(str(tmp_path))]
    assert len(kept) == 3
    rule.close()
    assert not any(link.is_symlink() for link in kept)
    rule.close()
    with pytest.raises(ValueError, match="no update"):
        rule.applied_to(Block.of(flat(0, 0)))


@pytest.mark.parametrize("codec", NAMES)
def test_encoded_updates_are_kept_as_they_are_decoded(codec: str) -> None:
    manifest = manifest_of(w=("F32", (2048,)), b=("F32", (3,)))
    updates = [random_flat(manifest, seed) for seed in range(3)]
    found = codec_of(codec)
    rule = Aggregation(RuleName.MEDIAN).begun(manifest, Memory(), torch.float32)
    for index, update in enumerate(updates):
        rule.add(f"c{index}", Block.of(found.encode(update, manifest)), 1, found)
    model = rule.applied_to(Block.of(torch.zeros(manifest.nbytes, dtype=torch.uint8))).model
    decoded = [found.decode(found.encode(update, manifest), manifest) for update in updates]
    expected = torch.stack([d.view(torch.float32) for d in decoded]).sort(dim=0).values[1]
    assert torch.equal(model.tensor.view(torch.float32), expected)


@pytest.mark.parametrize("rule", tuple(RuleName))
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_update_that_is_not_finite_leaves_no_trace(rule: RuleName, value: float) -> None:
    updates = [flat(1, 2)] * 5
    rule_of_round = Aggregation(rule).begun(TWO, Memory(), torch.float32)
    with pytest.raises(FednotError) as refused:
        rule_of_round.add("bad", Block.of(flat(1, value)), 1, PLAIN)
    assert refused.value.reason is Reason.NOT_FINITE
    assert "w" in refused.value.message
    for index, update in enumerate(updates):
        rule_of_round.add(f"c{index}", Block.of(update), 1, PLAIN)
    assert weights(rule_of_round.applied_to(Block.of(flat(0, 0)))) == [1.0, 2.0]


def test_a_value_that_the_model_cannot_hold_is_refused() -> None:
    """int8 gives float32, and 1e6 is beyond float16."""
    narrow = manifest_of(w=("F16", (2048,)))
    codec = codec_of("int8")
    wide = {"w": torch.full((2048,), 1e6)}
    rule = Aggregation(RuleName.MEDIAN).begun(narrow, Memory(), torch.float32)
    with pytest.raises(FednotError) as refused:
        rule.add("c", Block.of(codec.encode_tensors(wide, narrow)), 1, codec)
    assert refused.value.reason is Reason.NOT_FINITE


@pytest.mark.parametrize("rule", tuple(RuleName))
def test_an_update_without_examples_is_refused(rule: RuleName) -> None:
    round_rule = Aggregation(rule).begun(TWO, Memory(), torch.float32)
    with pytest.raises(FednotError) as refused:
        round_rule.add("c", Block.of(flat(1, 1)), 0, PLAIN)
    assert refused.value.reason is Reason.WRONG_NUM_EXAMPLES


@pytest.mark.parametrize(
    ("rule", "byzantine", "fewest"),
    [
        (RuleName.MEAN, 3, 1),
        (RuleName.MEDIAN, 3, 3),
        (RuleName.TRIMMED_MEAN, 1, 3),
        (RuleName.TRIMMED_MEAN, 2, 5),
        (RuleName.MULTI_KRUM, 1, 5),
        (RuleName.MULTI_KRUM, 2, 7),
    ],
)
def test_too_few_updates_are_said_and_not_averaged(
    rule: RuleName, byzantine: int, fewest: int
) -> None:
    how = Aggregation(rule, byzantine)
    assert how.fewest == fewest
    aggregate(how, [flat(1, 1)] * fewest)
    if fewest > 1:
        with pytest.raises(TooFewUpdatesError, match=rf"{rule} needs {fewest} .* {fewest - 1} "):
            aggregate(how, [flat(1, 1)] * (fewest - 1))


@pytest.mark.parametrize("rule", [RuleName.MEAN, *KEEPING])
def test_updates_above_the_norm_are_scaled_down_to_it(rule: RuleName) -> None:
    """(30, 40) has norm 50; clipped to 5 it is (3, 4). So is each of five of them, and their mean.

    (0.3, 0.4) is below it and stays.
    """
    how = Aggregation(rule, clip_norm=5.0)
    large = aggregate(how, [flat(30, 40)] * 5)
    small = aggregate(how, [flat(0.3, 0.4)] * 5)
    assert weights(large) == pytest.approx([3.0, 4.0])
    assert weights(small) == pytest.approx([0.3, 0.4])
    assert all(Anomaly.CLIPPED in large.oddities[f"c{index}"] for index in range(5))
    assert not any(Anomaly.CLIPPED in odd for odd in small.oddities.values())


def test_one_hostile_update_moves_a_clipped_mean_no_further_than_its_share() -> None:
    """Four honest updates of 0 and one of 1e6, clipped to 1: the mean is 1 / 5."""
    updates = [flat(0, 0)] * 4 + [flat(1e6, 0)]
    assert weights(aggregate(Aggregation(clip_norm=1.0), updates)) == pytest.approx([0.2, 0.0])


def test_the_norm_is_over_all_floats_and_integers_are_not_scaled() -> None:
    """3 in float32, 4 in float64 and 12 in float16 make 13; clipped to 1.3 a tenth is left.

    The counter stays: a BatchNorm that counted 7 batches counted no fewer.
    """
    mixed = manifest_of(a=("F32", (1,)), b=("F64", (1,)), c=("F16", (1,)), n=("I64", ()))
    update = flatten(
        {
            "a": torch.tensor([3.0]),
            "b": torch.tensor([4.0], dtype=torch.float64),
            "c": torch.tensor([12.0], dtype=torch.float16),
            "n": torch.tensor(7),
        },
        mixed,
    )
    for rule in (RuleName.MEAN, RuleName.MEDIAN):
        found = aggregate(Aggregation(rule, clip_norm=1.3), [update] * 3, manifest=mixed)
        result = views(found.model.tensor, mixed)
        assert [float(result[name]) for name in "abc"] == pytest.approx([0.3, 0.4, 1.2], rel=1e-3)
        assert int(result["n"]) == 7


def test_a_finite_update_of_infinite_norm_is_clipped_to_nothing_but_small() -> None:
    """1e30 squared is beyond float32 and 1e200 squared is beyond float64; neither is NaN or Inf."""
    assert weights(aggregate(Aggregation(clip_norm=1.0), [flat(1e30, 0)])) == pytest.approx([1, 0])
    double = manifest_of(w=("F64", (1,)))
    update = flatten({"w": torch.tensor([1e200], dtype=torch.float64)}, double)
    found = aggregate(Aggregation(clip_norm=1.0), [update], manifest=double)
    assert weights(found, double)[0] <= 1.0


@pytest.mark.parametrize("rule", [RuleName.MEAN, *KEEPING])
def test_a_norm_far_above_the_others_is_odd(rule: RuleName) -> None:
    """The median of 1, 1, 1, 1 and 6 is 1, and 6 is more than five times that."""
    found = aggregate(Aggregation(rule), [flat(1, 0)] * 4 + [flat(6, 0)])
    assert Anomaly.OUTLIER_NORM in found.oddities["c4"]
    assert not any(Anomaly.OUTLIER_NORM in found.oddities.get(f"c{i}", ()) for i in range(4))


@pytest.mark.parametrize("rule", KEEPING)
def test_an_update_against_the_others_is_odd(rule: RuleName) -> None:
    found = aggregate(Aggregation(rule), [flat(1, 0.1)] * 4 + [flat(-1, 0.1)])
    assert Anomaly.OPPOSED in found.oddities["c4"]
    assert not any(Anomaly.OPPOSED in found.oddities.get(f"c{i}", ()) for i in range(4))


@pytest.mark.parametrize("rule", KEEPING)
def test_one_of_five_cannot_move_the_model_beyond_the_others(rule: RuleName) -> None:
    """Whatever the fifth sends, the step stays between the least and the greatest of the honest."""
    honest = [flat(x, 1 - x) for x in (0.1, 0.2, 0.3, 0.4)]
    for hostile in (flat(1e30, -1e30), flat(-50, 50), flat(0.25, 1e6)):
        step = weights(aggregate(Aggregation(rule), [*honest, hostile]))
        assert 0.1 - 1e-6 <= step[0] <= 0.4 + 1e-6
        assert 0.6 - 1e-6 <= step[1] <= 0.9 + 1e-6
