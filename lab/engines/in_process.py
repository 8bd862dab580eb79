"""Clients in this very process, one after the other."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from lab.costs import Costs
from lab.engines.engine import Session, Told
from lab.federation import Workers, federated
from lab.scene import Scene
from server.cohorts.in_process import InProcessCohort


class InProcess:
    """The engine of one machine."""

    name = "in-process"

    @asynccontextmanager
    async def opened(
        self,
        folder: Path,
        scene: Scene,
        *,
        undo: bool,
        flops: Mapping[str, int],
        told: Told,
    ) -> AsyncIterator[Session]:
        """A federation whose clients are Tasks of this process."""
        costs = Costs(scene.sizes, dict(flops))
        cohort = InProcessCohort(scene.client_tasks, around=costs.around)
        async with federated(
            folder, scene, Workers(cohort, costs), undo=undo, told=told
        ) as session:
            yield session
