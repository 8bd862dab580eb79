"""Codecs: how an update's bytes are made smaller on their way to the server.

The names are none, bf16, fp16, int8 and topk; `masked`, which only secure aggregation takes, is
`fednot.secure_aggregation.ring`'s. An encoded update is a *payload*, and what is in it
stands here byte by byte, so that any language can write one. All numbers are little-endian, floats
are IEEE 754, every section starts at a multiple of 8, every byte that is called padding is zero,
and the size of a payload follows from the manifest and the codec's parameters alone.

A payload holds one section for each tensor, in the order of the manifest, with nothing around them.
A tensor is *coded* if all of this holds, else it is *raw*:

- its dtype is F64, F32, F16 or BF16 and its kind is parameter,
- it has at least 1024 elements,
- its coded section is smaller than its raw one. (So 16-bit floats are raw under bf16 and fp16.)

Raw section, n elements of the tensor's dtype, of w bytes each (the codec none knows no other)::

    0     n * w bytes         the elements, row by row, as they stand in the flat update
    n*w   0 to 7 bytes        padding to a multiple of 8

So stretches of raw tensors look as they do in the flat update, and under none the whole payload
does. Tensors of BOOL and U8 have no differences; they are raw, and a reader skips their elements.

Coded section under bf16 and fp16, n elements::

    0     n * 2 bytes         bfloat16 or binary16, row by row
    n*2   0 to 6 bytes        padding to a multiple of 8

A writer rounds to the nearest, ties to even, by way of float32, and puts the largest finite number
in place of what is beyond it: +-65504 for fp16, about +-3.39e38 for bf16. What fp16 cannot tell
from zero (below 3e-8) becomes zero.

Coded section under int8, n elements::

    0     4 bytes             scale, float32: finite, not negative
    4     4 bytes             padding
    8     n bytes             int8, row by row; element i is (float32) q[i] * scale
    8+n   0 to 7 bytes        padding to a multiple of 8

A writer takes scale = max|x| / 127 and q = x / scale rounded to the nearest, ties to even, within
-127 to 127; if that scale is below 2^-126 it writes scale 0 and zeros.

Coded section under topk, n elements, fraction f (float64, 0 < f <= 1), k = ceil(f * n) with the
product in float64, at least 1 and at most n; v = 4 if n <= 2^31, else 8::

    0     k * v bytes         places in the tensor, row by row from 0: int32 or int64, ascending,
                              none twice, all below n
    k*v   0 or 4 bytes        padding to a multiple of 8
    p     k * 4 bytes         values at those places, float32; p is where the padding ends
    p+k*4 0 or 4 bytes        padding to a multiple of 8

All other elements are zero. A writer takes the k largest magnitudes.
"""

from __future__ import annotations

from typing import Final

import torch

from fednot.codecs.codec import Codec, Piece
from fednot.codecs.int8 import Int8
from fednot.codecs.none import Plain
from fednot.codecs.sixteen_bit import SixteenBit
from fednot.codecs.topk import DEFAULT_FRACTION, TopK

__all__ = ["NAMES", "Codec", "Piece", "codec_of"]

NAMES: Final = ("none", "bf16", "fp16", "int8", "topk")


def codec_of(name: str, top_k_fraction: float = DEFAULT_FRACTION) -> Codec:
    """The codec of a name; topk keeps that fraction of each tensor, the others do not look at it.

    Raises ValueError for another name (and lists them) and for a fraction that topk cannot keep.
    """
    match name:
        case "none":
            return Plain()
        case "bf16":
            return SixteenBit("bf16", torch.bfloat16)
        case "fp16":
            return SixteenBit("fp16", torch.float16)
        case "int8":
            return Int8()
        case "topk":
            return TopK(top_k_fraction)
        case "masked":
            from fednot.secure_aggregation.ring import Masked

            return Masked()
    raise ValueError(f"there is no codec {name!r}; use one of {', '.join(NAMES)}")
