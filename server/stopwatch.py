"""How long the arithmetic of a round takes, without the waiting in between."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from fednot.codecs import Codec
from server.aggregation import Aggregate, Rule
from server.blocks import Block

P = ParamSpec("P")
T = TypeVar("T")


class Stopwatch:
    """Adds up how long pieces of work took that come one after another, in whatever threads."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def timed(self, work: Callable[P, T]) -> Callable[P, T]:
        """The same work, measured."""

        def measured(*args: P.args, **kwargs: P.kwargs) -> T:
            began = time.perf_counter()
            try:
                return work(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - began

        return measured


class TimedRule:
    """A rule of aggregation whose work is measured by `watch`."""

    def __init__(self, rule: Rule, watch: Stopwatch) -> None:
        self._rule = rule
        self._watch = watch

    def add(self, client: str, update: Block, num_examples: int, codec: Codec) -> None:
        """As the rule's."""
        self._watch.timed(self._rule.add)(client, update, num_examples, codec)

    def applied_to(self, model: Block) -> Aggregate:
        """As the rule's."""
        return self._watch.timed(self._rule.applied_to)(model)

    def close(self) -> None:
        """As the rule's."""
        self._rule.close()
