"""Clients in this very process, one after the other."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from lab.costs import Costs
from lab.engines.engine import Session, Told
from lab.federation import Workers, federated
from lab.setting import Setting
from server.cohorts.in_process import InProcessCohort


class InProcess:
    """The engine of one machine."""

    name = "in-process"

    @asynccontextmanager
    async def opened(
        self,
        folder: Path,
        setting: Setting,
        *,
        undo: bool,
        flops: Mapping[str, int],
        told: Told,
    ) -> AsyncIterator[Session]:
        """A federation whose clients are Tasks of this process."""
        sizes = {name: len(part) for name, part in setting.parts.items()}
        costs = Costs(sizes, dict(flops))
        cohort = InProcessCohort(setting.client_tasks, around=costs.around)
        async with federated(
            folder, setting, Workers(cohort, costs), undo=undo, told=told
        ) as session:
            yield session
