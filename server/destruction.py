"""What clients are told to destroy, and what they say they did.

The servicer asks here before it gives a client any other work; who keeps the orders is behind it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from sqlalchemy import Connection

from fednot.errors import FednotError, Reason
from fednot.identity.subject import Role
from server.cohorts.remote import RemoteCohort
from server.pulse import Pulse
from server.records import AuditEvent, Caller, DestroyedCache
from server.state import audit_rows, destruction_rows
from server.state.commits import Commit
from server.state.database import Database

MOST_REPORTED: Final = 64
_KIND: Final = re.compile(r"[a-z][a-z0-9-]{0,31}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class DestroyOrder:
    """Everything of a generation older than `generation` goes; the job asked for it."""

    id: str
    generation: int
    job_id: str


class Destructions(Protocol):
    """The orders that clients have not answered."""

    def order(self, connection: Connection, job_id: str, generation: int, now: float) -> None:
        """Writes, in a transaction, an order of a job to every client that may keep something."""
        ...

    def tell(self) -> None:
        """Has the clients that are there ask for their orders, once those are committed."""
        ...

    async def pending(self, client: str) -> DestroyOrder | None:
        """The oldest order that the client has not answered."""
        ...

    async def acknowledge(
        self, client: str, order_id: str, destroyed: Sequence[DestroyedCache]
    ) -> None:
        """Notes what a client destroyed; the same report again changes nothing.

        Raises FednotError (UNKNOWN_WORK) for an order that the client was not given.
        """
        ...


class NoDestructions:
    """Where no client keeps anything: nothing is ordered."""

    def order(self, connection: Connection, job_id: str, generation: int, now: float) -> None:
        """Nothing."""

    def tell(self) -> None:
        """Nothing."""

    async def pending(self, client: str) -> DestroyOrder | None:
        """None, for every client."""
        return None

    async def acknowledge(
        self, client: str, order_id: str, destroyed: Sequence[DestroyedCache]
    ) -> None:
        """Raises FednotError (UNKNOWN_WORK): there are no orders."""
        raise _unknown(client, order_id)


class StoredDestructions:
    """The orders in the database, for clients that dial in."""

    def __init__(self, database: Database, cohort: RemoteCohort, changes: Pulse) -> None:
        self._database = database
        self._cohort = cohort
        self._changes = changes

    def order(self, connection: Connection, job_id: str, generation: int, now: float) -> None:
        """Writes an order to every client that ever joined."""
        destruction_rows.order(connection, job_id, generation, now)

    def tell(self) -> None:
        """Ends the polls that wait."""
        self._cohort.call_back()

    async def pending(self, client: str) -> DestroyOrder | None:
        """The oldest order that the client has not answered."""
        found = await self._database.read(lambda c: destruction_rows.pending(c, client))
        return DestroyOrder(str(found.id), found.generation, found.job_id) if found else None

    async def acknowledge(
        self, client: str, order_id: str, destroyed: Sequence[DestroyedCache]
    ) -> None:
        """Notes what a client destroyed. Raises FednotError (UNKNOWN_WORK)."""

        def command(connection: Connection) -> None:
            number = int(order_id) if order_id.isascii() and order_id.isdigit() else 0
            if not destruction_rows.was_ordered(connection, client, number):
                raise _unknown(client, order_id)
            now = time.time()
            done = destruction_rows.acknowledge(connection, client, number, destroyed, now)
            if done is not None:
                who = Caller(Role.CLIENT, client)
                event = AuditEvent(who, "client.destroyed", f"client/{client}", job_id=done.job_id)
                audit_rows.append(connection, event, now)

        await self._database.write(Commit.CACHES_DESTROYED, command)
        self._changes.beat()


def _unknown(client: str, order_id: str) -> FednotError:
    return FednotError(Reason.UNKNOWN_WORK, f"{client} has no order {order_id!r} to destroy")


def check_report(destroyed: Sequence[DestroyedCache]) -> None:
    """Raises FednotError (INVALID_REQUEST) for a report that is not fit to be kept."""
    if len(destroyed) > MOST_REPORTED:
        raise FednotError(Reason.INVALID_REQUEST, f"destroyed: at most {MOST_REPORTED} entries")
    for index, cache in enumerate(destroyed):
        if not _KIND.fullmatch(cache.kind) or not _SHA256.fullmatch(cache.sha256):
            raise FednotError(
                Reason.INVALID_REQUEST,
                f"destroyed[{index}]: needs a kind, such as residual, and a sha256 in hex",
            )
