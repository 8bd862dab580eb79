"""Masks: streams of ChaCha20, added to payloads and taken off again, modulo 2^32.

A seed gives one stream, so it is used for one attempt only; the nonce therefore is zero.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

PIECE: Final = 1 << 20
"""Bytes of a stream that are made at a time."""
LONGEST: Final = 1 << 38
"""The bytes after which ChaCha20's counter of 32 bits starts anew."""
SEED_BYTES: Final = 32
_WORD: Final = np.dtype("<u4")


def add(payload: torch.Tensor, seed: bytes) -> None:
    """Adds a seed's mask to a payload in place: contiguous uint8, a multiple of 4 bytes.

    Raises ValueError for a seed that is not 32 bytes and a payload beyond the stream.
    """
    _combine(payload, seed, np.add)


def subtract(payload: torch.Tensor, seed: bytes) -> None:
    """Takes a seed's mask off a payload in place. Raises ValueError as `add` does."""
    _combine(payload, seed, np.subtract)


def add_payload(total: torch.Tensor, payload: torch.Tensor) -> None:
    """Adds a payload to a sum in place, modulo 2^32. Raises ValueError if their sizes differ."""
    if total.numel() != payload.numel():
        raise ValueError(f"the payload has {payload.numel()} bytes, not {total.numel()}")
    words, others = _words(total), _words(payload)
    for start in range(0, len(words), PIECE):
        here = words[start : start + PIECE]
        np.add(here, others[start : start + PIECE], out=here)


def _combine(payload: torch.Tensor, seed: bytes, operation: np.ufunc) -> None:
    if len(seed) != SEED_BYTES:
        raise ValueError(f"the seed of a mask has {len(seed)} bytes, not {SEED_BYTES}")
    if payload.numel() > LONGEST:
        raise ValueError(f"a payload of {payload.numel()} bytes is beyond the stream of a mask")
    words = _words(payload)
    stream = Cipher(ChaCha20(seed, bytes(16)), mode=None).encryptor()
    size = min(PIECE, payload.numel())
    zeros, made = bytes(size), bytearray(size)
    mask = np.frombuffer(made, dtype=_WORD)
    step = PIECE // _WORD.itemsize
    for start in range(0, len(words), step):
        here = words[start : start + step]
        stream.update_into(memoryview(zeros)[: here.nbytes], memoryview(made)[: here.nbytes])
        operation(here, mask[: len(here)], out=here)


def _words(payload: torch.Tensor) -> np.ndarray[tuple[int], np.dtype[np.uint32]]:
    if payload.dtype is not torch.uint8 or not payload.is_contiguous() or payload.numel() % 4:
        raise ValueError("a payload is a run of uint8, a multiple of 4 long")
    return payload.numpy().view(_WORD)
