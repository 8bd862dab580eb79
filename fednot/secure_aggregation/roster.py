"""Who takes part in an attempt, with which keys, each checked by those who rely on it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from cryptography.hazmat.primitives.asymmetric import ec

from fednot.identity.trust import Trust
from fednot.secure_aggregation.keys import (
    KEY_BYTES,
    PublicKeys,
    certified_key,
    check_signature,
    keys_statement,
    roster_digest,
)
from fednot.secure_aggregation.order import SMALLEST_COHORT, Order, failed


@dataclass(frozen=True)
class Roster:
    """The members of an attempt, sorted by name; `of` makes one.

    Signatures are not checked by it, but by `signing_keys`.
    """

    order: Order
    members: tuple[PublicKeys, ...]

    @classmethod
    def of(cls, order: Order, members: Iterable[PublicKeys]) -> Roster:
        """Sorts them. Raises FednotError (MASKING_FAILED) unless they are at least the threshold
        and three, of the cohort, each there once, and no key is there twice.
        """
        found = tuple(sorted(members, key=lambda keys: keys.client))
        names = [keys.client for keys in found]
        if len(set(names)) < len(names):
            raise failed("somebody takes part twice")
        if strangers := sorted(set(names) - set(order.cohort)):
            raise failed(f"{strangers[0]} takes part without being of the cohort")
        if len(names) < max(order.threshold, SMALLEST_COHORT):
            raise failed(
                f"{len(names)} clients take part, and {max(order.threshold, SMALLEST_COHORT)} must"
            )
        public = [key for keys in found for key in (keys.cipher_key, keys.mask_key)]
        if len(set(public)) < len(public) or any(len(key) != KEY_BYTES for key in public):
            raise failed("a key is there twice, or is no key of 32 bytes")
        return cls(order, found)

    def __iter__(self) -> Iterator[PublicKeys]:
        return iter(self.members)

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, client: str) -> PublicKeys:
        return self.members[self.places[client] - 1]

    def __contains__(self, client: object) -> bool:
        return client in self.places

    @cached_property
    def places(self) -> dict[str, int]:
        """Each member's place, from 1 on: where the shares that it gets are evaluated."""
        return {keys.client: place for place, keys in enumerate(self.members, start=1)}

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The members' names, sorted."""
        return tuple(self.places)

    @cached_property
    def digest(self) -> bytes:
        """sha256 over names and keys."""
        return roster_digest(self.members)

    def signing_keys(
        self, trust: Trust, domain: str, at: dt.datetime
    ) -> dict[str, ec.EllipticCurvePublicKey]:
        """The key by which each member signs, after checking that it signed its keys of this order.

        Raises FednotError (MASKING_FAILED) that names whose certificate or signature does not hold.
        """
        found = {}
        for keys in self.members:
            key = found[keys.client] = certified_key(keys, trust, domain, at)
            statement = keys_statement(self.order, keys.client, keys.cipher_key, keys.mask_key)
            check_signature(keys.signature, statement, key, keys.client)
        return found
