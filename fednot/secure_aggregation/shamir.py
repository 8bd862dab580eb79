"""Shamir's secret sharing: of n shares any t give the secret, and fewer tell nothing of it.

Shamir, How to share a secret, CACM 1979. The field is that of the smallest prime above 2^256, so
that every secret of 32 bytes is one of its elements. A polynomial of degree t - 1 has the secret as
its value at 0 and is random otherwise; the share at a place is its value there.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Final

PRIME: Final = 2**256 + 297
SECRET_BYTES: Final = 32
SHARE_BYTES: Final = 33


def split(secret: bytes, threshold: int, count: int) -> list[bytes]:
    """Shares of a secret of 32 bytes, 33 bytes each; the first is that of place 1.

    Raises ValueError for a secret of another size, or a threshold that is not 1 to `count`.
    """
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"the secret has {len(secret)} bytes, not {SECRET_BYTES}")
    if not 1 <= threshold <= count:
        raise ValueError(f"the threshold is {threshold}, not 1 to {count}")
    coefficients = [int.from_bytes(secret, "big")]
    coefficients += [secrets.randbelow(PRIME) for _ in range(threshold - 1)]
    return [
        _value(coefficients, place).to_bytes(SHARE_BYTES, "big") for place in range(1, count + 1)
    ]


def joined(shares: Mapping[int, bytes], threshold: int) -> bytes:
    """The secret of at least `threshold` shares by their places.

    Shares beyond the threshold are held against the others. Raises ValueError for too few, for
    what is no share, for shares that do not belong together, and if they give no secret.
    """
    points = {place: _element(place, share) for place, share in shares.items()}
    if threshold < 1 or len(points) < threshold:
        raise ValueError(f"there are {len(points)} shares, and {threshold} are needed")
    places = sorted(points)
    first, others = places[:threshold], places[threshold:]
    known = {place: points[place] for place in first}
    if any(_interpolated(known, place) != points[place] for place in others):
        raise ValueError("the shares do not belong together")
    secret = _interpolated(known, 0)
    if secret >= 1 << (8 * SECRET_BYTES):
        raise ValueError("the shares give no secret of 32 bytes")
    return secret.to_bytes(SECRET_BYTES, "big")


def _value(coefficients: list[int], place: int) -> int:
    total = 0
    for coefficient in reversed(coefficients):
        total = (total * place + coefficient) % PRIME
    return total


def _element(place: int, share: bytes) -> int:
    if not 1 <= place < PRIME:
        raise ValueError(f"there is no share at place {place}")
    value = int.from_bytes(share, "big")
    if len(share) != SHARE_BYTES or value >= PRIME:
        raise ValueError(f"what stands at place {place} is no share")
    return value


def _interpolated(points: Mapping[int, int], at: int) -> int:
    """Lagrange's polynomial through the points, at a place; one inversion in all."""
    total, common = 0, 1
    for place, value in points.items():
        above, below = value, 1
        for other in points:
            if other != place:
                above = above * (at - other) % PRIME
                below = below * (place - other) % PRIME
        total = (total * below + above * common) % PRIME
        common = common * below % PRIME
    return total * pow(common, -1, PRIME) % PRIME
