"""Requests that were right, and were changed on their way or by their sender."""

from __future__ import annotations

import contextlib
from typing import Any

import grpc
import pytest
from support.federation import CALL, refusal
from support.hostile.sockets import DataGuest, plain, until_the_end
from support.hostile.stage import AUDITOR, FORGET, OpenRound, Stage
from support.hostile.told import attack
from support.hostile.wiretap import wiretap
from support.raw_client import Part, chunks_of, constant_update, parts_of, trailer_of
from support.receipts import golden_key

from fednot.channel import open_channel
from fednot.data_messages import framed
from fednot.errors import Reason
from fednot.identity.folder import read_credentials
from fednot.receipt import ReceiptError, verified
from fednot.tensors import as_bytes
from fednot.v1 import data_channel_pb2, federation_pb2_grpc, model_pb2, receipt_pb2

UPDATE = constant_update(0.001)
IN_THE_HANDSHAKE, IN_THE_UPDATE = 300, 30_000
SAMPLED = 97
"""Every so manieth character of a receipt is changed."""


def upload_through(stage: Stage, port: int, opened: OpenRound) -> int:
    """Uploads over a connection of its own to a port, and gives the round in which it counts."""
    address = f"127.0.0.1:{port}"
    with open_channel(address, read_credentials(stage.identity())) as channel:
        stub = federation_pb2_grpc.FederationServiceStub(channel)
        parts = parts_of(opened.mallory.header(opened.work), UPDATE)
        return stub.UploadUpdate(iter(parts), timeout=CALL).round


@attack(
    "one bit changed on the wire",
    sent="an upload of which the network flips a bit: in the handshake, the update, the answer",
    outcome="the connection ends; nothing counts that was changed, and sent again it counts once",
)
@pytest.mark.parametrize(
    ("flip", "upstream"),
    [(IN_THE_HANDSHAKE, True), (IN_THE_UPDATE, True), (IN_THE_HANDSHAKE, False)],
    ids=["handshake", "update", "answer"],
)
def test_a_bit_flipped_on_the_wire(stage: Stage, flip: int, upstream: bool) -> None:
    federation = stage.federation
    with stage.open_round() as opened:
        with stage.unmoved(), wiretap(federation.port, flip, upstream=upstream) as tap:
            with pytest.raises(grpc.RpcError) as cut:
                upload_through(stage, tap.port, opened)
            assert tap.flipped.is_set()
            assert federation.status().round.updates == 0
        counted = upload_through(stage, federation.port, opened)

    assert cut.value.code() is grpc.StatusCode.UNAVAILABLE  # type: ignore[attr-defined]
    assert counted == opened.work.round


@attack(
    "a recorded connection played back",
    sent="every byte of a connection over which an update was counted, on a new one",
    outcome="the handshake fails, since its keys are new; the update counts once",
)
def test_a_connection_played_back(stage: Stage) -> None:
    federation = stage.federation
    with stage.open_round() as opened:
        with wiretap(federation.port) as tap:
            upload_through(stage, tap.port, opened)
        with stage.unmoved(), plain(federation.port) as again:
            with contextlib.suppress(OSError):
                again.sendall(tap.sent)
            until_the_end(again)
            assert federation.status().round.updates == 1


def changed(opened: OpenRound, **header: Any) -> list[Part]:
    return parts_of(opened.mallory.header(opened.work, **header), UPDATE)


def other_bytes(opened: OpenRound) -> list[Part]:
    chunks = list(chunks_of(constant_update(0.002)))
    return [*changed(opened)[:1], *chunks, trailer_of(UPDATE)]


def other_checksum(opened: OpenRound) -> list[Part]:
    wrong = Part(trailer=model_pb2.StreamTrailer(xxh3_128="0" * 32))
    return [*changed(opened)[:-1], wrong]


ALTERED = {
    "other bytes": (other_bytes, Reason.WRONG_CHECKSUM),
    "another checksum": (other_checksum, Reason.WRONG_CHECKSUM),
    "more weight": (lambda opened: changed(opened, num_examples=10**9), Reason.WRONG_NUM_EXAMPLES),
    "another model": (
        lambda opened: changed(opened, manifest_digest="0" * 64),
        "MANIFEST_MISMATCH",
    ),
}


@attack(
    "an update altered by its sender",
    sent="bytes that are not those of the checksum; another checksum; 10^9 examples; another "
    "model's digest",
    outcome="WRONG_CHECKSUM, WRONG_NUM_EXAMPLES, MANIFEST_MISMATCH",
)
@pytest.mark.parametrize("what", ALTERED)
def test_an_altered_update(stage: Stage, what: str) -> None:
    build, reason = ALTERED[what]
    with stage.open_round() as opened, stage.unmoved():
        refused = refusal(lambda: opened.mallory.upload(build(opened)))
        assert stage.federation.status().round.updates == 0

    assert refused.reason == reason


@attack(
    "the same over the data channel",
    sent="an update with a byte changed, and the checksum of what it was",
    outcome="WRONG_CHECKSUM",
)
def test_an_altered_update_over_the_data_channel(stage: Stage) -> None:
    with stage.open_round() as opened, stage.unmoved():
        request = data_channel_pb2.DataRequest(upload=opened.mallory.header(opened.work))
        raw = bytearray(as_bytes(UPDATE))
        raw[1000] ^= 1
        with DataGuest(stage.data_port, stage.identity()) as guest:
            guest.say(framed(request))
            assert guest.answer().HasField("grant")
            guest.say(bytes(raw) + framed(trailer_of(UPDATE).trailer))
            refused = guest.refusal()

    assert refused.reason is Reason.WRONG_CHECKSUM


@attack(
    "an altered receipt",
    sent="a signed receipt with a character changed, and one signed with another key, to "
    "`fednot verify`",
    outcome="it does not verify",
)
def test_an_altered_receipt(stage: Stage) -> None:
    receipts = stage.federation.stubs_for(*AUDITOR).receipts
    found = receipts.GetReceipt(receipt_pb2.GetReceiptRequest(request_id=FORGET), timeout=CALL)
    text = found.jws
    receipt = verified(text, found.key.pem)

    for place in range(0, len(text), SAMPLED):
        other = "A" if text[place] != "A" else "B"
        with pytest.raises(ReceiptError):
            verified(text[:place] + other + text[place + 1 :], found.key.pem)
    mallory = golden_key("mallory")
    forged = mallory.sign(receipt.model_copy(update={"key_id": mallory.id}))
    with pytest.raises(ReceiptError):
        verified(forged, found.key.pem)
