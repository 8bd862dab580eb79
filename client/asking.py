"""Asks the server to delete what this client has barred by itself, until it answers."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from client.connection import Connection, FinalRefusalError, SessionLostError
from client.dialler import Dialler
from client.rounds import Rounds
from fednot.errors import FednotError, Reason
from fednot.tombstones import Tombstone, TombstoneError, Tombstones
from fednot.v1 import deletion_pb2

REFUSED_PAUSE: Final = 60.0
"""So long after a refusal the server is asked again."""

_log = logging.getLogger("client")


def request_for(stone: Tombstone, client: str) -> deletion_pb2.UnlearnRequest:
    """What the server is asked for an own tombstone: no id, a count and a salted digest."""
    barred = deletion_pb2.SampleDigest(count=stone.count, sha256=stone.sha256)
    samples = deletion_pb2.SampleScope(client=client, barred=barred)
    return deletion_pb2.UnlearnRequest(
        request_id=stone.request_id, scope=deletion_pb2.Scope(samples=samples)
    )


class Asking:
    """Looks at the tombstones as often as it is called, and asks for those not yet asked for."""

    def __init__(
        self, dialler: Dialler, connection: Connection, tombstones: Tombstones, rounds: Rounds
    ) -> None:
        self._dialler = dialler
        self._connection = connection
        self._tombstones = tombstones
        self._rounds = rounds
        self._not_before = float("-inf")
        self._told: set[Reason] = set()

    async def look(self, client: str) -> None:
        """Asks for what is new, under this client's name. Raises nothing that a retry may mend."""
        try:
            self._rounds.heed()
            unasked = self._tombstones.now().unasked
        except TombstoneError as error:
            _log.error("%s", error)
            return
        now = asyncio.get_running_loop().time()
        if not unasked or now < self._not_before:
            return
        for stone in unasked:
            if not await self._ask(stone, client):
                return

    async def _ask(self, stone: Tombstone, client: str) -> bool:
        request = request_for(stone, client)
        try:
            response = await self._connection.try_once(lambda: self._dialler.unlearn(request))
            if response is None:
                return False
            job_id = response.deletion.job.id
            await asyncio.to_thread(self._tombstones.answered, stone.name, job_id)
        except (FednotError, FinalRefusalError, SessionLostError, TombstoneError) as error:
            self._refused(error)
            return False
        _log.info(
            "asked to forget %d samples, which this client no longer reads: request %s",
            stone.count,
            request.request_id,
        )
        self._told.clear()
        return True

    def _refused(self, error: Exception) -> None:
        self._not_before = asyncio.get_running_loop().time() + REFUSED_PAUSE
        reason = error.reason if isinstance(error, FednotError) else Reason.INTERNAL
        if reason not in self._told:
            self._told.add(reason)
            _log.error(
                "the deletion of samples that this client has barred is not under way, it asks "
                "again: %s",
                error.advice if isinstance(error, FednotError) else error,
            )
