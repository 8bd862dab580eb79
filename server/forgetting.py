"""What clients are told to bar, and what they say they did.

The servicer asks here before it gives a client any other work; who keeps the orders is behind it.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from typing import TYPE_CHECKING, Final, Protocol

from sqlalchemy import Connection

from fednot.errors import FednotError, Reason
from fednot.identity.subject import Role
from server import awaiting
from server.cohorts.remote import RemoteCohort
from server.records import AuditEvent, AuditOutcome, Caller, ForgetOrder
from server.state import audit_rows, forget_rows, job_rows, round_rows
from server.state.commits import Commit
from server.state.forget_rows import Answer

if TYPE_CHECKING:
    from server.federation import Federation

log = logging.getLogger("server.forgetting")

MOST_SAMPLES: Final = 1 << 48
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_ORDER: Final = re.compile(r"([0-9]{1,18})(-lift)?", re.ASCII)


class Forgettings(Protocol):
    """The orders that clients have not answered."""

    def tell(self) -> None:
        """Has the clients that are there ask for their orders, once those are committed."""
        ...

    async def pending(self, client: str) -> ForgetOrder | None:
        """The oldest order that the client has not answered."""
        ...

    async def confirm(self, client: str, order_id: str, said: Answer) -> None:
        """Notes what a client has barred; the same report again changes nothing.

        Raises FednotError (UNKNOWN_WORK) for an order that the client was not given.
        """
        ...


class NoForgettings:
    """Where no client is told anything."""

    def tell(self) -> None:
        """Nothing."""

    async def pending(self, client: str) -> ForgetOrder | None:
        """None, for every client."""
        return None

    async def confirm(self, client: str, order_id: str, said: Answer) -> None:
        """Raises FednotError (UNKNOWN_WORK): there are no orders."""
        raise _unknown(client, order_id)


class StoredForgettings:
    """The orders in the database, for clients that dial in."""

    def __init__(self, federation: Federation, cohort: RemoteCohort) -> None:
        self._federation = federation
        self._cohort = cohort

    def tell(self) -> None:
        """Ends the polls that wait."""
        self._cohort.call_back()

    async def pending(self, client: str) -> ForgetOrder | None:
        """The oldest order that the client has not answered."""
        return await self._federation.database.read(lambda c: forget_rows.pending(c, client))

    async def confirm(self, client: str, order_id: str, said: Answer) -> None:
        """Notes what a client has barred, and queues its job if that was all that it waited for.

        It ends even if the client hangs up, which may never report again. Raises FednotError
        (UNKNOWN_WORK).
        """
        await asyncio.shield(asyncio.create_task(self._confirm(client, order_id, said)))

    async def _confirm(self, client: str, order_id: str, said: Answer) -> None:
        federation = self._federation

        def command(connection: Connection) -> bool:
            now = time.time()
            nothing_served = not job_rows.first_ready_id(connection)
            queued = confirm(connection, client, order_id, said, now)
            goes_first = queued and nothing_served
            if goes_first:  # training gives way, as it does to a deletion that waits for nobody
                round_rows.abort_running_rounds(connection, now)
            return goes_first

        goes_first = await federation.database.write(Commit.FORGETTING_CONFIRMED, command)
        await federation.reload_fences()
        self.tell()
        if goes_first:
            await federation.work.interrupt()
            federation.changes.beat()


def confirm(connection: Connection, client: str, order_id: str, said: Answer, now: float) -> bool:
    """Writes what a client answered to an order; True if its job queues by that.

    A late answer to an order that was lifted meanwhile, or a second one, changes nothing. Raises
    FednotError (UNKNOWN_WORK).
    """
    named = _ORDER.fullmatch(order_id)
    found = forget_rows.get_order(connection, client, int(named[1])) if named else None
    if found is None or named is None:
        raise _unknown(client, order_id)
    if found.confirmed_at is not None or found.lift is not bool(named[2]):
        return False
    forget_rows.answer(connection, found, said, now)
    refused = bool(said.refusal)
    event = AuditEvent(
        Caller(Role.CLIENT, client),
        "client.lifted" if found.lift else "client.forgot",
        f"client/{client}",
        AuditOutcome.REFUSED if refused else AuditOutcome.ACCEPTED,
        Reason.UNSUPPORTED_SCOPE if refused else "",
        job_id=found.job_id,
    )
    audit_rows.append(connection, event, now)
    return awaiting.advance(connection, job_rows.get_job(connection, found.job_id), now)


def name_of(order: ForgetOrder) -> str:
    """How an order is named to its client: one that lifts has another name than the one before."""
    return f"{order.id}-lift" if order.lift else str(order.id)


def check_answer(said: Answer) -> None:
    """Raises FednotError (INVALID_REQUEST) for an answer that is not fit to be kept."""
    for field in ("count", "num_train_examples", "num_test_examples"):
        if getattr(said, field) > MOST_SAMPLES:
            raise FednotError(Reason.INVALID_REQUEST, f"{field}: must be at most {MOST_SAMPLES}")
    if said.sha256 and not _SHA256.fullmatch(said.sha256):
        raise FednotError(Reason.INVALID_REQUEST, "sha256: must be a sha256 in hex, or empty")


def _unknown(client: str, order_id: str) -> FednotError:
    return FednotError(Reason.UNKNOWN_WORK, f"{client} has no order {order_id!r} to forget")
