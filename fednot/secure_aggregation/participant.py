"""A client's side of one attempt: which secrets it makes, whom it tells what, and when no more."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum, auto

import torch
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fednot.identity.certificates import read_key
from fednot.identity.folder import Credentials
from fednot.identity.subject import Role
from fednot.identity.trust import Trust
from fednot.manifest import Manifest
from fednot.secure_aggregation import keys, masks, shamir
from fednot.secure_aggregation.keys import PublicKeys, SharePair
from fednot.secure_aggregation.order import Order, failed
from fednot.secure_aggregation.ring import Quantised, quantised
from fednot.secure_aggregation.roster import Roster


class Step(IntEnum):
    """What a participant has done last."""

    STARTED = auto()
    ADVERTISED = auto()
    SHARED = auto()
    MASKED = auto()
    SIGNED = auto()
    CLOSED = auto()


@dataclass(frozen=True)
class Revealed:
    """A share of one secret of a client: of its seed, or of its mask key, never of both."""

    client: str
    seed: bytes | None = None
    mask_key: bytes | None = None

    def __post_init__(self) -> None:
        if (self.seed is None) == (self.mask_key is None):
            raise ValueError(f"a share of exactly one secret of {self.client} is revealed")


class Participant:
    """One client in one attempt; its keys and its seed are made with it and end with it.

    The steps are taken once each, in this order: advertise, shares_for, masked, signed, revealed.
    A step out of order is a RuntimeError. A step that fails ends the attempt, as `close` does: from
    then on nothing can be revealed. Nothing here knows a network; what the server and the others
    say comes in as arguments and is trusted only as far as it was checked.
    """

    def __init__(self, order: Order, credentials: Credentials, trust: Trust) -> None:
        """Makes fresh keys. `trust` judges the others' certificates.

        Raises FednotError (MASKING_FAILED) if the credentials are no client's of the cohort.
        """
        subject = credentials.subject
        if subject.role is not Role.CLIENT or subject.name not in order.cohort:
            raise failed(f"{subject} is not of the cohort")
        self.order = order
        self.name = subject.name
        self.step = Step.STARTED
        self._credentials = credentials
        self._trust = trust
        self._cipher_key: X25519PrivateKey | None = X25519PrivateKey.generate()
        self._mask_key: X25519PrivateKey | None = X25519PrivateKey.generate()
        self._seed = bytearray(os.urandom(shamir.SECRET_BYTES))
        self._advertised: PublicKeys | None = None
        self._roster: Roster | None = None
        self._signing_keys: dict[str, ec.EllipticCurvePublicKey] = {}
        self._held: dict[str, SharePair] = {}
        self._survivors: tuple[str, ...] = ()

    def advertise(self) -> PublicKeys:
        """The client's public keys, signed: round 0 of the paper."""
        with self._taking(Step.ADVERTISED):
            cipher_key, mask_key = self._private_keys()
            public = keys.public_bytes(cipher_key), keys.public_bytes(mask_key)
            statement = keys.keys_statement(self.order, self.name, *public)
            self._advertised = PublicKeys(
                self.name, *public, self._credentials.chain, self._sign(statement)
            )
            return self._advertised

    def shares_for(self, members: Iterable[PublicKeys], at: dt.datetime) -> dict[str, bytes]:
        """The encrypted shares for each of the others: round 1.

        `members` are all who take part, this client included, in any order; `at` is now. Raises
        FednotError (MASKING_FAILED) if they are too few, not of the cohort or not all different, if
        a certificate or signature does not hold, or if this client's keys are not among them.
        """
        with self._taking(Step.SHARED):
            roster = Roster.of(self.order, members)
            if self.name not in roster or roster[self.name] != self._advertised:
                raise failed("the client's own keys are not among those that take part")
            domain = self._credentials.subject.domain
            self._signing_keys = roster.signing_keys(self._trust, domain, at)
            self._roster = roster
            return self._encrypted_shares(roster)

    def masked(
        self,
        update: torch.Tensor,
        manifest: Manifest,
        num_examples: int,
        shares: Mapping[str, bytes],
    ) -> Quantised:
        """The masked update, and how many elements were clipped: round 2.

        `shares` are what the others gave, by giver. Raises FednotError (MASKING_FAILED) if those
        who gave some are, with this client, fewer than the threshold, or if one cannot be
        decrypted, and as `quantised` does.
        """
        with self._taking(Step.MASKED):
            roster = self._known_roster()
            self._check_givers(roster, shares)
            self._hold(roster, shares)
            found = quantised(update, manifest, num_examples, self.order.scale)
            self._mask(found.payload, roster)
            return found

    def signed(self, survivors: Iterable[str]) -> bytes:
        """The signature of the list of those whose masked updates are in the sum: round 3.

        Raises FednotError (MASKING_FAILED) if they are fewer than the threshold, if this client is
        not among them, or if one of them gave no shares.
        """
        with self._taking(Step.SIGNED):
            listed = list(survivors)
            found = tuple(sorted(set(listed)))
            if len(found) < len(listed):
                raise failed("somebody stands twice among the survivors")
            if not set(found) <= set(self._held):
                raise failed("one of the survivors gave no shares")
            if self.name not in found:
                raise failed("the client's masked update was left out of the sum")
            if len(found) < self.order.threshold:
                raise failed(
                    f"{len(found)} masked updates are in the sum, and {self.order.threshold} must"
                )
            self._survivors = found
            return self._sign(self._statement())

    def revealed(self, signatures: Mapping[str, bytes]) -> list[Revealed]:
        """The shares that take the masks off the sum: round 4. It ends the attempt.

        Of survivors it is the share of the seed, of those who dropped out after they had given
        shares that of the mask key. `signatures` are those of the list that this client signed, by
        signer. Raises FednotError (MASKING_FAILED) if they are fewer than the threshold, by others
        than survivors, or if one does not fit.
        """
        with self._taking(Step.CLOSED):
            if not set(signatures) <= set(self._survivors):
                raise failed("the survivors were confirmed by one who is none of them")
            if len(signatures) < self.order.threshold:
                raise failed(
                    f"{len(signatures)} confirmed the survivors, and {self.order.threshold} must"
                )
            statement = self._statement()
            for client, signature in signatures.items():
                keys.check_signature(signature, statement, self._signing_keys[client], client)
            found = [self._share_of(client, pair) for client, pair in sorted(self._held.items())]
        self.close()
        return found

    def close(self) -> None:
        """Ends the attempt: what is secret is overwritten or, where Python cannot, dropped."""
        self.step = Step.CLOSED
        self._seed[:] = bytes(len(self._seed))
        self._cipher_key = self._mask_key = None
        self._held.clear()

    @contextlib.contextmanager
    def _taking(self, step: Step) -> Iterator[None]:
        if self.step != step - 1:
            raise RuntimeError(f"{step.name} does not follow {self.step.name}")
        try:
            yield
        except BaseException:
            self.close()
            raise
        self.step = step

    def _private_keys(self) -> tuple[X25519PrivateKey, X25519PrivateKey]:
        if self._cipher_key is None or self._mask_key is None:
            raise RuntimeError("the attempt has ended")
        return self._cipher_key, self._mask_key

    def _known_roster(self) -> Roster:
        if self._roster is None:
            raise RuntimeError("the roster is not known yet")
        return self._roster

    def _sign(self, statement: bytes) -> bytes:
        return keys.signed(statement, read_key(self._credentials.private_key))

    def _statement(self) -> bytes:
        return keys.survivors_statement(
            self.order, self._known_roster().digest, tuple(self._held), self._survivors
        )

    def _encrypted_shares(self, roster: Roster) -> dict[str, bytes]:
        cipher_key, mask_key = self._private_keys()
        threshold = self.order.threshold
        of_key = shamir.split(mask_key.private_bytes_raw(), threshold, len(roster))
        of_seed = shamir.split(bytes(self._seed), threshold, len(roster))
        pairs = {
            member.client: SharePair(*pair)
            for member, pair in zip(roster, zip(of_key, of_seed, strict=True), strict=True)
        }
        self._held[self.name] = pairs.pop(self.name)
        return {
            name: keys.encrypted(pair, cipher_key, roster[name], self.order, self.name)
            for name, pair in pairs.items()
        }

    def _check_givers(self, roster: Roster, shares: Mapping[str, bytes]) -> None:
        if self.name in shares or not all(name in roster for name in shares):
            raise failed("shares came from one who takes no part")
        if len(shares) + 1 < self.order.threshold:
            raise failed(f"{len(shares) + 1} clients gave shares, and {self.order.threshold} must")

    def _hold(self, roster: Roster, shares: Mapping[str, bytes]) -> None:
        # The paper decrypts when it reveals. Who cannot takes no further part either way; here that
        # comes before the upload, so that the sum does not need the client.
        cipher_key, _ = self._private_keys()
        for name, ciphertext in shares.items():
            self._held[name] = keys.decrypted(
                ciphertext, cipher_key, roster[name], self.order, self.name
            )

    def _mask(self, payload: torch.Tensor, roster: Roster) -> None:
        _, mask_key = self._private_keys()
        masks.add(payload, keys.own_seed(bytes(self._seed), self.order, self.name))
        for name in self._held:
            if name != self.name:
                seed = keys.pair_seed(mask_key, roster[name], self.order, self.name)
                (masks.add if self.name < name else masks.subtract)(payload, seed)

    def _share_of(self, client: str, pair: SharePair) -> Revealed:
        if client in self._survivors:
            return Revealed(client, seed=pair.seed)
        return Revealed(client, mask_key=pair.mask_key)
