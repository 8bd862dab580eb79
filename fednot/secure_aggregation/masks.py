"""Streams that hide numbers, and what adds them to a payload modulo 2^32."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

PIECE_BYTES: Final = 1 << 20
_NONCE: Final = bytes(16)
_ZEROS: Final = bytes(PIECE_BYTES)


def add_stream(payload: torch.Tensor, key: bytes, sign: int = 1) -> None:
    """Adds the stream of a 32-byte key to a payload (uint8, a multiple of 4) in place.

    A sign of -1 subtracts it. A key must not be used for two payloads of one client.
    """
    if sign not in (1, -1):
        raise ValueError(f"a sign is 1 or -1, not {sign}")
    words = payload.numpy().view(np.uint32)
    combine = np.add if sign == 1 else np.subtract
    stream = Cipher(ChaCha20(key, _NONCE), mode=None).encryptor()
    step = PIECE_BYTES // words.itemsize
    for start in range(0, len(words), step):
        piece = words[start : start + step]
        mask = np.frombuffer(stream.update(_ZEROS[: piece.nbytes]), dtype=np.uint32)
        combine(piece, mask, out=piece)
