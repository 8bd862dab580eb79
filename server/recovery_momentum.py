"""Momentum of the server in recovery, from the versions that an attempt stored."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

from fednot.errors import FednotError
from server.aggregation.momentum import add_momentum
from server.federation import Federation
from server.records import RoundPhase, Version, VersionOrigin
from server.summing import Sum


async def with_momentum(
    federation: Federation,
    phase: RoundPhase,
    base: Version,
    summing: Callable[[], Awaitable[Sum]],
) -> Sum:
    """What a round's summing gives, and the momentum of the step that made its base.

    Only recovery rounds have it, and of these not the first of an attempt: its base is the starting
    point, and what made that was no step. The step before is read back from the store, so that a
    server that starts again goes on as it would have. A result that is not finite is none.
    """
    summed = await summing()
    beta = federation.defaults.recovery_momentum
    steps_on = phase is RoundPhase.RECOVERY and base.origin is VersionOrigin.RECOVERY
    if not beta or not steps_on or summed.model is None:
        return summed
    model = federation.model
    _, previous = await model.read(base.parent)
    given = (summed.model.tensor, model.flat, previous, model.manifest, beta)
    try:
        await asyncio.to_thread(add_momentum, *given)
    except FednotError as overflow:
        return replace(summed, model=None, missing={**summed.missing, "server": overflow.message})
    return summed
