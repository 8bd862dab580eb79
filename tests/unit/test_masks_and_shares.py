"""The arithmetic under secure aggregation: shares, streams, and numbers in a ring."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fednot.errors import FednotError
from fednot.manifest import Manifest
from fednot.secure_aggregation import shamir
from fednot.secure_aggregation.masked_sum import add_payload
from fednot.secure_aggregation.masks import add_stream
from fednot.secure_aggregation.ring import Masked, Scale, mean_of, quantised
from fednot.tensors import empty, views

CLIENTS = 5
SCALE = Scale(CLIENTS, 16.0, 100)
MANIFEST = Manifest.of(nn.Sequential(nn.Linear(7, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)))
FIRST = "0.weight"


def update(value: int) -> torch.Tensor:
    """An update of which every element is the same."""
    flat = empty(MANIFEST)
    for view in views(flat, MANIFEST).values():
        view.fill_(value)
    return flat


@settings(max_examples=50, deadline=None)
@given(st.binary(min_size=32, max_size=32), st.data())
def test_any_shares_of_the_threshold_rebuild_the_secret(secret: bytes, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 9))
    threshold = data.draw(st.integers(1, count))
    shares = shamir.split(secret, threshold, count)
    places = data.draw(st.permutations(range(1, count + 1)))[:threshold]
    assert shamir.rebuilt({place: shares[place - 1] for place in places}, threshold) == secret
    with pytest.raises(ValueError, match="fewer"):
        shamir.rebuilt({place: shares[place - 1] for place in places[1:]}, threshold)


def test_a_share_that_was_changed_is_noticed_if_there_is_one_more_than_needed() -> None:
    shares = dict(enumerate(shamir.split(b"s" * 32, 3, 4), 1))
    shares[2] = bytes([shares[2][0] ^ 1]) + shares[2][1:]
    with pytest.raises(ValueError, match="belong together"):
        shamir.rebuilt(shares, 3)


def test_fewer_shares_fit_every_secret() -> None:
    """With t - 1 shares, each other secret has a polynomial through them too."""
    shares = shamir.split(bytes(32), 2, 3)
    assert shares[0] != shamir.split(bytes(32), 2, 3)[0]
    with pytest.raises(ValueError, match="field"):
        shamir.rebuilt({1: b"\xff" * 33, 2: shares[1]}, 2)


def test_the_field_is_one() -> None:
    """Miller and Rabin, with 40 bases: the smallest prime above 2^256 is 2^256 + 297."""
    assert is_prime(shamir.PRIME)
    assert not any(is_prime(number) for number in range((1 << 256) + 1, shamir.PRIME))


def is_prime(number: int) -> bool:
    if number % 2 == 0:
        return False
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in range(2, 42):
        power = pow(base, odd, number)
        if power in (1, number - 1):
            continue
        for _ in range(twos - 1):
            power = power * power % number
            if power == number - 1:
                break
        else:
            return False
    return True


def test_the_stream_is_that_of_the_standard() -> None:
    """RFC 8439, appendix A.1, test vector 1: ChaCha20 of the key 0, nonce 0, counter 0."""
    payload = torch.zeros(64, dtype=torch.uint8)
    add_stream(payload, bytes(32))
    assert payload.numpy().tobytes().hex().startswith("76b8e0ada0f13d90405d6ae55386bd28")


@pytest.mark.parametrize("size", [4, 1 << 20, (1 << 20) + 4])
def test_a_stream_that_is_taken_off_leaves_nothing(size: int) -> None:
    payload = torch.randint(0, 256, (size,), dtype=torch.uint8)
    before = payload.clone()
    add_stream(payload, b"k" * 32)
    assert not torch.equal(payload, before)
    add_stream(payload, b"k" * 32, -1)
    assert torch.equal(payload, before)


def test_what_does_not_fit_is_clipped_and_counted() -> None:
    flat = update(1)
    views(flat, MANIFEST)[FIRST][0, :3] = torch.tensor([17.0, -99.0, 16.0])
    scale = SCALE
    payload, clipped = quantised(flat, MANIFEST, 100, scale)
    assert clipped == 2
    found = views(mean_of(payload, MANIFEST, 100, scale), MANIFEST)[FIRST][0, :3]
    assert found.tolist() == pytest.approx([16.0, -16.0, 16.0], abs=1e-6)


@pytest.mark.parametrize("examples", [0, 101])
def test_a_weight_beyond_the_scale_is_refused(examples: int) -> None:
    with pytest.raises(ValueError, match="examples"):
        quantised(update(1), MANIFEST, examples, SCALE)


def test_an_update_that_is_not_finite_is_refused() -> None:
    flat = update(1)
    views(flat, MANIFEST)[FIRST][0, 0] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        quantised(flat, MANIFEST, 1, SCALE)


def test_the_largest_updates_do_not_leave_the_ring() -> None:
    scale = SCALE
    flat = update(1)
    for view in views(flat, MANIFEST).values():
        view.fill_(16)
    total = torch.zeros(Masked().size(MANIFEST), dtype=torch.uint8)
    for _ in range(CLIENTS):
        add_payload(total, quantised(flat, MANIFEST, 100, scale)[0])
    mean = views(mean_of(total, MANIFEST, 500, scale), MANIFEST)
    assert float(mean[FIRST].min()) == pytest.approx(16.0, abs=1e-6)


def test_a_masked_update_alone_is_not_read() -> None:
    with pytest.raises(FednotError, match="cannot be read"):
        list(Masked().pieces(torch.zeros(8, dtype=torch.uint8), MANIFEST))
