"""The bytes of masked rounds, so that another language can check itself against them.

Inputs are plain enough to type; each output is in hexadecimal, long ones as their SHA-256.
"""

from __future__ import annotations

import hashlib

import torch
from torch import nn

from fednot.manifest import Manifest
from fednot.secure_aggregation.keys import KeyPair, pair_key, seed_key
from fednot.secure_aggregation.masks import add_stream
from fednot.secure_aggregation.ring import quantised
from fednot.secure_aggregation.terms import Terms, keys_text, share_text, survivors_text
from fednot.tensors import as_bytes, flatten_module

TERMS = Terms(b"0123456789abcdef", 3, 7, 1, 3, ("c", "a", "b"), 16.0, 100)
A, B = KeyPair.of_private(b"A" * 32), KeyPair.of_private(b"B" * 32)


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_the_terms() -> None:
    assert TERMS.digest.hex() == (
        "bb54a11c7d6a401701fc752c142cfe4b7a5e9e8d0eaffefbcb9c8827464d065c"
    )


def test_the_texts_that_are_signed_or_go_with_a_share() -> None:
    assert sha(keys_text(TERMS, "a", b"C" * 32, b"M" * 32)) == (
        "5afcface1662140ab01a3c54ced0c678378bd3f409b12f4904946ecdaef61f8c"
    )
    assert sha(survivors_text(TERMS, ["c", "a", "b"])) == (
        "e0301f66b29cb31cda0c47e5552e8b1bcb5e7a9a616ddbca1705a3ae4e93c70b"
    )
    assert sha(share_text(TERMS, "a", "b")) == (
        "89a629ef799171c1440170a4c0c399c7711f45d45dbfbc4786df73ce9c669501"
    )


def test_the_keys_of_streams() -> None:
    assert A.public.hex() == ("7a1a4e709bf085ac494aba0469b9b1eda0ab1f78b16aabb79ffeda90623e8522")
    assert pair_key(TERMS, A, "a", "b", B.public).hex() == (
        "a6d41bb0be4aec7fb99cc94d6aa4cd2e4f18a46e976fb8faf498b88dbf99ef3e"
    )
    assert pair_key(TERMS, B, "b", "a", A.public).hex() == (
        "a6d41bb0be4aec7fb99cc94d6aa4cd2e4f18a46e976fb8faf498b88dbf99ef3e"
    )
    assert seed_key(TERMS, b"S" * 32, "a").hex() == (
        "629ddddb689920a386206697691a811671c095fc1599fe4ebc72ed0f5bcee2b6"
    )


def test_a_stream() -> None:
    payload = torch.zeros(16, dtype=torch.uint8)
    add_stream(payload, b"K" * 32)
    assert bytes(payload.tolist()).hex() == "2595d7b926e395b5a186bd1ac43002a8"


def test_a_payload() -> None:
    """1, -16 (and -17, clipped), 0.5 of 10 examples out of 100 with L = floor((2^31 - 1) / 3)."""
    layer = nn.Linear(4, 1, bias=False)
    layer.weight.data = torch.tensor([[1.0, -16.0, -17.0, 0.5]])
    manifest = Manifest.of(layer)
    payload, clipped = quantised(flatten_module(layer, manifest), manifest, 10, TERMS.scale)
    assert clipped == 1
    assert bytes(as_bytes(payload)).hex() == "44444400bcbbbbfbbcbbbbfb222222000000000000000000"


def test_the_stream_is_that_of_the_standard() -> None:
    """RFC 8439, appendix A.1, test vector 1: ChaCha20 of the key 0, nonce 0, counter 0."""
    payload = torch.zeros(64, dtype=torch.uint8)
    add_stream(payload, bytes(32))
    assert payload.numpy().tobytes().hex().startswith("76b8e0ada0f13d90405d6ae55386bd28")
