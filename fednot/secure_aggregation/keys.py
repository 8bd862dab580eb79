"""The keys of a masked round: pairs, agreement, and shares encrypted between two clients."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Final, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fednot.secure_aggregation.shamir import SHARE_BYTES
from fednot.secure_aggregation.terms import Terms, share_text, text

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
CIPHERTEXT_BYTES: Final = NONCE_BYTES + 2 * SHARE_BYTES + 16


@dataclass(frozen=True)
class KeyPair:
    """An X25519 key pair as raw bytes, 32 each."""

    public: bytes
    private: bytes = field(repr=False)

    @classmethod
    def fresh(cls) -> Self:
        """A new pair."""
        return cls.of_private(X25519PrivateKey.generate().private_bytes_raw())

    @classmethod
    def of_private(cls, private: bytes) -> Self:
        """The pair of a private key. Raises ValueError for other than 32 bytes."""
        public = X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()
        return cls(public, private)


def check_public(public: bytes) -> None:
    """Raises ValueError for a public key with which nothing secret can be agreed on (RFC 7748,
    section 6.1: one of small order gives zeros with every private key).
    """
    X25519PrivateKey.generate().exchange(X25519PublicKey.from_public_bytes(public))


def pair_key(terms: Terms, own: KeyPair, client: str, other: str, public: bytes) -> bytes:
    """The key of the stream between two clients, the same for both.

    Raises ValueError for a public key that is none.
    """
    return _agreed(terms, b"pair", own, client, other, public)


def seed_key(terms: Terms, seed: bytes, client: str) -> bytes:
    """The key of the stream that a client adds alone."""
    return _derived(terms, seed, text(b"seed", client.encode()))


def encrypted(
    terms: Terms, own: KeyPair, sender: str, receiver: str, public: bytes, shares: bytes
) -> bytes:
    """Shares that only the receiver can read. Raises ValueError for a key that is none."""
    key = _agreed(terms, b"cipher", own, sender, receiver, public)
    nonce = os.urandom(NONCE_BYTES)
    sealed = ChaCha20Poly1305(key).encrypt(nonce, shares, share_text(terms, sender, receiver))
    return nonce + sealed


def decrypted(
    terms: Terms, own: KeyPair, sender: str, receiver: str, public: bytes, sealed: bytes
) -> bytes:
    """The shares that a sender encrypted. Raises ValueError if it did not, or they were changed."""
    if len(sealed) != CIPHERTEXT_BYTES:
        raise ValueError(f"an encrypted share has {CIPHERTEXT_BYTES} bytes, not {len(sealed)}")
    key = _agreed(terms, b"cipher", own, receiver, sender, public)
    nonce, rest = sealed[:NONCE_BYTES], sealed[NONCE_BYTES:]
    try:
        return ChaCha20Poly1305(key).decrypt(nonce, rest, share_text(terms, sender, receiver))
    except InvalidTag:
        raise ValueError(f"{sender} did not encrypt this share, or it was changed") from None


def _agreed(
    terms: Terms, purpose: bytes, own: KeyPair, client: str, other: str, public: bytes
) -> bytes:
    shared = X25519PrivateKey.from_private_bytes(own.private).exchange(
        X25519PublicKey.from_public_bytes(public)
    )
    names = sorted((client, other))
    return _derived(terms, shared, text(purpose, *(name.encode() for name in names)))


def _derived(terms: Terms, secret: bytes, info: bytes) -> bytes:
    return HKDF(SHA256(), KEY_BYTES, salt=terms.attempt, info=info).derive(secret)
