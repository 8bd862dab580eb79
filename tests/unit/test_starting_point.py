"""The seed of a starting point."""

from __future__ import annotations

import pytest

from server.records import Version, VersionOrigin
from server.starting_point import seed_of


@pytest.mark.parametrize(
    ("head", "seed"),
    [("0000000000000003", 1), ("ffffffffffffffff", 2**63 - 1), ("8000000000000000", 2**62)],
)
def test_the_seed_is_the_first_63_bits_of_the_versions_sha256(head: str, seed: int) -> None:
    version = Version(
        number=2,
        sha256=head + "ab" * 24,
        parent=1,
        generation=0,
        lineage=1,
        origin=VersionOrigin.TRAINING,
        round=1,
        created_at=0.0,
        num_bytes=8,
    )
    assert seed_of(version) == seed
