"""The server's arithmetic: adds masked payloads, and takes the masks off the sum, never off one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch

from fednot.errors import FednotError, Reason
from fednot.secure_aggregation import shamir
from fednot.secure_aggregation.keys import KeyPair, pair_key, seed_key
from fednot.secure_aggregation.masks import add_stream
from fednot.secure_aggregation.participant import Advertised, Revealed
from fednot.secure_aggregation.ring import ends_in_zeros
from fednot.secure_aggregation.terms import Terms

PIECE_WORDS: Final = 1 << 18


@dataclass(frozen=True)
class Unmasking:
    """Who took part in an attempt, and what they revealed.

    `roster` advertised keys, `sharers` of them gave shares, `survivors` of those sent an update;
    `revealed` has, by who revealed them, one share of each sharer.
    """

    terms: Terms
    roster: Mapping[str, Advertised]
    sharers: frozenset[str]
    survivors: frozenset[str]
    revealed: Mapping[str, Mapping[str, Revealed]] = field(default_factory=dict)


def add_payload(total: torch.Tensor, payload: torch.Tensor) -> None:
    """Adds a masked payload to a sum of such, in place, modulo 2^32; both uint8 of one size."""
    into, words = total.numpy().view(np.uint32), payload.numpy().view(np.uint32)
    for start in range(0, len(into), PIECE_WORDS):
        piece = into[start : start + PIECE_WORDS]
        np.add(piece, words[start : start + PIECE_WORDS], out=piece)


def checked(
    revealed: Sequence[Revealed], sharers: frozenset[str], survivors: frozenset[str]
) -> dict[str, Revealed]:
    """What one client reveals, by whose secrets it is about.

    Raises FednotError (MASKING_FAILED) unless it is one share of each client that gave shares: of
    the seed of a survivor, of the mask key of the others.
    """
    found = {each.client: each for each in revealed}
    if len(found) != len(revealed) or set(found) != sharers:
        raise _failed("the shares are not those of the clients that gave shares")
    for name, each in found.items():
        share, other = each.seed, each.mask_key
        if name not in survivors:
            share, other = other, share
        if len(share) != shamir.SHARE_BYTES or other:
            raise _failed(f"the share of {name} is not of the secret that is wanted")
    return found


def unmask(total: torch.Tensor, found: Unmasking) -> None:
    """Takes the masks off a sum of the survivors' payloads, in place.

    Raises FednotError (MASKING_FAILED) for too few shares, for such as rebuild no secret of the
    client that they are said to be of, and if what is left is noise, since a share or a payload
    was wrong; then the sum is of no use any more.
    """
    terms = found.terms
    for client in sorted(found.survivors):
        seed = _rebuilt(found, client, of_seed=True)
        add_stream(total, seed_key(terms, seed, client), -1)
    for client in sorted(found.sharers - found.survivors):
        pair = KeyPair.of_private(_rebuilt(found, client, of_seed=False))
        if pair.public != found.roster[client].mask_key:
            raise _failed(f"the shares of {client}'s mask key rebuild another key")
        for other in sorted(found.survivors):
            key = _pair_key(terms, pair, client, found.roster[other])
            add_stream(total, key, -1 if other < client else 1)
    if not ends_in_zeros(total):
        raise _failed("a share or a masked update was wrong: what is left of the sum is noise")


def _pair_key(terms: Terms, pair: KeyPair, client: str, other: Advertised) -> bytes:
    try:
        return pair_key(terms, pair, client, other.client, other.mask_key)
    except ValueError as error:
        raise _failed(f"the mask key of {other.client} is none: {error}") from error


def _rebuilt(found: Unmasking, client: str, *, of_seed: bool) -> bytes:
    names = sorted(found.roster)
    shares = {}
    for revealer, row in found.revealed.items():
        share = row[client].seed if of_seed else row[client].mask_key
        shares[names.index(revealer) + 1] = share
    try:
        return shamir.rebuilt(shares, found.terms.threshold)
    except ValueError as error:
        what = "seed" if of_seed else "mask key"
        raise _failed(f"the {what} of {client} cannot be rebuilt: {error}") from error


def _failed(message: str) -> FednotError:
    return FednotError(Reason.MASKING_FAILED, message)
