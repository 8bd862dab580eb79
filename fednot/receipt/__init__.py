"""Receipts: the signed statements of what deletions did, checked and shown without a server."""

from fednot.receipt.page import page_of
from fednot.receipt.payload import Receipt, schema
from fednot.receipt.signing import ReceiptError, SigningKey, verified

__all__ = ["Receipt", "ReceiptError", "SigningKey", "page_of", "schema", "verified"]
