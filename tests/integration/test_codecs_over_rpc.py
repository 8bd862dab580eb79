"""Clients with encodings of their own, on a server whose memory budget holds no model."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.federation import LocalFederation, eventually
from support.raw_client import RawClient
from support.replay import MANIFEST

from fednot.codecs import codec_of
from fednot.v1 import model_pb2, operator_pb2

RECEIVED = 'fednot_transfer_bytes_total{direction="received"}'
CODECS = ("int8", "bf16", "topk", "fp16")
ALLOWED = ("int8", "bf16", "topk")
SHARE = 0.05


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    codecs = tuple(part for name in ALLOWED for part in ("--codecs", name))
    flags = ("--memory-budget", "1", "--top-k-fraction", str(SHARE), *codecs)
    with LocalFederation(tmp_path_factory.mktemp("codecs"), server_flags=flags) as made:
        made.start_server()
        for index, codec in enumerate(CODECS):
            made.start_client(index, flags=("--codec", codec))
        made.await_connected(len(CODECS))
        yield made


def sent_by(*codecs: str) -> int:
    return sum(codec_of(name, SHARE).size(MANIFEST) for name in codecs)


def test_each_client_sends_what_its_session_agreed(federation: LocalFederation) -> None:
    """fp16 is not among the allowed ones, so the fourth client sends plain updates.

    Nothing fits the budget of one byte: model, sum and updates are in spill files.
    """
    before = federation.metrics()[RECEIVED]
    run = federation.train(2, quorum=1.0)

    assert (run.state, run.rounds_done) == (operator_pb2.RUN_STATE_COMPLETED, 2)
    assert all(row.outcome == operator_pb2.ROUND_OUTCOME_COMPLETED for row in federation.rounds())
    moved = federation.metrics()[RECEIVED] - before
    assert moved == 2 * sent_by("int8", "bf16", "topk", "none")
    assert sent_by("int8") < 0.35 * MANIFEST.nbytes
    assert list((federation.state / "spill").iterdir()) == [], "spill files have no name"


def test_rounds_of_encoded_updates_learn(federation: LocalFederation) -> None:
    first = federation.rounds()[0].metrics["accuracy"]
    federation.train(6)
    assert federation.rounds()[-1].metrics["accuracy"] > first


def test_a_client_that_feeds_errors_back_can_be_forgotten(federation: LocalFederation) -> None:
    """That its residual is gone then is tests/unit/test_client_encoder.py's to show."""
    federation.unlearn("c2", "forget-c2", max_rounds=1)
    eventually("c2 knows", lambda: "barred from training" in federation.log("c2"))
    federation.await_job("forget-c2")


def test_a_session_says_which_encoding_it_got(federation: LocalFederation) -> None:
    client = RawClient(federation, "plain")
    assert client.joined.codec == model_pb2.UPDATE_CODEC_NONE
    client.leave()
