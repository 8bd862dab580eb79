"""Clients of masked rounds without a network: participants that call the server's attempt."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from enum import IntEnum

import torch

from fednot.errors import FednotError
from fednot.manifest import Manifest
from fednot.secure_aggregation.participant import Participant
from fednot.secure_aggregation.ring import Masked, quantised
from fednot.secure_aggregation.signing import Signer
from server.blocks import Block
from server.cohorts.cohort import Update
from server.cohorts.remote import Assignment, RemoteCohort
from server.secure_aggregation.attempt import Attempt

WAIT = 20.0


class Dies(IntEnum):
    """After which step a client is not heard of any more."""

    BEFORE = 0
    ADVERTISED = 1
    SHARED = 2
    UPLOADED = 3
    CONFIRMED = 4
    NEVER = 5


@dataclass
class MaskedClient:
    """One client; `payload` is what it sent, once it did."""

    name: str
    update: torch.Tensor
    manifest: Manifest
    signer: Signer
    num_examples: int = 10
    dies: Dies = Dies.NEVER
    payload: torch.Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.uint8))

    async def work(self, cohort: RemoteCohort) -> None:
        """Takes the next work and does all its steps. Raises FednotError as the round does."""
        assignment = await cohort.next_assignment(self.name, WAIT)
        assert assignment is not None, f"{self.name} was given no work"
        masked = assignment.plan.masked
        assert masked is not None, "the work is not masked"
        participant = Participant(self.name, masked.terms, self.signer)
        if self.dies > Dies.BEFORE:
            keys = participant.advertised()
            roster = await masked.advertise(self.name, keys, self._patience(Dies.ADVERTISED))
            if self.dies > Dies.ADVERTISED:
                assert roster, "the roster did not come"
                shares = participant.shares_for(roster)
                found = await masked.share(self.name, shares, self._patience(Dies.SHARED))
                if self.dies > Dies.SHARED:
                    assert found, "the shares did not come"
                    await self._upload(assignment, masked, participant, found)

    async def _upload(
        self,
        assignment: Assignment,
        masked: Attempt,
        participant: Participant,
        shares: dict[str, bytes],
    ) -> None:
        scale = participant.terms.scale
        plain, _ = quantised(self.update, self.manifest, self.num_examples, scale)
        payload = participant.masked(plain, shares)
        self.payload = payload.clone()
        masked.check_upload(self.name, self.num_examples)
        block = Block.of(payload)
        counts = Update(self.name, self.num_examples, block, Masked(), {}, lambda _: None)
        await assignment.submit(counts)
        if self.dies > Dies.UPLOADED:
            survivors = await masked.list_survivors(self.name, WAIT)
            signature = participant.signed(survivors)
            signatures = await masked.confirm(self.name, signature, WAIT)
            assert signatures, "the signatures did not come"
            if self.dies > Dies.CONFIRMED:
                masked.reveal(self.name, participant.revealed(signatures))

    def _patience(self, last: Dies) -> float:
        """A client that dies after a step does not wait for what comes of it."""
        return 0.0 if self.dies is last else WAIT


async def all_work(
    clients: list[MaskedClient], cohort: RemoteCohort
) -> dict[str, FednotError | None]:
    """Has all clients do the next work at once; what each was refused with."""

    async def one(client: MaskedClient) -> FednotError | None:
        try:
            await client.work(cohort)
        except FednotError as error:
            return error
        return None

    found = await asyncio.gather(*(one(client) for client in clients))
    return dict(zip((client.name for client in clients), found, strict=True))
