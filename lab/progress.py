"""How far a study is: bars on a terminal, a line for each base and cell elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Final, Protocol, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

SPEED_SECONDS: Final = 600.0
"""The time left is told by the pace of so many last seconds."""


class Display(Protocol):
    """Shows what runs."""

    def begins(self, unit: str, shown: str, rounds: int) -> None:
        """Something of so many rounds begins."""

    def moves(self, unit: str, rounds: int) -> None:
        """So many rounds of it have ended."""

    def ends(self, unit: str, failure: str) -> None:
        """It has ended; `failure` says what was wrong, if anything."""


class Lines:
    """A line for each base and cell that ends, with the time that is left at this pace."""

    def __init__(self, console: Console, rounds: int) -> None:
        self._console = console
        self._total = rounds
        self._done = 0
        self._started = time.monotonic()
        self._units: dict[str, tuple[str, int, float]] = {}

    def begins(self, unit: str, shown: str, rounds: int) -> None:
        """Remembers since when it runs."""
        self._units[unit] = shown, rounds, time.monotonic()

    def moves(self, unit: str, rounds: int) -> None:
        """Says nothing."""

    def ends(self, unit: str, failure: str) -> None:
        """Prints the line."""
        shown, rounds, since = self._units.pop(unit)
        self._done += rounds
        now = time.monotonic()
        left = (now - self._started) / max(1, self._done) * max(0, self._total - self._done)
        said = f"FAILED: {failure}" if failure else "done"
        self._console.print(
            f"{shown}: {said} in {now - since:.0f} s; about {left:.0f} s left",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


class Bars:
    """A bar for the whole study in rounds, and one for each base and cell that runs."""

    def __init__(self, console: Console, rounds: int) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("rounds"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            speed_estimate_period=SPEED_SECONDS,
        )
        self._all = self._progress.add_task("the study", total=rounds)
        self._units: dict[str, tuple[TaskID, str, int]] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def begins(self, unit: str, shown: str, rounds: int) -> None:
        """Adds its bar."""
        self._units[unit] = self._progress.add_task(shown, total=rounds), shown, rounds

    def moves(self, unit: str, rounds: int) -> None:
        """Moves its bar and that of the study."""
        task, _, total = self._units[unit]
        before = self._progress.tasks[self._progress.task_ids.index(task)].completed
        now = min(rounds, total)
        if now > before:
            self._progress.update(task, completed=now)
            self._progress.advance(self._all, now - before)

    def ends(self, unit: str, failure: str) -> None:
        """Takes its bar away, and says what was wrong."""
        self.moves(unit, self._units[unit][2])
        task, shown, _ = self._units.pop(unit)
        self._progress.remove_task(task)
        if failure:
            self._progress.console.print(f"{shown}: FAILED: {failure}", markup=False)
