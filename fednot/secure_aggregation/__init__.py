"""Secure aggregation: the server sees the sum of a round's updates and no single one.

Bonawitz et al., Practical Secure Aggregation for Privacy-Preserving Machine Learning, CCS 2017,
in the version against an active server (figure 4 with the parts that are underlined there):
pairwise masks that cancel out in the sum, a mask of its own for each update, Shamir shares of both
secrets, signed keys and a list of survivors that is signed before any share is revealed. Each
secret is made for one attempt and for nothing else.

What the others read is laid down here byte by byte. || joins; D(a, b, ...) is SHA-256 over the
parts, each after its length as four bytes, big-endian; names are UTF-8; L is the ASCII text
"fednot secure aggregation 1: "; lists of names are sorted by code point.

Order digest::

    O = D(L || "order", attempt, round, version, threshold, most_examples,
          value_range, name, name, ...)

with the four numbers as 8 bytes, big-endian, value_range as a double of 8 bytes, big-endian, and
the names of the cohort.

Signatures are ECDSA on P-256 with SHA-256, DER, by the key of the client's certificate, over::

    keys         L || D("keys", O, client, cipher_key, mask_key)
    survivors    L || D("survivors", O, R, D(name, ...), D(name, ...))

where R = D("roster", name, cipher_key, mask_key, name, ...) over all who take part, the first list
is of those who gave shares, and the second of those whose masked updates are in the sum.

Seeds and keys come from HKDF-SHA256 without salt, 32 bytes, with the info L || D(purpose, ...)::

    pair mask    of X25519(mask_key, mask_key): D("pair mask", O, name, mask_key, name, mask_key),
                 the lower name first
    own mask     of the client's seed: D("own mask", O, client)
    shares       of X25519(cipher_key, cipher_key): D("shares", O, giver, taker, giver's cipher_key,
                 taker's cipher_key)

A mask is the ChaCha20 stream (RFC 8439) of its seed with nonce and counter 0, as little-endian
uint32. A client adds its own mask and those that it shares with clients of higher names, and
subtracts those that it shares with clients of lower ones, modulo 2^32.

Shares are points of a polynomial over the integers modulo 2^256 + 297, of degree threshold - 1,
whose value at 0 is the secret as a big-endian number; a client's share is the value at its place,
from 1 on, among the sorted names of all who take part: 33 bytes, big-endian.

The ciphertext of a pair of shares, 94 bytes::

    0     12 bytes            nonce, random
    12    66 bytes            ChaCha20-Poly1305: share of the mask key, share of the seed
    78    16 bytes            tag; the associated data is D("shares", ...) as above

A payload, for averaged tensors of n elements together (all but BOOL and U8, in the order of the
manifest)::

    0     n * 4 bytes         little-endian uint32, the elements row by row
    n*4   4 or 8 bytes        to a multiple of 8: masked zeros, which show whether all masks went
"""

from __future__ import annotations

from fednot.codecs.masked import Masked
from fednot.secure_aggregation.keys import PublicKeys
from fednot.secure_aggregation.order import Order
from fednot.secure_aggregation.participant import Participant, Revealed
from fednot.secure_aggregation.ring import Quantised, mean, quantised
from fednot.secure_aggregation.roster import Roster
from fednot.secure_aggregation.scale import Scale
from fednot.secure_aggregation.sum import MaskedSum

__all__ = [
    "Masked",
    "MaskedSum",
    "Order",
    "Participant",
    "PublicKeys",
    "Quantised",
    "Revealed",
    "Roster",
    "Scale",
    "mean",
    "quantised",
]
