"""The view on a terminal, redrawn in place."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Final, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from fednot.cli.output import printable
from fednot.cli.progress import Fact, Progress
from fednot.sentences import round_progress

FACTS_SHOWN: Final = 12
BAR_WIDTH: Final = 30


class LiveView:
    """Round of rounds, who is missing, what is waited for, and the accuracy by round."""

    def __init__(self, console: Console) -> None:
        self._progress: Progress | None = None
        self._facts: dict[tuple[str, int, int], Fact] = {}
        self._told = ""
        self._spinner: RenderableType = Spinner("dots")
        self._started = time.monotonic()
        self._live = Live(console=console, get_renderable=self.render, refresh_per_second=5)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._spinner = Text(" ")
        self._live.stop()

    def show(self, progress: Progress) -> None:
        """Takes over where things stand; the next redraw shows it."""
        self._progress = progress
        self._facts |= {fact.key: fact for fact in progress.facts}

    def tell(self, text: str) -> None:
        """Shows that the connection was lost, or is back."""
        self._told = text

    def render(self) -> RenderableType:
        """The whole view as it is now."""
        progress = self._progress
        if progress is None:
            return Text("asking the server ...")
        elapsed = f"{time.monotonic() - self._started:.0f} s"
        head = Table.grid(padding=(0, 1))
        head.add_row(self._spinner, _text(progress.headline, "bold"), Text(elapsed, "dim"))
        rows: list[RenderableType] = [head]
        if progress.total:
            rows.append(_counted(progress))
        if progress.round is not None:
            rows.append(_text(f"  {round_progress(progress.round)}"))
        if progress.waiting_for:
            rows.append(_text(f"  {progress.waiting_for}", "yellow"))
        if self._told:
            rows.append(_text(f"  {self._told}", "red"))
        if self._facts:
            rows.append(_facts(list(self._facts.values())[-FACTS_SHOWN:], progress.target))
        return Group(*rows)


def _counted(progress: Progress) -> RenderableType:
    row = Table.grid(padding=(0, 1))
    bar = ProgressBar(total=progress.total, completed=progress.done, width=BAR_WIDTH)
    row.add_row(" ", bar, Text(f"{progress.done} of {progress.total} rounds"))
    return row


def _facts(facts: list[Fact], target: float | None) -> RenderableType:
    table = Table.grid(padding=(0, 1))
    for fact in facts:
        bar: RenderableType = ""
        if fact.accuracy is not None:
            bar = ProgressBar(total=1.0, completed=fact.accuracy, width=BAR_WIDTH // 2)
        table.add_row(" ", bar, _text(fact.text, "bold red" if fact.alarm else ""))
    if target is not None:
        table.add_row(" ", "", _text(f"target: accuracy {target:.4f}", "dim"))
    return table


def _text(text: str, style: str = "") -> Text:
    return Text(printable(text), style)
