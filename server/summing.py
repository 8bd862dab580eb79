"""Adds up what the clients of a round send, and applies the mean to the model."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Final

from fednot.errors import FednotError
from server.aggregation import RunningAverage
from server.blocks import Block
from server.cohorts.cohort import Answer, Update, WorkPlan
from server.evaluation import WeightedMeans
from server.federation import Federation
from server.records import RoundProgress, Scores


@dataclass(frozen=True)
class Sum:
    """What came of a cohort's work: the new model, None without a quorum; whose update did not
    count, and why; what training measured.
    """

    model: Block | None
    missing: Mapping[str, str]
    metrics: Scores


class Summing:
    """Sends a plan to its clients and adds up their updates as they come.

    `fewest` is the number of clients without which there can be no round.
    """

    fewest: Final = 1

    def __init__(self, federation: Federation) -> None:
        self._federation = federation

    async def sum(self, plan: WorkPlan, given: Block, quorum: float) -> Sum:
        """The mean of the updates applied to a model, if a share `quorum` of the cohort sent one.

        Call it in interruptible work. Raises OSError if the disk has no room for the sums.
        """
        federation = self._federation
        average = await asyncio.to_thread(
            RunningAverage,
            federation.model.manifest,
            memory=federation.memory,
            precision=federation.defaults.accumulator,
        )
        trained = WeightedMeans()
        progress = RoundProgress(plan.round, plan.phase, plan.clients)
        missing: dict[str, str] = {}
        federation.shows(progress)
        async with aclosing(federation.cohort.work(plan)) as answers:
            async for answer in answers:
                refusal = await self._add(average, answer)
                if refusal is None:
                    trained.add(answer)
                    progress = replace(progress, accepted=(*progress.accepted, answer.client))
                else:
                    progress = replace(progress, failed=(*progress.failed, answer.client))
                    missing[answer.client] = refusal
                federation.shows(progress)
        if len(progress.accepted) < max(1, math.ceil(quorum * len(plan.clients))):
            return Sum(None, missing, {})
        try:
            model = await asyncio.to_thread(average.applied_to, given)
        except FednotError as overflow:
            return Sum(None, missing | dict.fromkeys(progress.accepted, overflow.message), {})
        return Sum(model, missing, {f"train_{key}": x for key, x in trained.means().items()})

    async def _add(self, average: RunningAverage, answer: Answer) -> str | None:
        updates = self._federation.metrics.updates
        if not isinstance(answer, Update):
            updates.labels("missing").inc()
            return getattr(answer, "reason", "it evaluated instead of training")
        try:
            await asyncio.to_thread(average.add, answer.payload, answer.num_examples, answer.codec)
        except FednotError as refusal:
            answer.settle(refusal)
            return f"{refusal.reason}: {refusal.message}"
        answer.settle(None)
        updates.labels("accepted").inc()
        return None
