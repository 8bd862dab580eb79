"""The service of receipts."""

from __future__ import annotations

import asyncio
from typing import Any

from grpc import aio
from sqlalchemy import Connection

from fednot.errors import FednotError, Reason
from fednot.v1 import receipt_pb2, receipt_pb2_grpc
from server.federation import Federation
from server.records import IssuedReceipt, ReceiptKey
from server.services import callers
from server.services.messages import receipt_key_message
from server.state import deletion_rows, receipt_rows

Context = aio.ServicerContext[Any, Any]


class ReceiptServicer(receipt_pb2_grpc.ReceiptServiceServicer):
    """Hands out receipts and public keys, and changes the key."""

    def __init__(self, federation: Federation) -> None:
        self._database = federation.database
        self._receipts = federation.receipts

    async def GetReceipt(
        self, request: receipt_pb2.GetReceiptRequest, context: Context
    ) -> receipt_pb2.GetReceiptResponse:
        """Reads the receipt of a deletion that the caller may see."""
        caller = callers.current()

        def command(connection: Connection) -> tuple[IssuedReceipt, ReceiptKey | None]:
            if request.WhichOneof("key") == "job_id":
                found = deletion_rows.get_deletion_of_job(connection, request.job_id, caller)
            else:
                found = deletion_rows.get_deletion(connection, request.request_id, caller)
            receipt = receipt_rows.get_receipt(connection, found.job.id)
            if receipt is None:
                raise FednotError(
                    Reason.NO_RECEIPT, f"{found.job.id} is {found.job.phase} and has no receipt"
                )
            return receipt, receipt_rows.get_key(connection, receipt.key_id)

        receipt, key = await self._database.read(command)
        return receipt_pb2.GetReceiptResponse(
            jws=receipt.jws, key=receipt_key_message(key) if key is not None else None
        )

    async def ListReceiptKeys(
        self, request: receipt_pb2.ListReceiptKeysRequest, context: Context
    ) -> receipt_pb2.ListReceiptKeysResponse:
        """Lists the public keys, newest first."""
        keys = await self._database.read(receipt_rows.list_keys)
        return receipt_pb2.ListReceiptKeysResponse(keys=map(receipt_key_message, keys))

    async def RotateReceiptKey(
        self, request: receipt_pb2.RotateReceiptKeyRequest, context: Context
    ) -> receipt_pb2.RotateReceiptKeyResponse:
        """Makes a new key, to its end even if the caller hangs up."""
        caller = callers.current()
        made = await asyncio.shield(asyncio.create_task(self._receipts.rotate(caller)))
        return receipt_pb2.RotateReceiptKeyResponse(key=receipt_key_message(made))
