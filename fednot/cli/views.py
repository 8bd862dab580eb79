"""Views of something that goes on: redrawn on a terminal, one line per change elsewhere."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Protocol

from fednot.cli.output import Output
from fednot.cli.progress import NEWS, Fact, Progress
from fednot.sentences import round_progress, timeless

SETTLED_SECONDS: Final = 3.0


class View(Protocol):
    """Shows progress as it comes."""

    def show(self, progress: Progress) -> None:
        """Shows where things stand."""

    def tell(self, text: str) -> None:
        """Tells that the connection was lost, or is back."""


@contextmanager
def opened(output: Output) -> Iterator[View]:
    """The view that fits the output."""
    if output.live:
        from fednot.cli.live import LiveView

        with LiveView(output.console) as live:
            yield live
    elif output.json:
        yield JsonView(output)
    else:
        yield PlainView(output)


class JsonView:
    """Prints a JSON line for each change; a duration within a sentence is none."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._last = ""

    def show(self, progress: Progress) -> None:
        """Prints the document if it has changed."""
        news = progress.document.get(NEWS)
        mark = timeless(json.dumps({**progress.document, NEWS: None}, sort_keys=True))
        if news or mark != self._last:
            self._output.json_line(progress.document)
        self._last = mark

    def tell(self, text: str) -> None:
        """Prints to stderr."""
        self._output.note(text)


class PlainView:
    """Prints a line for each change; what is waited for only once the wait has lasted."""

    def __init__(self, output: Output, clock: Callable[[], float] = time.monotonic) -> None:
        self._output = output
        self._clock = clock
        self._headline = ""
        self._facts: dict[tuple[str, int, int], str] = {}
        self._wait, self._since, self._told = "", 0.0, False

    def show(self, progress: Progress) -> None:
        """Prints what is new."""
        lines = [fact.text for fact in progress.facts if self._is_new(fact)]
        if progress.headline != self._headline:
            lines.insert(len(lines) if self._headline else 0, progress.headline)
        for line in lines:
            self._output.line(line)
        self._headline = progress.headline
        self._show_wait(progress)

    def tell(self, text: str) -> None:
        """Prints to stderr."""
        self._output.note(text)

    def _is_new(self, fact: Fact) -> bool:
        new = self._facts.get(fact.key) != fact.text
        self._facts[fact.key] = fact.text
        return new

    def _show_wait(self, progress: Progress) -> None:
        text = progress.waiting_for
        if not text and progress.round is not None and progress.round.missing:
            text = round_progress(progress.round)
        if timeless(text) != self._wait:
            self._wait, self._since, self._told = timeless(text), self._clock(), False
        elif text and not self._told and self._clock() - self._since >= SETTLED_SECONDS:
            self._output.line(f"  {text}")
            self._told = True
