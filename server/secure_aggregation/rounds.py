"""Where the calls of a masked round find it."""

from __future__ import annotations

from fednot.errors import FednotError, Reason
from server.secure_aggregation.round import MaskedRound


class MaskedRounds:
    """Holds the newest masked round, which outlives the work that it came with: updates are
    unmasked after all of them have been taken.
    """

    def __init__(self) -> None:
        self.newest: MaskedRound | None = None

    def find(self, client: str, work_id: str, attempt: bytes) -> MaskedRound:
        """The round of a client's work. Raises FednotError: UNKNOWN_WORK for work that is no part
        of it, MASKING_FAILED for another attempt at it.
        """
        found = self.newest
        if found is None or not found.has(client, work_id):
            raise FednotError(
                Reason.UNKNOWN_WORK,
                f"client {client!r} has no masked work {work_id!r}; the round is over",
            )
        if found.order.attempt != attempt:
            raise FednotError(
                Reason.MASKING_FAILED, "another attempt at masking this work has begun"
            )
        return found

    def stands(self, client: str, work_id: str) -> bool:
        """Whether a client's work is part of a masked round that counts, and it is not out of it.

        Raises FednotError (ROUND_OVER, SHUTTING_DOWN, MASKING_FAILED) if the round has ended early.
        """
        found = self.newest
        if found is None or not found.has(client, work_id):
            return False
        if found.fault is not None:
            raise found.fault
        return client not in found.out
