"""What an engine is to a cell: a place where its federation runs, and what that cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from lab.cells import Cell
from lab.costs import Costs
from lab.scene import Scene

ANSWER_SECONDS: Final = 6 * 3600.0
"""How long a client may work on one round: a limit against hanging, not a rule of the study."""

Told = Callable[[int], None]
"""Is told how many rounds have ended."""


class LabError(RuntimeError):
    """A cell that cannot go on; the message says why."""


@dataclass(frozen=True)
class Opening:
    """A federation on the state directory `folder`; without a `cell` its base is trained.

    `gone` are the clients that a cell deletes up to now, the last of them next. `flops` are known
    operations of works by their keys.
    """

    folder: Path
    scene: Scene
    told: Told
    cell: Cell | None = None
    gone: tuple[str, ...] = ()
    flops: Mapping[str, int] = field(default_factory=dict)

    @property
    def undo(self) -> bool:
        """Whether deletions are verified."""
        return self.cell is not None and self.cell.measure.undo

    @property
    def momentum(self) -> float:
        """The server's momentum in recovery."""
        return self.cell.method.server_momentum if self.cell is not None else 0.0


class Session(Protocol):
    """A federation that somebody works on."""

    @property
    def costs(self) -> Costs:
        """What its rounds have cost so far."""
        ...

    async def train(self) -> None:
        """Trains the base to its end. Raises LabError if that fails."""
        ...

    async def forget(self) -> str:
        """Deletes the client that is next and returns the job's id, once nobody writes to the
        state any more. Raises LabError if that fails.
        """
        ...


class Engine(Protocol):
    """A way to run federations."""

    @property
    def name(self) -> str:
        """What a result says of it."""
        ...

    def opened(self, opening: Opening) -> AbstractAsyncContextManager[Session]:
        """A federation, until the end of the block."""
        ...
