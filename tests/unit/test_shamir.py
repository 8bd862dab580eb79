"""Shamir's sharing: any t shares give the secret, fewer do not, and bad ones are told."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fednot.secure_aggregation import shamir

SECRETS = st.binary(min_size=32, max_size=32)


def is_probable_prime(number: int, rounds: int = 40) -> bool:
    """Miller-Rabin; a composite passes 40 rounds with a chance below 4^-40."""
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    draw = random.Random(7)
    for _ in range(rounds):
        power = pow(draw.randrange(2, number - 1), odd, number)
        if power in (1, number - 1):
            continue
        for _ in range(twos - 1):
            power = power * power % number
            if power == number - 1:
                break
        else:
            return False
    return True


def test_the_modulus_is_the_smallest_prime_above_all_secrets() -> None:
    assert is_probable_prime(shamir.PRIME)
    assert not any(is_probable_prime(n, 5) for n in range(2**256 + 1, shamir.PRIME, 2))


@given(secret=SECRETS, data=st.data())
def test_any_t_shares_give_the_secret(secret: bytes, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 12))
    threshold = data.draw(st.integers(1, count))
    shares = shamir.split(secret, threshold, count)
    places = data.draw(st.permutations(range(1, count + 1)))
    taken = places[: data.draw(st.integers(threshold, count))]
    assert shamir.joined({place: shares[place - 1] for place in taken}, threshold) == secret


@given(secret=SECRETS, other=SECRETS)
def test_t_minus_one_shares_fit_every_secret(secret: bytes, other: bytes) -> None:
    """With t - 1 shares of one secret there is a share that makes them shares of any other.

    Of t = 3: the polynomial of degree 2 through (0, other) and two shares gives the third.
    """
    first, second, *_ = shamir.split(secret, 3, 5)
    points = {0: int.from_bytes(other, "big"), 1: shamir._element(1, first)}
    points[2] = shamir._element(2, second)
    third = shamir._interpolated(points, 3).to_bytes(shamir.SHARE_BYTES, "big")
    assert shamir.joined({1: first, 2: second, 3: third}, 3) == other


def test_two_sharings_of_one_secret_differ() -> None:
    assert not set(shamir.split(bytes(32), 2, 3)) & set(shamir.split(bytes(32), 2, 3))


def test_a_wrong_share_is_told_by_the_others() -> None:
    shares = dict(enumerate(shamir.split(bytes(32), 2, 4), start=1))
    shares[4] = shamir.split(bytes(32), 2, 4)[3]
    with pytest.raises(ValueError, match="do not belong together"):
        shamir.joined(shares, 2)


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        ({1: bytes(33)}, "1 shares, and 2 are needed"),
        ({1: bytes(33), 2: bytes(32)}, "no share"),
        ({1: bytes(33), 2: shamir.PRIME.to_bytes(33, "big")}, "no share"),
        ({0: bytes(33), 2: bytes(33)}, "no share at place 0"),
        ({1: (2**256).to_bytes(33, "big"), 2: (2**256).to_bytes(33, "big")}, "no secret"),
    ],
)
def test_what_are_no_shares_is_refused(shares: dict[int, bytes], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        shamir.joined(shares, 2)


@pytest.mark.parametrize(("size", "threshold", "count"), [(31, 2, 3), (32, 4, 3), (32, 0, 3)])
def test_what_cannot_be_split_is_refused(size: int, threshold: int, count: int) -> None:
    with pytest.raises(ValueError, match="the secret has|the threshold is"):
        shamir.split(bytes(size), threshold, count)
