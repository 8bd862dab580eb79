"""Clients as actors of Ray, all at once, on this machine or on a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from fednot.task import Task
from lab.cells import BaseSpec
from lab.costs import Costs, Meter
from lab.engines.engine import LabError, Opening, Session
from lab.federation import Workers, federated
from lab.scene import scene_of
from server.cohorts.ray import RayCohort, RayMissingError


class OnRay:
    """The engine of a cluster; "" is a Ray of this cell alone, which ends with it."""

    name = "ray"

    def __init__(self, address: str = "") -> None:
        self._address = address

    @asynccontextmanager
    async def opened(self, opening: Opening) -> AsyncIterator[Session]:
        """A federation whose clients are actors."""
        scene = opening.scene
        costs = Costs(scene.sizes, dict(opening.flops))
        spec = scene.spec.model_dump_json()
        tasks = {name: partial(client_task, spec, name) for name in scene.clients}
        meter = partial(Meter, dict(scene.sizes), dict(opening.flops))
        try:
            cohort = await asyncio.to_thread(
                partial(RayCohort, tasks, address=self._address, meter=meter, metered=costs.worked)
            )
        except RayMissingError as error:
            raise LabError(str(error)) from error
        try:
            async with federated(opening, Workers(cohort, costs)) as session:
                yield session
        finally:
            await asyncio.to_thread(cohort.close)


def client_task(spec: str, client: str) -> Task:
    """A client's Task of the base whose spec is given as JSON; the data must be there, too."""
    return scene_of(BaseSpec.model_validate_json(spec)).client_tasks[client]
