"""Adds up masked updates, has the clients take the masks off the sum, and applies the mean."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Collection, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Final

from fednot.errors import FednotError, Reason
from fednot.secure_aggregation.masked_sum import Unmasking, add_payload, unmask
from fednot.secure_aggregation.ring import Masked, mean_of
from fednot.secure_aggregation.terms import FEWEST_CLIENTS, Terms, threshold_of
from server.aggregation import RunningAverage
from server.blocks import Block
from server.cohorts.cohort import Answer, Update, WorkPlan
from server.federation import Federation
from server.records import RoundProgress
from server.secure_aggregation.attempt import Attempt, MaskingPolicy, new_attempt_name
from server.state import client_rows
from server.stopwatch import Stopwatch
from server.summing import AS_THEY_COME, Handling, Sum

ROSTER_SHARE: Final = 0.8
"""The part of a round's deadline in which keys may come; the rest is for the masked updates."""

log = logging.getLogger("server.secure_aggregation")


class MaskedSumming:
    """As `server.summing.Summing`, but no update can be read here, only their sum."""

    fewest: Final = FEWEST_CLIENTS

    def __init__(self, federation: Federation, policy: MaskingPolicy) -> None:
        self._federation = federation
        self._policy = policy

    async def sum(
        self, plan: WorkPlan, given: Block, quorum: float, handling: Handling = AS_THEY_COME
    ) -> Sum:
        """The mean of the updates applied to a model, if a share `quorum` of the cohort, and as
        many as the threshold, sent one and helped to take the masks off.

        Call it in interruptible work: if that is interrupted, nothing of the sum was read. Raises
        OSError if the disk has no room for the sum.
        """
        if handling != AS_THEY_COME:
            raise ValueError("single updates cannot be handled, for they are masked")
        federation = self._federation
        try:
            attempt = Attempt(await self._terms(plan), self._policy.check)
        except ValueError as error:
            return Sum(None, dict.fromkeys(plan.clients, f"masking: {error}"), {})
        federation.attempts.open(attempt)
        try:
            return await self._sum(attempt, replace(plan, masked=attempt), given, quorum)
        finally:
            federation.attempts.close(attempt)

    async def _terms(self, plan: WorkPlan) -> Terms:
        known = await self._federation.database.read(client_rows.list_clients)
        examples = {client.name: client.num_train_examples for client in known}
        size = len(plan.clients)
        return Terms(
            attempt=new_attempt_name(),
            round=plan.round,
            version=plan.version.number,
            generation=plan.version.generation,
            threshold=threshold_of(size),
            cohort=tuple(sorted(plan.clients)),
            value_range=self._policy.value_range,
            most_examples=max([1, *(examples.get(name, 1) for name in plan.clients)]),
        )

    async def _sum(self, attempt: Attempt, plan: WorkPlan, given: Block, quorum: float) -> Sum:
        federation = self._federation
        manifest = federation.model.manifest
        total = await asyncio.to_thread(federation.memory.block, Masked().size(manifest))
        watch = Stopwatch()
        guiding = asyncio.create_task(
            attempt.gather(ROSTER_SHARE * plan.deadline, self._policy.wait)
        )
        try:
            received = await self._receive(plan, total, watch)
        finally:
            guiding.cancel()
            await asyncio.gather(guiding, return_exceptions=True)
        missing = dict(received.missing)
        try:
            _check_quorum(received.examples, plan.clients, quorum)
            there = federation.cohort.connected
            found = await attempt.unmasking(received.examples, there, self._policy.wait)
            applied = watch.timed(self._applied)
            model = await asyncio.to_thread(applied, total, found, received.examples, given)
        except FednotError as failure:
            log.warning("the masked round has no result: %s", failure.message)
            attempt.end(failure)
            return Sum(None, missing | dict.fromkeys(received.examples, failure.message), {})
        federation.metrics.rounds.aggregated(watch.seconds)
        return Sum(model, missing, {})

    async def _receive(self, plan: WorkPlan, total: Block, watch: Stopwatch) -> _Received:
        federation = self._federation
        progress = RoundProgress(plan.round, plan.phase, plan.clients)
        examples: dict[str, int] = {}
        missing: dict[str, str] = {}
        federation.shows(progress)
        async with aclosing(federation.cohort.work(plan)) as answers:
            async for answer in answers:
                if isinstance(answer, Update):
                    await self._add(total, answer, watch)
                    examples[answer.client] = answer.num_examples
                    progress = replace(progress, accepted=(*progress.accepted, answer.client))
                else:
                    federation.metrics.rounds.updates("missing")
                    missing[answer.client] = _why(answer)
                    progress = replace(progress, failed=(*progress.failed, answer.client))
                federation.shows(progress)
        return _Received(examples, missing)

    async def _add(self, total: Block, update: Update, watch: Stopwatch) -> None:
        await asyncio.to_thread(watch.timed(add_payload), total.tensor, update.payload.tensor)
        update.settle(None)
        self._federation.metrics.rounds.updates("accepted")

    def _applied(
        self, total: Block, found: Unmasking, examples: Mapping[str, int], given: Block
    ) -> Block:
        federation = self._federation
        manifest = federation.model.manifest
        unmask(total.tensor, found)
        mean = mean_of(total.tensor, manifest, sum(examples.values()), found.terms.scale)
        average = RunningAverage(
            manifest, memory=federation.memory, precision=federation.defaults.accumulator
        )
        average.add(mean, 1)
        return average.applied_to(given)


@dataclass(frozen=True)
class _Received:
    examples: Mapping[str, int]
    missing: Mapping[str, str]


def _check_quorum(there: Collection[str], cohort: Collection[str], quorum: float) -> None:
    """Raises FednotError (MASKING_FAILED) if fewer than a share `quorum` sent an update: then the
    masks stay on.
    """
    wanted = math.ceil(quorum * len(cohort))
    if len(there) < wanted:
        raise FednotError(
            Reason.MASKING_FAILED,
            f"{len(there)} of {len(cohort)} clients sent a masked update, and the quorum is "
            f"{wanted}",
        )


def _why(answer: Answer) -> str:
    return getattr(answer, "reason", "it evaluated instead of training")
