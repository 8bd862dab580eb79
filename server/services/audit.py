"""The service of audit."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Any

from grpc import aio
from sqlalchemy import Connection

from fednot.audit_chain import Entry
from fednot.errors import FednotError, Reason
from fednot.v1 import audit_pb2, audit_pb2_grpc
from server.audit import RefusalLog, destroy_pseudonym
from server.federation import Federation
from server.records import Caller
from server.services import callers
from server.services.messages import audit_message
from server.services.paging import next_token, page_of
from server.state import audit_rows, pseudonym_rows

log = logging.getLogger("server.audit")

Context = aio.ServicerContext[Any, Any]


class AuditServicer(audit_pb2_grpc.AuditServiceServicer):
    """Shows the audit, and unlinks names from it."""

    def __init__(self, federation: Federation, refusals: RefusalLog) -> None:
        self._database = federation.database
        self._refusals = refusals

    async def ListAuditEntries(
        self, request: audit_pb2.ListAuditEntriesRequest, context: Context
    ) -> audit_pb2.ListAuditEntriesResponse:
        """Lists entries, oldest first unless asked otherwise."""
        key, size = page_of(request.page_size, request.page_token)

        newest_first = request.newest_first
        rows = audit_rows.list_newest if newest_first else audit_rows.list_entries

        def command(connection: Connection) -> tuple[Sequence[Entry], dict[str, str]]:
            entries = rows(connection, key, size)
            shown = {name for entry in entries for name in (entry.actor, entry.subject)}
            return entries, pseudonym_rows.names_of(connection, shown)

        entries, names = await self._database.read(command)
        return audit_pb2.ListAuditEntriesResponse(
            entries=[audit_message(entry, names) for entry in entries],
            next_page_token=_next_token(entries, size, newest_first=newest_first),
        )

    async def DestroyPseudonym(
        self, request: audit_pb2.DestroyPseudonymRequest, context: Context
    ) -> audit_pb2.DestroyPseudonymResponse:
        """Destroys the key of a name, and empties the log that might still hold it; both even if
        the caller hangs up.
        """
        destroying = self._destroyed(request.name, callers.current())
        pseudonym, emptied = await asyncio.shield(asyncio.create_task(destroying))
        log.info("the key of pseudonym %s was destroyed", pseudonym)
        if not emptied:
            raise FednotError(
                Reason.SERVER_BUSY,
                "the key is destroyed, but another program reads the database, whose write-ahead "
                "log may hold it until that ends; then any further call of this kind empties it",
                retry_after=5.0,
            )
        return audit_pb2.DestroyPseudonymResponse(pseudonym=pseudonym)

    async def _destroyed(self, name: str, caller: Caller) -> tuple[str, bool]:
        """The pseudonym, and whether the log could be emptied after it."""
        try:
            pseudonym = await self._refusals.forget(
                name, lambda c: destroy_pseudonym(c, name, caller, time.time())
            )
        finally:
            emptied = await self._database.scrub()
        return pseudonym, emptied


def _next_token(entries: Sequence[Entry], size: int, *, newest_first: bool) -> str:
    if len(entries) < size:
        return ""
    last = entries[-1].sequence
    return next_token(len(entries), size, last) if newest_first else str(last)
