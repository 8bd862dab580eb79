"""Aggregates what the clients of a round send, and applies it to the model."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Final

import torch

from fednot import tracing
from fednot.codecs.none import Plain
from fednot.errors import FednotError
from server.aggregation import Rule, TooFewUpdatesError
from server.anomalies import kind_of
from server.blocks import Block
from server.cohorts.cohort import Answer, Update, WorkPlan
from server.evaluation import WeightedMeans
from server.federation import Federation
from server.records import KeptUpdate, RoundPhase, RoundProgress, Scores
from server.stopwatch import Stopwatch, TimedRule

log = logging.getLogger("server.rounds")


@dataclass(frozen=True)
class Sum:
    """What came of a cohort's work: the new model, None without a quorum; whose update did not
    count, and why; what training measured; which updates were kept.
    """

    model: Block | None
    missing: Mapping[str, str]
    metrics: Scores
    kept: tuple[KeptUpdate, ...] = ()


@dataclass(frozen=True)
class Handling:
    """What is done with each update before it is aggregated: it is changed by `transformed`, flat,
    and kept if `keeps`.
    """

    transformed: Callable[[str, torch.Tensor], torch.Tensor] | None = None
    keeps: bool = False


AS_THEY_COME: Final = Handling()


class Summing:
    """Sends a plan to its clients and aggregates their updates as they come."""

    def __init__(self, federation: Federation) -> None:
        self._federation = federation

    @property
    def fewest(self) -> int:
        """The number of clients without which there can be no round."""
        defaults = self._federation.defaults
        return max(defaults.aggregation_of(phase).fewest for phase in RoundPhase)

    async def sum(
        self, plan: WorkPlan, given: Block, quorum: float, handling: Handling = AS_THEY_COME
    ) -> Sum:
        """What the phase's rule makes of the updates, applied to a model, if a share `quorum` of
        the cohort sent one.

        Call it in interruptible work. Raises OSError if the disk has no room for the updates.
        """
        federation = self._federation
        watch = Stopwatch()
        rule = await asyncio.to_thread(
            federation.defaults.aggregation_of(plan.phase).begun,
            federation.model.manifest,
            federation.memory,
            federation.defaults.accumulator,
        )
        try:
            timed = TimedRule(rule, watch)
            summed = await self._summed(timed, plan, given, quorum, handling)
        finally:
            rule.close()
        if summed.model is not None:
            federation.metrics.rounds.aggregated(watch.seconds)
        return summed

    async def _summed(
        self, rule: Rule, plan: WorkPlan, given: Block, quorum: float, handling: Handling
    ) -> Sum:
        federation = self._federation
        trained = WeightedMeans()
        kept: list[KeptUpdate] = []
        progress = RoundProgress(plan.round, plan.phase, plan.clients)
        missing: dict[str, str] = {}
        federation.shows(progress)
        async with aclosing(federation.cohort.work(plan)) as answers:
            async for answer in answers:
                refusal = await self._add(rule, answer, plan, handling, kept)
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
            model = await self._applied(rule, given)
        except FednotError as overflow:
            return Sum(None, missing | dict.fromkeys(progress.accepted, overflow.message), {})
        except TooFewUpdatesError as error:
            return Sum(None, missing | dict.fromkeys(progress.accepted, str(error)), {})
        metrics = {f"train_{key}": x for key, x in trained.means().items()}
        return Sum(model, missing, metrics, tuple(kept))

    async def _applied(self, rule: Rule, given: Block) -> Block:
        with tracing.span("aggregation"):
            found = await asyncio.to_thread(rule.applied_to, given)
        for client, kinds in found.oddities.items():
            log.info("the update of %s was odd: %s", client, ", ".join(kinds))
            for kind in kinds:
                self._federation.notes(client, kind)
        return found.model

    async def _add(
        self,
        rule: Rule,
        answer: Answer,
        plan: WorkPlan,
        handling: Handling,
        kept: list[KeptUpdate],
    ) -> str | None:
        rounds = self._federation.metrics.rounds
        if not isinstance(answer, Update):
            rounds.updates("missing")
            return getattr(answer, "reason", "it evaluated instead of training")
        try:
            row = await asyncio.to_thread(self._taken, rule, answer, plan, handling)
        except FednotError as refusal:
            kind = kind_of(refusal)
            if kind is not None:
                self._federation.notes(answer.client, kind)
            answer.settle(refusal)
            return f"{refusal.reason}: {refusal.message}"
        kept += [row] if row is not None else []
        answer.settle(None)
        rounds.updates("accepted")
        return None

    def _taken(
        self, rule: Rule, answer: Update, plan: WorkPlan, handling: Handling
    ) -> KeptUpdate | None:
        manifest, history = self._federation.model.manifest, self._federation.history
        payload, codec = answer.payload, answer.codec
        flat = None
        if handling.transformed is not None:
            flat = handling.transformed(answer.client, codec.decode(payload.tensor, manifest))
            payload, codec = Block.of(flat), Plain()
        rule.add(answer.client, payload, answer.num_examples, codec)
        if not handling.keeps:
            return None
        return history.keep(
            codec.decode(payload.tensor, manifest) if flat is None else flat,
            base_version=plan.version.number,
            client=answer.client,
            num_examples=answer.num_examples,
            manifest=manifest,
        )
