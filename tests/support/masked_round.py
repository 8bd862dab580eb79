"""A masked round in one process: participants, and what an honest server tells them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import torch

from fednot.codecs.masked import Masked
from fednot.identity import certificates
from fednot.identity.folder import Credentials
from fednot.identity.subject import Role, Subject
from fednot.identity.trust import Trust
from fednot.manifest import Manifest
from fednot.secure_aggregation import MaskedSum, Order, Participant, PublicKeys, Roster
from fednot.secure_aggregation.sum import by_secret

NOW = certificates.now()
AUTHORITY_KEY = certificates.new_key()
AUTHORITY = certificates.self_signed_authority("an authority", AUTHORITY_KEY, 30, "fednot")
TRUST = Trust([AUTHORITY])


@cache
def credentials(name: str, role: Role = Role.CLIENT, domain: str = "fednot") -> Credentials:
    """An identity of the authority; the same one at each call."""
    subject, key = Subject(role, name, domain), certificates.new_key()
    leaf = certificates.leaf(subject, key.public_key(), AUTHORITY, AUTHORITY_KEY, days=10)
    return Credentials(
        Path("nowhere"),
        subject,
        leaf,
        certificates.pem_of([leaf]),
        certificates.key_pem(key),
        certificates.pem_of([AUTHORITY]),
    )


def order_of(cohort: int | Sequence[str], threshold: int = 0, attempt: bytes = b"a" * 16) -> Order:
    """An order for clients c1, c2, ...; the threshold is two thirds of them if none is given."""
    names = [f"c{n}" for n in range(1, cohort + 1)] if isinstance(cohort, int) else list(cohort)
    return Order(
        attempt=attempt,
        round=3,
        version=7,
        threshold=threshold or 2 * len(names) // 3 + 1,
        cohort=tuple(sorted(names)),
        value_range=4.0,
        most_examples=100,
    )


@dataclass
class PlayedRound:
    """An attempt, step by step. Who is in none of a step's lists has dropped out before it."""

    order: Order
    manifest: Manifest
    at: dt.datetime = NOW
    participants: dict[str, Participant] = field(default_factory=dict)
    advertised: dict[str, PublicKeys] = field(default_factory=dict)
    given: dict[str, dict[str, bytes]] = field(default_factory=dict)
    payloads: dict[str, torch.Tensor] = field(default_factory=dict)

    def advertise(self, names: Iterable[str] = ()) -> None:
        """Everybody named, or of the cohort, shows keys."""
        for name in names or self.order.cohort:
            participant = Participant(self.order, credentials(name), TRUST)
            self.participants[name] = participant
            self.advertised[name] = participant.advertise()

    def share(self, names: Iterable[str] = ()) -> None:
        """Everybody named, or there, gives shares."""
        for name in names or list(self.participants):
            members = self.advertised.values()
            self.given[name] = self.participants[name].shares_for(members, self.at)

    def for_client(self, name: str) -> dict[str, bytes]:
        """What the others gave one client."""
        return {giver: shares[name] for giver, shares in self.given.items() if giver != name}

    def mask(self, updates: dict[str, tuple[torch.Tensor, int]]) -> None:
        """Everybody with an update masks it."""
        for name, (update, num_examples) in updates.items():
            shares = self.for_client(name)
            found = self.participants[name].masked(update, self.manifest, num_examples, shares)
            self.payloads[name] = found.payload

    def confirm(self, names: Iterable[str] = ()) -> dict[str, bytes]:
        """Everybody named, or whose update is there, signs who survived."""
        survivors = sorted(self.payloads)
        return {name: self.participants[name].signed(survivors) for name in names or survivors}

    def unmask(
        self, signatures: dict[str, bytes], examples: dict[str, int], revealing: Collection[str]
    ) -> MaskedSum:
        """Adds the payloads, has shares revealed and takes the masks off."""
        total = torch.zeros(Masked().size(self.manifest), dtype=torch.uint8)
        found = MaskedSum(self.order, self.manifest, total)
        for name, payload in self.payloads.items():
            found.add(name, payload, examples[name])
        seeds, mask_keys = {}, {}
        for name in revealing:
            shares = self.participants[name].revealed(signatures)
            seeds[name] = [(s.client, s.seed) for s in shares if s.seed is not None]
            mask_keys[name] = [(s.client, s.mask_key) for s in shares if s.mask_key is not None]
        roster = Roster.of(self.order, self.advertised.values())
        found.unmask(roster, list(self.given), by_secret(seeds), by_secret(mask_keys))
        return found
