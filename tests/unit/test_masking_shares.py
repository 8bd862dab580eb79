"""Shares of a secret: enough of them rebuild it, fewer tell nothing."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fednot.secure_aggregation import shamir


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
