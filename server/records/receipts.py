"""Receipts and the keys that sign them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class IssuedReceipt:
    """The receipt of a job: a compact JWS, signed at `issued_at`, in seconds since the epoch."""

    job_id: str
    jws: str
    key_id: str
    issued_at: float


@dataclass(frozen=True)
class ReceiptKey:
    """The public half of a key; times in seconds since the epoch.

    `retired_at` is when another took its place, None for the one that signs now.
    """

    id: str
    pem: str
    created_at: float
    retired_at: float | None = None
