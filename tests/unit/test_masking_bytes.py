"""The bytes of a masked round, written anew by hand from fednot/secure_aggregation/__init__.py.

Another language can check itself by the digests here.
"""

from __future__ import annotations

import hashlib
import hmac

from fednot.secure_aggregation.keys import KeyPair, decrypted, encrypted, pair_key, seed_key
from fednot.secure_aggregation.terms import Terms, keys_text, share_text, survivors_text

ATTEMPT = bytes(range(16))
TERMS = Terms(ATTEMPT, 3, 7, 1, 3, ("clinic-b", "clinic-a", "clinic-c"), 16.0, 250)
A, B = KeyPair.of_private(b"\x01" * 32), KeyPair.of_private(b"\x02" * 32)


def text(*parts: bytes) -> bytes:
    return b"".join(len(part).to_bytes(4, "little") + part for part in parts)


def hkdf(secret: bytes, info: bytes) -> bytes:
    """RFC 5869 with SHA-256 and the attempt as salt; 32 bytes are one block."""
    extracted = hmac.digest(ATTEMPT, secret, "sha256")
    return hmac.digest(extracted, info + b"\x01", "sha256")


def test_the_terms() -> None:
    names = (b"clinic-a", b"clinic-b", b"clinic-c")
    numbers = (b"3", b"7", b"1", b"3", b"0x1.0000000000000p+4", b"250")
    written = text(b"fednot masked round 1", ATTEMPT, *numbers, *names)
    assert TERMS.digest == hashlib.sha256(written).digest()
    assert TERMS.digest.hex() == (
        "eb8c258d42a1e8837c23115e9bd221352312d198669ae8b9c784c2ff8834360e"
    )


def test_what_is_signed_and_sealed() -> None:
    digest = TERMS.digest
    assert keys_text(TERMS, "clinic-a", b"c" * 32, b"m" * 32) == text(
        b"fednot masked keys 1", digest, b"clinic-a", b"c" * 32, b"m" * 32
    )
    assert survivors_text(TERMS, ["clinic-c", "clinic-a"]) == text(
        b"fednot survivors 1", digest, b"clinic-a", b"clinic-c"
    )
    assert share_text(TERMS, "clinic-b", "clinic-a") == text(
        b"fednot share 1", digest, b"clinic-b", b"clinic-a"
    )


def test_the_keys_of_streams() -> None:
    assert seed_key(TERMS, b"s" * 32, "clinic-a") == hkdf(b"s" * 32, text(b"seed", b"clinic-a"))
    found = pair_key(TERMS, A, "clinic-b", "clinic-a", B.public)
    assert found == pair_key(TERMS, B, "clinic-a", "clinic-b", A.public)
    assert found.hex() == "db054bf6be1fcb8e87d9f4ed1ca3f4ecc5579e544e34c7c81b148d384c7cb05b"


def test_a_share_is_read_by_its_receiver_alone() -> None:
    sealed = encrypted(TERMS, A, "clinic-a", "clinic-b", B.public, b"x" * 66)
    assert len(sealed) == 12 + 66 + 16
    assert decrypted(TERMS, B, "clinic-a", "clinic-b", A.public, sealed) == b"x" * 66
    assert encrypted(TERMS, A, "clinic-a", "clinic-b", B.public, b"x" * 66) != sealed
