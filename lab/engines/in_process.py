"""Clients in this very process, one after the other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from lab.costs import Costs
from lab.engines.engine import Opening, Session
from lab.federation import Workers, federated
from server.cohorts.in_process import InProcessCohort


class InProcess:
    """The engine of one machine."""

    name = "in-process"

    @asynccontextmanager
    async def opened(self, opening: Opening) -> AsyncIterator[Session]:
        """A federation whose clients are Tasks of this process."""
        costs = Costs(opening.scene.sizes, dict(opening.flops))
        cohort = InProcessCohort(opening.scene.client_tasks, around=costs.around)
        async with federated(opening, Workers(cohort, costs)) as session:
            yield session
