"""What a method makes of the base version, from which an attempt recovers."""

from __future__ import annotations

import asyncio
from typing import Final

import torch

from server.federation import Federation
from server.methods import Method
from server.methods.method import StartContext
from server.records import Version
from server.state import version_rows

_DIGITS: Final = 16
"""Hexadecimal digits of a sha256 that make 64 bits."""


def seed_of(version: Version) -> int:
    """63 bits that follow from a version's bytes: what a method draws is the same at any time."""
    return int(version.sha256[:_DIGITS], 16) >> 1


async def context_of(
    federation: Federation,
    method: Method,
    tensors: tuple[str, ...],
    base: Version,
    flat: torch.Tensor,
) -> StartContext:
    """What a method makes a start from; `flat` are the base's bytes, uint8 of shape [nbytes].

    Raises FednotError if it needs the initial version and its bytes are not there.
    """
    initial = None
    if method.needs.initial:
        first = await federation.database.read(version_rows.initial_version)
        _, initial = await federation.model.read(first.number)
    return StartContext(federation.model.manifest, flat, initial, tensors, seed_of(base))


async def starting_point(
    federation: Federation,
    method: Method,
    tensors: tuple[str, ...],
    base: Version,
    flat: torch.Tensor,
) -> torch.Tensor:
    """The flat model, uint8 of shape [nbytes], that a method makes of a base of the same shape."""
    context = await context_of(federation, method, tensors, base, flat)
    return await asyncio.to_thread(method.start, context)
