"""A whole masked round between participants and a sum, with clients that drop out at each step."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fednot.errors import FednotError, Reason
from fednot.manifest import Manifest
from fednot.secure_aggregation import quantised
from fednot.tensors import empty, flatten_module
from tests.support.masked_round import PlayedRound, order_of

MODULE = nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3))
MANIFEST = Manifest.of(MODULE)


def update(seed: int) -> torch.Tensor:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3))
        module[1].num_batches_tracked += seed
        return flatten_module(module, MANIFEST)


def updates(names: list[str]) -> dict[str, tuple[torch.Tensor, int]]:
    return {name: (update(place), 10 * place) for place, name in enumerate(names, start=1)}


def expected(given: dict[str, tuple[torch.Tensor, int]]) -> dict[str, torch.Tensor]:
    """The plain weighted mean in float64."""
    total = sum(count for _, count in given.values())
    found = {}
    for spec in MANIFEST:
        part = slice(spec.byte_offset, spec.byte_offset + spec.nbytes)
        terms = [flat[part].view(spec.torch_dtype).double() * n for flat, n in given.values()]
        found[spec.name] = torch.stack(terms).sum(0) / total
    return found


def check_mean(flat: torch.Tensor, given: dict[str, tuple[torch.Tensor, int]]) -> None:
    """Off by at most half a step times K * most_examples / examples, and float32's rounding.

    Steps: 4 / floor((2^31 - 1) / 9) = 1.7e-8 with at most 9 clients; K * 100 / (10 + 20 + ...) is
    at most 10; so 8.4e-8, and values of up to 1 lose up to 6e-8 as float32.
    """
    for name, mean in expected(given).items():
        spec = MANIFEST[name]
        part = flat[spec.byte_offset : spec.byte_offset + spec.nbytes].view(spec.torch_dtype)
        if spec.torch_dtype.is_floating_point:
            torch.testing.assert_close(part.double(), mean, atol=2e-7, rtol=0)
        else:
            assert part.tolist() == mean.round().tolist()


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_the_sum_is_that_of_the_survivors_whoever_drops_out(data: st.DataObject) -> None:
    count = data.draw(st.integers(3, 6))
    order = order_of(count, data.draw(st.integers(count // 2 + 1, count)))

    def left(names: list[str], least: int) -> list[str]:
        kept = data.draw(st.sets(st.sampled_from(names), min_size=least))
        return sorted(kept)

    played = PlayedRound(order, MANIFEST)
    there = left(list(order.cohort), max(order.threshold, 3))
    played.advertise(there)
    sharing = left(there, order.threshold)
    played.share(sharing)
    given = updates(left(sharing, order.threshold))
    played.mask(given)
    signing = left(list(given), order.threshold)
    signatures = played.confirm(signing)
    revealing = left(signing, order.threshold)
    examples = {name: n for name, (_, n) in given.items()}
    check_mean(played.unmask(signatures, examples, revealing).mean(), given)


def all_but_unmasked(count: int, threshold: int) -> tuple[PlayedRound, dict[str, bytes]]:
    played = PlayedRound(order_of(count, threshold), MANIFEST)
    played.advertise()
    played.share()
    played.mask(updates(list(played.order.cohort)))
    return played, played.confirm()


def test_a_masked_update_has_nothing_of_the_update() -> None:
    """The same update twice, masked, agrees in no element (chance: 23 * 2^-32)."""
    payloads = []
    for _ in range(2):
        played = PlayedRound(order_of(3), MANIFEST)
        played.advertise()
        played.share()
        played.mask({"c1": (update(1), 10)})
        payloads.append(played.payloads["c1"].view(torch.int32))
    plain = quantised(update(1), MANIFEST, 10, order_of(3).scale).payload.view(torch.int32)
    assert not bool((payloads[0] == payloads[1]).any())
    assert not bool((payloads[0] == plain).any())


def test_masks_of_pairs_alone_do_not_hide_who_came_too_late() -> None:
    """The reason for double masking: c3 is taken for lost, its pairwise masks are taken off, and
    what then came of it is still noise."""
    played = PlayedRound(order_of(4, 3), MANIFEST)
    played.advertise()
    played.share()
    given = updates(["c1", "c2", "c3", "c4"])
    played.mask(given)
    late = played.payloads.pop("c3")
    signatures = played.confirm()
    examples = {name: n for name, (_, n) in given.items()}
    total = played.unmask(signatures, examples, list(signatures))
    kept = {name: row for name, row in given.items() if name != "c3"}
    check_mean(total.mean(), kept)
    with pytest.raises(ValueError, match="already"):
        total.add("c3", late, 30)


def test_too_few_shares_leave_the_sum_masked() -> None:
    played, signatures = all_but_unmasked(4, 3)
    with pytest.raises(FednotError, match="2 shares, and 3 are needed") as refusal:
        played.unmask(signatures, dict.fromkeys(played.payloads, 10), ["c1", "c2"])
    assert refusal.value.reason is Reason.MASKING_FAILED


def test_a_sum_with_a_foreign_payload_in_it_is_noise_and_said_to_be() -> None:
    played, signatures = all_but_unmasked(3, 2)
    played.payloads["c2"] = played.payloads["c2"].flip(0)
    with pytest.raises(FednotError, match="noise"):
        played.unmask(signatures, dict.fromkeys(played.payloads, 10), list(signatures))


def test_an_empty_update_sums_to_nothing() -> None:
    played = PlayedRound(order_of(3), MANIFEST)
    played.advertise()
    played.share()
    given = dict.fromkeys(played.order.cohort, (empty(MANIFEST), 10))
    played.mask(given)
    total = played.unmask(played.confirm(), dict.fromkeys(given, 10), list(given))
    assert not bool(total.mean().any())
