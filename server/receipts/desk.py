"""Issues receipts: keeps the key that signs them, and puts another in its place."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from sqlalchemy import Connection

from fednot.errors import FednotError, Reason
from fednot.receipt import SigningKey
from server.disk_faults import telling
from server.receipts.content import receipt_of
from server.receipts.key_files import KeyFiles
from server.records import NOBODY, AuditEvent, Caller, IssuedReceipt, ReceiptKey
from server.state import audit_rows, job_rows, receipt_rows
from server.state.commits import Commit
from server.state.database import Database, StateError

log = logging.getLogger("server.receipts")


class Receipts(Protocol):
    """Where receipts are issued."""

    def issue(self, connection: Connection, job_id: str, now: float) -> None:
        """Signs the receipt of a job, in the transaction that completes it."""
        ...

    async def rotate(self, caller: Caller) -> ReceiptKey:
        """Has a new key sign from now on. Raises FednotError (NO_RECEIPT) where nothing signs."""
        ...


class NoReceipts:
    """Where nothing is signed, as within one process."""

    def issue(self, connection: Connection, job_id: str, now: float) -> None:
        """Nothing."""

    async def rotate(self, caller: Caller) -> ReceiptKey:
        """Raises FednotError (NO_RECEIPT)."""
        raise FednotError(Reason.NO_RECEIPT, "no receipts are signed here")


class ReceiptDesk:
    """Signs with the key whose public half the database holds as the one that signs now."""

    def __init__(self, database: Database, files: KeyFiles) -> None:
        self._database = database
        self._files = files
        self._keys: dict[str, SigningKey] = {}
        self._on_failed: Callable[[str], object] = lambda operation: None
        self._rotating = asyncio.Lock()

    @classmethod
    async def open(cls, database: Database, state_dir: Path) -> ReceiptDesk:
        """Takes over the key in a state directory; makes one if there is none that signs.

        Raises StateError if it cannot be read or written.
        """
        desk = cls(database, KeyFiles(state_dir))
        try:
            await desk._take_over()
        except OSError as error:
            raise StateError(f"the key of receipts cannot be kept: {error}") from error
        return desk

    def when_failed(self, call: Callable[[str], object]) -> None:
        """Calls with "write" whenever the disk does not take a key or the zeros over one."""
        self._on_failed = call

    def issue(self, connection: Connection, job_id: str, now: float) -> None:
        """Signs the receipt of a job and notes that in the audit."""
        active = receipt_rows.active_key(connection)
        key = self._keys.get(active.id) if active is not None else None
        if key is None:
            raise StateError("the key that signs receipts is not the one of this server")
        job = job_rows.get_job(connection, job_id)
        jws = key.sign(receipt_of(connection, job, key.id, now))
        receipt_rows.insert_receipt(connection, IssuedReceipt(job_id, jws, key.id, now))
        event = AuditEvent(NOBODY, "receipt.issued", job_id=job_id)
        audit_rows.append(connection, event, now)

    async def rotate(self, caller: Caller) -> ReceiptKey:
        """Has a new key sign from now on; the private half of the one before is destroyed."""
        async with self._rotating:
            return await self._rotate(caller)

    async def _take_over(self) -> None:
        active = await self._database.read(receipt_rows.active_key)
        self._settle(active)
        key = self._files.current()
        if key is None or active is None or key.id != active.id:
            await self._make(lost=active)
            return
        self._keys = {key.id: key}

    def _settle(self, active: ReceiptKey | None) -> None:
        """Ends what was begun when the server stopped, or a commit's outcome was not known."""
        upcoming = self._files.upcoming()
        if upcoming is not None and active is not None and upcoming.id == active.id:
            self._files.adopt()
        else:
            self._files.discard()

    async def _make(self, lost: ReceiptKey | None) -> None:
        key = await self._prepared()

        def command(connection: Connection) -> None:
            now = time.time()
            receipt_rows.replace_key(connection, key.id, key.pem, now)
            audit_rows.append(connection, AuditEvent(NOBODY, "receipt-key.made"), now)

        await self._database.write(Commit.RECEIPT_KEY_MADE, command)
        await self._adopted(key)
        if lost is not None:
            log.warning(
                "the private key of receipts %s is gone; %s signs from now on", lost.id, key.id
            )

    async def _rotate(self, caller: Caller) -> ReceiptKey:
        key = await self._prepared()

        def command(connection: Connection) -> ReceiptKey:
            now = time.time()
            event = AuditEvent(caller, "ReceiptService.RotateReceiptKey")
            audit_rows.append(connection, event, now)
            return receipt_rows.replace_key(connection, key.id, key.pem, now)

        made = await self._database.write(Commit.RECEIPT_KEY_ROTATED, command)
        await self._adopted(key)
        log.info("receipts are signed with the key %s from now on", key.id)
        return made

    async def _prepared(self) -> SigningKey:
        """A new key that is on the disk and may sign as soon as the database says so."""
        active = await self._database.read(receipt_rows.active_key)
        key = SigningKey.generate()
        with telling(self._on_failed, "write"):
            await asyncio.to_thread(self._settle, active)
            await asyncio.to_thread(self._files.prepare, key)
        self._keys[key.id] = key
        return key

    async def _adopted(self, key: SigningKey) -> None:
        with telling(self._on_failed, "write"):
            await asyncio.to_thread(self._files.adopt)
        self._keys = {key.id: key}
