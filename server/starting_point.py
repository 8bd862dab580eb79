"""What a method makes of the base version, from which an attempt recovers."""

from __future__ import annotations

import asyncio

import torch

from server.federation import Federation
from server.methods import Method
from server.methods.method import StartContext
from server.state import version_rows


async def starting_point(
    federation: Federation, method: Method, tensors: tuple[str, ...], base: torch.Tensor
) -> torch.Tensor:
    """The flat model, uint8 of shape [nbytes], that a method makes of a base of the same shape."""
    initial = None
    if method.needs.initial:
        first = await federation.database.read(version_rows.initial_version)
        _, initial = await federation.model.read(first.number)
    context = StartContext(federation.model.manifest, base, initial, tensors)
    return await asyncio.to_thread(method.start, context)
