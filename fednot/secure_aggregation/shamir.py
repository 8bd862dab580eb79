"""Shares of a secret of 32 bytes: any `threshold` of them rebuild it, fewer say nothing of it.

Shamir, How to share a secret, CACM 1979, over the numbers modulo the smallest prime above 2^256.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Final

PRIME: Final = (1 << 256) + 297
SECRET_BYTES: Final = 32
SHARE_BYTES: Final = 33


def split(secret: bytes, threshold: int, count: int) -> list[bytes]:
    """`count` shares of a secret, that of place 1 first.

    Raises ValueError for a secret of another size, or a threshold that is not within 1 to `count`.
    """
    if len(secret) != SECRET_BYTES or not 1 <= threshold <= count:
        raise ValueError(
            f"{len(secret)} bytes cannot be shared among {count} with a threshold of {threshold}"
        )
    polynomial = [int.from_bytes(secret, "little")]
    polynomial += [secrets.randbelow(PRIME) for _ in range(threshold - 1)]
    return [_at(polynomial, place).to_bytes(SHARE_BYTES, "little") for place in range(1, count + 1)]


def rebuilt(shares: Mapping[int, bytes], threshold: int) -> bytes:
    """The secret behind shares, by their places.

    With more shares than the threshold the first and the last of them must agree. Raises ValueError
    for too few shares, or such as do not belong together.
    """
    if len(shares) < threshold:
        raise ValueError(f"{len(shares)} shares are fewer than the threshold of {threshold}")
    values = {place: int.from_bytes(share, "little") for place, share in sorted(shares.items())}
    if any(place < 1 or value >= PRIME for place, value in values.items()):
        raise ValueError("a share is no number of the field")
    places = list(values)
    ends = (places[:threshold], places[-threshold:])
    found = {_at_zero({place: values[place] for place in end}) for end in ends}
    secret = found.pop()
    if found or secret >= 1 << (8 * SECRET_BYTES):
        raise ValueError("the shares do not belong together")
    return secret.to_bytes(SECRET_BYTES, "little")


def _at(polynomial: list[int], place: int) -> int:
    value = 0
    for coefficient in reversed(polynomial):
        value = (value * place + coefficient) % PRIME
    return value


def _at_zero(values: Mapping[int, int]) -> int:
    return sum(value * _weight(place, values) for place, value in values.items()) % PRIME


def _weight(place: int, places: Mapping[int, int]) -> int:
    """Lagrange's weight of a place for the value at 0."""
    above = below = 1
    for other in places:
        if other != place:
            above = above * other % PRIME
            below = below * (other - place) % PRIME
    return above * pow(below, -1, PRIME) % PRIME
