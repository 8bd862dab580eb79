"""The server's side: the sum of masked updates, and taking the masks off it, all at once."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import torch
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fednot.codecs.masked import Masked
from fednot.errors import FednotError, Reason
from fednot.manifest import Manifest
from fednot.secure_aggregation import keys, masks, shamir
from fednot.secure_aggregation.order import Order, failed
from fednot.secure_aggregation.ring import ends_in_zeros, mean
from fednot.secure_aggregation.roster import Roster

Shares = Mapping[str, Mapping[str, bytes]]
"""Shares by whose secret they are of, then by who revealed them."""


class MaskedSum:
    """The sum of masked updates modulo 2^32. Its memory does not grow with their number.

    `total` holds it: zeros, uint8 [Masked().size(manifest)], such as a block's tensor. It is noise
    until `unmask` was called, and after an `unmask` that failed. The last masked update that was
    added is not kept, and no single one can be taken out again.
    """

    def __init__(self, order: Order, manifest: Manifest, total: torch.Tensor) -> None:
        """Raises ValueError if the total has another size."""
        size = Masked().size(manifest)
        if total.numel() != size or total.dtype is not torch.uint8:
            raise ValueError(f"the total is {total.numel()} of {total.dtype}, not {size} bytes")
        self.order = order
        self.num_examples = 0
        self.survivors: set[str] = set()
        self._manifest = manifest
        self._total = total
        self._unmasked = False
        self._readable = False

    def add(self, client: str, payload: torch.Tensor, num_examples: int) -> None:
        """Adds a client's masked update, uint8.

        Raises FednotError (WRONG_SIZE, DUPLICATE_UPDATE, WRONG_NUM_EXAMPLES), and ValueError once
        the masks were taken off; the sum then is what it was.
        """
        if self._unmasked:
            raise ValueError("the masks were taken off already")
        if payload.numel() != self._total.numel():
            raise FednotError(
                Reason.WRONG_SIZE,
                f"the masked payload has {payload.numel()} bytes, not {self._total.numel()}",
            )
        if client in self.survivors:
            raise FednotError(Reason.DUPLICATE_UPDATE, f"the sum holds the update of {client}")
        if not 1 <= num_examples <= self.order.most_examples:
            raise FednotError(
                Reason.WRONG_NUM_EXAMPLES,
                f"{num_examples} examples are not 1 to {self.order.most_examples}",
            )
        masks.add_payload(self._total, payload)
        self.survivors.add(client)
        self.num_examples += num_examples

    def unmask(
        self, roster: Roster, sharers: Collection[str], seeds: Shares, mask_keys: Shares
    ) -> None:
        """Takes the masks off, once.

        `sharers` are those whose shares the survivors were given, `seeds` the shares of the
        survivors' seeds and `mask_keys` those of the mask keys of the other sharers; what else is
        in them is passed over. All secrets are rebuilt before the first mask is touched. Raises
        FednotError (MASKING_FAILED) if survivors or shares are too few or do not belong together,
        if they give another key than was advertised, or if what is left is no sum.
        """
        if self._unmasked:
            raise ValueError("the masks were taken off already")
        if len(self.survivors) < self.order.threshold:
            raise failed(
                f"{len(self.survivors)} masked updates are in the sum, and "
                f"{self.order.threshold} must"
            )
        if not self.survivors <= set(sharers) <= set(roster.names):
            raise failed("a masked update is in the sum of one who gave no shares")
        self._unmasked = True
        dropped = sorted(set(sharers) - self.survivors)
        own = [self._own_seed(roster, name, seeds) for name in sorted(self.survivors)]
        private = {name: self._mask_key(roster, name, mask_keys) for name in dropped}
        for seed in own:
            masks.subtract(self._total, seed)
        for name, key in private.items():
            self._take_off(roster, name, key)
        if not ends_in_zeros(self._total, self._manifest):
            raise failed("a share or a masked update was wrong: what is left is noise")
        self._readable = True

    def mean(self) -> torch.Tensor:
        """The weighted mean update, flat. Raises ValueError before `unmask`."""
        if not self._readable:
            raise ValueError("the masks are still on the sum")
        return mean(self._total, self._manifest, self.num_examples, self.order.scale)

    def _own_seed(self, roster: Roster, name: str, seeds: Shares) -> bytes:
        return keys.own_seed(self._rebuilt(roster, name, seeds, "seed"), self.order, name)

    def _mask_key(self, roster: Roster, name: str, mask_keys: Shares) -> X25519PrivateKey:
        rebuilt = self._rebuilt(roster, name, mask_keys, "mask key")
        key = X25519PrivateKey.from_private_bytes(rebuilt)
        if keys.public_bytes(key) != roster[name].mask_key:
            raise failed(f"the shares of the mask key of {name} give another key")
        return key

    def _rebuilt(self, roster: Roster, name: str, shares: Shares, secret: str) -> bytes:
        by_place = {
            roster.places[holder]: share
            for holder, share in shares.get(name, {}).items()
            if holder in roster
        }
        try:
            return shamir.joined(by_place, self.order.threshold)
        except ValueError as error:
            raise failed(f"the {secret} of {name} cannot be rebuilt: {error}") from error

    def _take_off(self, roster: Roster, name: str, key: X25519PrivateKey) -> None:
        """Takes off what the survivors masked with one who dropped out."""
        for survivor in sorted(self.survivors):
            seed = keys.pair_seed(key, roster[survivor], self.order, name)
            (masks.subtract if survivor < name else masks.add)(self._total, seed)


def by_secret(revealed: Mapping[str, Iterable[tuple[str, bytes]]]) -> dict[str, dict[str, bytes]]:
    """Shares as `MaskedSum.unmask` takes them, from those that each holder revealed."""
    found: dict[str, dict[str, bytes]] = {}
    for holder, shares in revealed.items():
        for client, share in shares:
            found.setdefault(client, {})[holder] = share
    return found
