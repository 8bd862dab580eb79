"""A client's part in one attempt at a masked round: from its keys to the shares that it reveals.

It knows no network and holds all that is secret. What must never happen cannot be asked of it: keys
serve one attempt and one update, one list of survivors is signed, and of no client are shares of
both secrets revealed (Bonawitz et al. 2017, figure 4).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch

from fednot.errors import FednotError, Reason
from fednot.secure_aggregation import shamir
from fednot.secure_aggregation.keys import (
    KEY_BYTES,
    KeyPair,
    check_public,
    decrypted,
    encrypted,
    pair_key,
    seed_key,
)
from fednot.secure_aggregation.masks import add_stream
from fednot.secure_aggregation.signing import Signer
from fednot.secure_aggregation.terms import FEWEST_CLIENTS, Terms, keys_text, survivors_text


@dataclass(frozen=True)
class Advertised:
    """A client's public keys of an attempt, signed by the key of its certificate."""

    client: str
    cipher_key: bytes
    mask_key: bytes
    chain: bytes
    signature: bytes


@dataclass(frozen=True)
class Revealed:
    """A share of one of a client's two secrets: of its seed, else of its mask key."""

    client: str
    seed: bytes = b""
    mask_key: bytes = b""


class Participant:
    """One client in one attempt; its methods are called in their order.

    Each raises FednotError (MASKING_FAILED) if the server asks for what would let a single update
    be read, or shows what does not hold together; the attempt is over then.
    """

    def __init__(self, client: str, terms: Terms, signer: Signer) -> None:
        if client not in terms.cohort:
            raise _failed(f"{client} is not in the cohort of the round")
        self.terms: Final = terms
        self._client = client
        self._signer = signer
        self._cipher = KeyPair.fresh()
        self._mask = KeyPair.fresh()
        self._seed = os.urandom(KEY_BYTES)
        self._roster: dict[str, Advertised] = {}
        self._kept: dict[str, tuple[bytes, bytes]] = {}
        self._given: dict[str, bytes] = {}
        self._masked = self._closed = False
        self._survivors: tuple[str, ...] = ()
        self._own = self._advertised()

    def advertised(self) -> Advertised:
        """The client's own keys; the same at each call."""
        return self._own

    def shares_for(self, roster: Sequence[Advertised]) -> Mapping[str, bytes]:
        """An encrypted share of both secrets for each of the others; the same at each call.

        Every key must be signed by its client, the client's own be unchanged, and at least 3
        clients and as many as the threshold take part, all of the cohort.
        """
        found = {each.client: each for each in roster}
        if self._closed:
            raise _failed("this attempt has ended here")
        if self._roster:
            if found != self._roster:
                raise _failed("the server shows another roster than before")
            return self._given
        self._check_roster(roster, found)
        names = sorted(found)
        seeds = shamir.split(self._seed, self.terms.threshold, len(names))
        keys = shamir.split(self._mask.private, self.terms.threshold, len(names))
        shares = dict(zip(names, zip(seeds, keys, strict=True), strict=True))
        self._kept[self._client] = shares.pop(self._client)
        self._given = {
            name: self._encrypted_to(found[name], seed + key)
            for name, (seed, key) in shares.items()
        }
        self._roster = found
        return self._given

    def masked(self, payload: torch.Tensor, shares: Mapping[str, bytes]) -> torch.Tensor:
        """Masks a payload of `ring.quantised`, in place, once.

        `shares` is what each of the others gave. The masks are those of these clients alone.
        """
        if self._masked or not self._roster:
            raise _failed("an attempt masks one update, after the shares were given")
        if not set(shares) <= set(self._roster) - {self._client}:
            raise _failed("somebody gave a share who is not in the roster")
        if len(shares) + 1 < max(self.terms.threshold, FEWEST_CLIENTS):
            raise _failed(
                f"{len(shares) + 1} clients gave shares, and {self.terms.threshold} are needed"
            )
        for name, sealed in shares.items():
            self._kept[name] = self._decrypted_from(name, sealed)
        self._masked = True
        add_stream(payload, seed_key(self.terms, self._seed, self._client))
        for name in sorted(shares):
            key = pair_key(self.terms, self._mask, self._client, name, self._roster[name].mask_key)
            add_stream(payload, key, 1 if self._client < name else -1)
        return payload

    def signed(self, survivors: Iterable[str]) -> bytes:
        """Signs whose updates arrived: one list, with this client in it and the threshold met."""
        listed = tuple(sorted(survivors))
        if self._survivors not in ((), listed):
            raise _failed("the server shows another list of survivors than before")
        if not self._masked or not set(listed) <= set(self._kept) or len(set(listed)) < len(listed):
            raise _failed("the list of survivors has clients that gave no shares")
        if len(listed) < max(self.terms.threshold, FEWEST_CLIENTS) or self._client not in listed:
            raise _failed(
                f"{len(listed)} updates arrived; {self.terms.threshold} are needed, and this one's"
            )
        self._survivors = listed
        return self._signer.sign(survivors_text(self.terms, listed))

    def revealed(self, signatures: Mapping[str, bytes]) -> list[Revealed]:
        """The shares that take the masks off, once enough survivors signed the same list."""
        listed = self._survivors
        if not listed:
            raise _failed("no list of survivors was signed")
        message = survivors_text(self.terms, listed)
        if len(signatures) < self.terms.threshold or not set(signatures) <= set(listed):
            raise _failed(
                f"{len(signatures)} clients signed the list of survivors, and "
                f"{self.terms.threshold} of them are needed"
            )
        for name, signature in signatures.items():
            self._signer.check(name, self._roster[name].chain, message, signature)
        return [
            Revealed(name, seed=seed) if name in listed else Revealed(name, mask_key=key)
            for name, (seed, key) in sorted(self._kept.items())
        ]

    def close(self) -> None:
        """Drops what is secret: from then on nothing can be revealed."""
        self._cipher = self._mask = KeyPair.fresh()
        self._seed = os.urandom(KEY_BYTES)
        self._kept.clear()
        self._roster, self._survivors, self._masked = {}, (), True
        self._closed = True

    def _advertised(self) -> Advertised:
        cipher_key, mask_key = self._cipher.public, self._mask.public
        signature = self._signer.sign(keys_text(self.terms, self._client, cipher_key, mask_key))
        return Advertised(self._client, cipher_key, mask_key, self._signer.chain, signature)

    def _check_roster(self, roster: Sequence[Advertised], found: Mapping[str, Advertised]) -> None:
        if len(found) != len(roster) or not set(found) <= set(self.terms.cohort):
            raise _failed("the roster names a client twice, or one that is not in the cohort")
        if len(found) < max(self.terms.threshold, FEWEST_CLIENTS):
            raise _failed(f"{len(found)} clients are in the roster, too few to mask one another")
        if found.get(self._client) != self._own:
            raise _failed("the roster has other keys of this client than it sent")
        public = [key for each in roster for key in (each.cipher_key, each.mask_key)]
        if len(set(public)) != len(public):
            raise _failed("the roster has one key twice")
        for name, each in found.items():
            message = keys_text(self.terms, name, each.cipher_key, each.mask_key)
            self._signer.check(name, each.chain, message, each.signature)
            self._check_keys(each)

    @staticmethod
    def _check_keys(other: Advertised) -> None:
        try:
            check_public(other.cipher_key)
            check_public(other.mask_key)
        except ValueError as error:
            raise _failed(f"a key of {other.client} is none: {error}") from error

    def _encrypted_to(self, other: Advertised, shares: bytes) -> bytes:
        try:
            return encrypted(
                self.terms, self._cipher, self._client, other.client, other.cipher_key, shares
            )
        except ValueError as error:
            raise _failed(f"the key of {other.client} is none: {error}") from error

    def _decrypted_from(self, name: str, sealed: bytes) -> tuple[bytes, bytes]:
        public = self._roster[name].cipher_key
        try:
            shares = decrypted(self.terms, self._cipher, name, self._client, public, sealed)
        except ValueError as error:
            raise _failed(str(error)) from error
        return shares[: shamir.SHARE_BYTES], shares[shamir.SHARE_BYTES :]


def _failed(message: str) -> FednotError:
    return FednotError(Reason.MASKING_FAILED, message)
