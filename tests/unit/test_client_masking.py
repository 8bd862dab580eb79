"""What a client remembers of masked work: it never helps to unmask one update in two sums."""

from __future__ import annotations

import pytest

from client.masking import MOST_REVEALED, RevealedWork
from client.worker import WorkFailedError
from fednot.v1 import federation_pb2


def order(work_id: str, attempt: bytes) -> federation_pb2.TrainWork:
    masked = federation_pb2.MaskedRound(attempt=attempt)
    return federation_pb2.TrainWork(work_id=work_id, masked=masked)


def test_after_revealing_no_other_attempt_at_the_work_is_begun() -> None:
    revealed = RevealedWork()
    revealed.check(order("w", b"first"), None)
    revealed.note(order("w", b"first"))
    revealed.check(order("w", b"first"), b"first")
    revealed.check(order("other", b"second"), None)
    for attempt, in_hand in ((b"second", b"first"), (b"second", None), (b"first", None)):
        with pytest.raises(WorkFailedError, match="shares were revealed"):
            revealed.check(order("w", attempt), in_hand)


def test_without_revealing_a_server_that_starts_again_may_mask_anew() -> None:
    RevealedWork().check(order("w", b"second"), b"first")


def test_what_is_remembered_is_bounded() -> None:
    revealed = RevealedWork()
    for number in range(MOST_REVEALED + 1):
        revealed.note(order(str(number), b"attempt"))
    revealed.check(order("0", b"again"), None)
    with pytest.raises(WorkFailedError):
        revealed.check(order("1", b"again"), None)
