"""What an engine is to a cell: a place where its federation runs, and what that cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final, Protocol

from lab.cells import Cell
from lab.costs import Costs
from lab.scene import Scene
from server.records import Deletion

ANSWER_SECONDS: Final = 6 * 3600.0
"""How long a client may work on one round: a limit against hanging, not a rule of the study."""

Told = Callable[[int], None]
"""Is told how many rounds have ended."""


class LabError(RuntimeError):
    """A cell that cannot go on; the message says why."""


class Session(Protocol):
    """A federation on a state directory that somebody works on."""

    @property
    def costs(self) -> Costs:
        """What its rounds have cost so far."""
        ...

    async def train(self) -> object:
        """Trains the base to its end. Raises LabError if that fails."""
        ...

    async def forget(self, cell: Cell, client: str, number: int) -> Deletion:
        """Deletes a client, the `number`-th in a row from 1. Raises LabError if that fails."""
        ...


class Engine(Protocol):
    """A way to run federations."""

    name: str

    def opened(
        self,
        folder: Path,
        scene: Scene,
        *,
        undo: bool,
        flops: Mapping[str, int],
        told: Told,
    ) -> AbstractAsyncContextManager[Session]:
        """A federation on a state directory, until the end of the block.

        With `undo` deletions are verified. `flops` are known operations of works by their keys.
        """
        ...
