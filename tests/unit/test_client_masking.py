"""One update is in one unmasked sum at the most, whatever the server asks for."""

from __future__ import annotations

import pytest
from torch import nn

from client.encoder import Encoder
from client.masking import Masking, terms_of
from client.training import Training, Work
from fednot.errors import FednotError, Reason
from fednot.manifest import Manifest
from fednot.v1 import federation_pb2

MANIFEST = Manifest.of(nn.Linear(3, 2))


class NoSigner:
    chain = b""

    def sign(self, message: bytes) -> bytes:
        return b"signed"

    def check(self, client: str, chain: bytes, message: bytes, signature: bytes) -> None:
        pass


def order(attempt: bytes, cohort: str = "abc", threshold: int = 3) -> federation_pb2.TrainWork:
    masked = federation_pb2.MaskedRound(
        attempt=attempt.ljust(16), threshold=threshold, value_range=16, most_examples=10
    )
    masked.cohort.extend(cohort)
    return federation_pb2.TrainWork(work_id="w1", round=1, version=1, masked=masked)


def begun(asked: federation_pb2.TrainWork) -> Masking:
    return Masking(asked, "a", NoSigner(), MANIFEST)


def training(asked: federation_pb2.TrainWork) -> Training:
    return Training(asked, Work("w1", "training", "round 1"), MANIFEST, Encoder(MANIFEST))


def test_an_attempt_is_gone_on_with_and_a_newer_one_begun() -> None:
    first, second = order(b"first"), order(b"second")
    held = training(first)
    masking = held.masking(first, lambda: begun(first))
    assert held.masking(first, lambda: begun(first)) is masking
    assert held.masking(second, lambda: begun(second)) is not masking


def test_an_update_that_was_unmasked_in_a_sum_is_not_masked_again() -> None:
    first, second = order(b"first"), order(b"second")
    held = training(first)
    held.masking(first, lambda: begun(first)).revealed = True
    with pytest.raises(FednotError, match="not masked again") as caught:
        held.masking(second, lambda: begun(second))
    assert caught.value.reason is Reason.MASKING_FAILED


@pytest.mark.parametrize(
    ("cohort", "threshold"), [("ab", 2), ("abcd", 2), ("abc", 0)], ids=["two", "half", "none"]
)
def test_terms_that_would_not_hide_an_update_are_refused(cohort: str, threshold: int) -> None:
    with pytest.raises(FednotError, match="would not hide") as caught:
        terms_of(order(b"attempt", cohort, threshold))
    assert caught.value.reason is Reason.MASKING_FAILED


def test_a_round_that_the_client_is_not_in_is_refused() -> None:
    with pytest.raises(FednotError, match="not in the cohort"):
        begun(order(b"attempt", "bcd"))
