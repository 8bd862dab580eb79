"""Obeys the server's orders to destroy what this client keeps, and reports what it was."""

from __future__ import annotations

import logging

from client.rounds import Rounds
from client.session import Session
from fednot.errors import FednotError
from fednot.v1 import federation_pb2

_log = logging.getLogger("client")


async def obey(session: Session, order: federation_pb2.DestroyWork, rounds: Rounds) -> bool:
    """Destroys and reports; False if that has to be tried again.

    Raises SessionLostError and FinalRefusalError; what was destroyed is then reported later.
    """
    if order.job_id:
        try:
            await rounds.ended(order.job_id)
        except OSError as error:
            _log.error("the end of %s cannot be written: %s", order.job_id, error)
            return False
    destroyed = await rounds.destroy_before(order.generation)
    if destroyed is None:
        _log.warning("waiting for cancelled training to stop before its data can be destroyed")
        return False
    try:
        await session.report_destruction(order.order_id, destroyed)
    except FednotError as refusal:
        _log.warning("the server did not take the report of a destruction: %s", refusal.message)
        return False
    rounds.reported()
    _log.info(
        "destroyed %d caches of generations before %d, as %s wanted",
        len(destroyed),
        order.generation,
        order.job_id or "the server",
    )
    return True
