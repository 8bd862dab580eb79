"""Rules for the updates of a round: the mean, or one that withstands a few hostile clients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from statistics import median_low
from typing import Final, Protocol

import torch

from fednot.codecs.codec import Codec
from fednot.errors import FednotError, Reason
from fednot.manifest import Manifest
from server.aggregation import multi_krum, trimmed_mean
from server.aggregation.clipping import UNLIMITED
from server.aggregation.combining import Combine, combined
from server.aggregation.kept_updates import KeptUpdates
from server.aggregation.median import median
from server.aggregation.running_average import RunningAverage
from server.blocks import Block, Memory
from server.records import Anomaly

OUTLIER: Final = 5.0
"""An update whose norm is so many times the median norm of its round is odd."""
OPPOSED: Final = -0.5
"""And so is one whose cosine to the step that the model takes is below this."""
FEWEST_TO_COMPARE: Final = 3
"""Of two updates nobody can say which one is odd, and their median is their mean."""


class RuleName(StrEnum):
    """The rules by the names that settings have."""

    MEAN = "mean"
    MEDIAN = "median"
    TRIMMED_MEAN = "trimmed-mean"
    MULTI_KRUM = "multi-krum"

    def fewest(self, byzantine: int) -> int:
        """How many updates a round needs at least to withstand so many hostile clients."""
        return {
            RuleName.MEAN: 1,
            RuleName.MEDIAN: FEWEST_TO_COMPARE,
            RuleName.TRIMMED_MEAN: trimmed_mean.fewest(byzantine),
            RuleName.MULTI_KRUM: multi_krum.fewest(byzantine),
        }[self]


class TooFewUpdatesError(Exception):
    """The rule cannot withstand what it is to withstand with so few; the message says it."""


@dataclass(frozen=True)
class Aggregation:
    """How updates are aggregated: `byzantine` hostile clients are to be withstood by the rules that
    take a number; updates above the L2 norm `clip_norm` are scaled down.
    """

    rule: RuleName = RuleName.MEAN
    byzantine: int = 1
    clip_norm: float = UNLIMITED

    @property
    def fewest(self) -> int:
        """How many updates a round needs at least."""
        return self.rule.fewest(self.byzantine)

    def begun(self, manifest: Manifest, memory: Memory, precision: torch.dtype) -> Rule:
        """The rule for one round; `precision` is that of the mean's sums.

        Raises OSError if the disk has no room for what it needs.
        """
        if self.rule is RuleName.MEAN:
            return Mean(manifest, memory, self, precision)
        return OfKeptUpdates(manifest, memory, self)


@dataclass(frozen=True)
class Aggregate:
    """The new model, and what was odd about whose update."""

    model: Block
    oddities: Mapping[str, tuple[Anomaly, ...]] = field(default_factory=dict)


class Rule(Protocol):
    """Takes the updates of one round one by one and applies what it makes of them, once."""

    def add(self, client: str, update: Block, num_examples: int, codec: Codec) -> None:
        """Takes a client's update, a payload of the codec; the block is not needed afterwards.

        Raises FednotError with the reason if it is refused, which changes nothing, and OSError if
        the disk has no room.
        """
        ...

    def applied_to(self, model: Block) -> Aggregate:
        """A new flat model. Raises TooFewUpdatesError, FednotError (NOT_FINITE), OSError, and
        ValueError if no update was added.
        """
        ...

    def close(self) -> None:
        """Drops what it took; it can be called more than once."""
        ...


class Mean:
    """FedAvg: the mean weighted by examples, as a running sum."""

    def __init__(
        self, manifest: Manifest, memory: Memory, how: Aggregation, precision: torch.dtype
    ) -> None:
        self._average = RunningAverage(manifest, memory=memory, precision=precision)
        self._how = how
        self._norms: dict[str, float] = {}

    def add(self, client: str, update: Block, num_examples: int, codec: Codec) -> None:
        """Adds it to the sum."""
        self._norms[client] = self._average.add(
            update, num_examples, codec, clip_norm=self._how.clip_norm
        )

    def applied_to(self, model: Block) -> Aggregate:
        """The model plus the mean."""
        return Aggregate(self._average.applied_to(model), _of_norms(self._norms, self._how))

    def close(self) -> None:
        """Nothing but the sums was kept."""


class OfKeptUpdates:
    """Median, trimmed mean and multi-Krum: every client counts once, and all are kept on disk."""

    def __init__(self, manifest: Manifest, memory: Memory, how: Aggregation) -> None:
        self._manifest = manifest
        self._memory = memory
        self._how = how
        self._kept = KeptUpdates(manifest, memory, how.clip_norm)

    def add(self, client: str, update: Block, num_examples: int, codec: Codec) -> None:
        """Keeps it in a spill file."""
        if num_examples < 1:
            raise FednotError(
                Reason.WRONG_NUM_EXAMPLES, f"an update of {num_examples} examples has no weight"
            )
        self._kept.add(client, update, codec)

    def applied_to(self, model: Block) -> Aggregate:
        """The model plus what the rule makes of the updates."""
        updates = self._kept.updates
        if not updates:
            raise ValueError("no update was added, so there is nothing to apply")
        self._check_count(len(updates))
        left_out, combine = self._combine()
        found = combined(self._kept, combine, model, self._manifest, self._memory)
        odd = _of_norms({update.client: update.norm for update in updates}, self._how)
        for place, update in enumerate(updates):
            more = (Anomaly.LEFT_OUT,) if place in left_out else ()
            if len(updates) >= FEWEST_TO_COMPARE and found.cosines[place] < OPPOSED:
                more = (*more, Anomaly.OPPOSED)
            if more:
                odd[update.client] = (*odd.get(update.client, ()), *more)
        return Aggregate(found.model, odd)

    def close(self) -> None:
        """Gives the disk back."""
        self._kept.close()

    def _check_count(self, count: int) -> None:
        how = self._how
        if count < how.fewest:
            raise TooFewUpdatesError(
                f"{how.rule} needs {how.fewest} updates to withstand hostile ones, and {count} came"
            )

    def _combine(self) -> tuple[frozenset[int], Combine]:
        rule, byzantine = self._how.rule, self._how.byzantine
        if rule is RuleName.MEDIAN:
            return frozenset(), median
        if rule is RuleName.TRIMMED_MEAN:
            return frozenset(), partial(trimmed_mean.trimmed_mean, byzantine=byzantine)
        count = len(self._kept.updates)
        stacks = (stack.rows for stack in self._kept.stacks(floating_only=True))
        distances = multi_krum.squared_distances(stacks, count)
        chosen = multi_krum.chosen(multi_krum.scores(distances, byzantine), byzantine)
        return frozenset(range(count)) - frozenset(chosen), _mean_of(chosen)


def _mean_of(places: list[int]) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda rows: rows[places].mean(dim=0)


def _of_norms(norms: Mapping[str, float], how: Aggregation) -> dict[str, tuple[Anomaly, ...]]:
    usual = OUTLIER * median_low(norms.values()) if len(norms) >= FEWEST_TO_COMPARE else UNLIMITED
    found = {}
    for client, norm in norms.items():
        kinds = (
            *((Anomaly.CLIPPED,) if norm > how.clip_norm else ()),
            *((Anomaly.OUTLIER_NORM,) if norm > usual else ()),
        )
        if kinds:
            found[client] = kinds
    return found
