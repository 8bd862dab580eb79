"""Adds up what the clients of a masked round send, and applies the mean once the masks are off."""

from __future__ import annotations

import asyncio
import logging
import secrets
from contextlib import aclosing
from dataclasses import replace
from typing import Final

from fednot.codecs.masked import Masked
from fednot.errors import FednotError, Reason
from fednot.secure_aggregation import MaskedSum, Order
from server.aggregation import RunningAverage
from server.blocks import Block
from server.cohorts.cohort import Answer, Update, WorkPlan
from server.federation import Federation
from server.records import RoundProgress
from server.secure_aggregation.round import MaskedRound
from server.secure_aggregation.terms import LEAST_CLIENTS, Masking, threshold_of
from server.state import client_rows
from server.summing import Sum

ATTEMPT_BYTES: Final = 16

log = logging.getLogger("server.secure_aggregation")


class MaskedSumming:
    """As `server.summing.Summing`, of updates that the server cannot read."""

    def __init__(self, federation: Federation, masking: Masking) -> None:
        self._federation = federation
        self._masking = masking

    async def sum(self, plan: WorkPlan, given: Block, quorum: float) -> Sum:
        """The mean of the updates applied to a model, if enough of the cohort stayed to the end.

        Enough is a share `quorum` of the cohort, and at least the threshold. Call it in
        interruptible work: if that ends early, nothing of the round is unmasked. Raises OSError if
        the disk has no room for the sum.
        """
        federation = self._federation
        if len(plan.clients) < LEAST_CLIENTS:
            why = f"a masked round takes {LEAST_CLIENTS} clients at the least"
            return Sum(None, dict.fromkeys(plan.clients, why), {})
        masked = MaskedRound(await self._order(plan), quorum=quorum, wait=self._masking.wait)
        federation.masked_rounds.newest = masked
        try:
            return await self._unmasked(replace(plan, masked=masked), masked, given)
        finally:
            masked.end(self._over())

    async def _unmasked(self, plan: WorkPlan, masked: MaskedRound, given: Block) -> Sum:
        federation = self._federation
        manifest = federation.model.manifest
        block = await asyncio.to_thread(federation.memory.block, Masked().size(manifest))
        total = MaskedSum(masked.order, manifest, block.tensor)
        missing = await self._collected(plan, masked, total)
        try:
            found = await masked.unmasking()
            log.info(
                "round %d: the masks of %d updates come off, and those of %d clients that dropped "
                "out",
                plan.round,
                len(found.seeds),
                len(found.mask_keys),
            )
            await asyncio.to_thread(
                total.unmask, found.roster, found.shared, found.seeds, found.mask_keys
            )
            masked.finish()
            model = await asyncio.to_thread(self._applied, total, given)
        except FednotError as fault:
            return Sum(None, missing | dict.fromkeys(total.survivors, fault.message), {})
        return Sum(model, missing, {})

    async def _collected(
        self, plan: WorkPlan, masked: MaskedRound, total: MaskedSum
    ) -> dict[str, str]:
        """Adds the updates as they come; gives whose is missing, and why."""
        federation = self._federation
        progress = RoundProgress(plan.round, plan.phase, plan.clients)
        missing: dict[str, str] = {}
        federation.shows(progress)
        masked.begin(plan.deadline)
        async with aclosing(federation.cohort.work(plan)) as answers:
            async for answer in answers:
                refusal = await self._add(total, answer)
                if refusal is None:
                    masked.uploaded(answer.client)
                    progress = replace(progress, accepted=(*progress.accepted, answer.client))
                else:
                    masked.lost(answer.client, refusal)
                    progress = replace(progress, failed=(*progress.failed, answer.client))
                    missing[answer.client] = refusal
                federation.shows(progress)
        return missing

    async def _add(self, total: MaskedSum, answer: Answer) -> str | None:
        updates = self._federation.metrics.updates
        if not isinstance(answer, Update):
            updates.labels("missing").inc()
            return getattr(answer, "reason", "it evaluated instead of training")
        try:
            payload = answer.payload.tensor
            await asyncio.to_thread(total.add, answer.client, payload, answer.num_examples)
        except FednotError as refusal:
            answer.settle(refusal)
            return f"{refusal.reason}: {refusal.message}"
        answer.settle(None)
        updates.labels("accepted").inc()
        return None

    def _applied(self, total: MaskedSum, given: Block) -> Block:
        """The model with the mean added to it, if that is finite."""
        federation = self._federation
        average = RunningAverage(
            federation.model.manifest,
            memory=federation.memory,
            precision=federation.defaults.accumulator,
        )
        average.add(total.mean(), 1)
        return average.applied_to(given)

    async def _order(self, plan: WorkPlan) -> Order:
        known = await self._federation.database.read(client_rows.list_clients)
        most = max((c.num_train_examples for c in known if c.name in plan.clients), default=0)
        return Order(
            attempt=secrets.token_bytes(ATTEMPT_BYTES),
            round=plan.round,
            version=plan.version.number,
            threshold=threshold_of(len(plan.clients)),
            cohort=tuple(sorted(plan.clients)),
            value_range=self._masking.value_range,
            most_examples=max(1, most),
        )

    def _over(self) -> FednotError:
        if self._federation.activity.stopping:
            return FednotError(Reason.SHUTTING_DOWN, "the server is stopping", retry_after=1.0)
        return FednotError(Reason.ROUND_OVER, "the round has ended; nothing of it is unmasked")
