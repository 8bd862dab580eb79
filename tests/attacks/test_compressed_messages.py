"""Compressed messages that grow: some kilobytes that would become many megabytes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import grpc
import pytest
from support.federation import CALL
from support.hostile.stage import MEBIBYTE, Stage
from support.hostile.told import attack

from fednot.identity.folder import read_credentials

JOIN: Final = "/fednot.v1.FederationService/Join"
UPLOAD: Final = "/fednot.v1.FederationService/UploadUpdate"
ENROL: Final = "/fednot.v1.EnrolmentService/Enroll"
INFLATED: Final = 256 * MEBIBYTE
"""What a message would become: it travels as about a thousandth of that."""
ALLOWED: Final = 8 * MEBIBYTE
KINDS = (grpc.Compression.Gzip, grpc.Compression.Deflate)
WITHOUT_LIMITS = [("grpc.max_send_message_length", -1)]


def zeros(size: int) -> bytes:
    """A message that any reader takes: one unknown field of so many zeros."""
    return b"\xfa\x7f" + _varint(size) + bytes(size)


def _varint(value: int) -> bytes:
    parts = []
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


@contextmanager
def dialled(stage: Stage, *, enrolment: bool = False) -> Iterator[grpc.Channel]:
    """A channel with gRPC's own options, which compresses when it is asked to."""
    if enrolment:
        credentials = grpc.ssl_channel_credentials(stage.trust)
        address = stage.enrolment_address
    else:
        shown = read_credentials(stage.identity())
        credentials = grpc.ssl_channel_credentials(shown.trust, shown.private_key, shown.chain)
        address = stage.federation.address
    with grpc.secure_channel(address, credentials, options=WITHOUT_LIMITS) as channel:
        yield channel


def refused(channel: grpc.Channel, method: str, message: bytes, how: grpc.Compression) -> grpc.Call:
    """Sends one message and gives the call, which must fail."""
    if method == UPLOAD:
        stream = channel.stream_unary(method, None, None)
        send = lambda: stream(iter([message]), timeout=CALL, compression=how)  # noqa: E731
    else:
        unary = channel.unary_unary(method, None, None)
        send = lambda: unary(message, timeout=CALL, compression=how)  # noqa: E731
    with pytest.raises(grpc.RpcError) as caught:
        send()
    failed: grpc.Call = caught.value  # type: ignore[assignment]
    return failed


@attack(
    "a compressed message that grows",
    sent="256 MiB of zeros as 256 KiB of gzip and of deflate: as a Join and as an upload",
    outcome="UNIMPLEMENTED before anything is inflated",
)
@pytest.mark.parametrize("how", KINDS, ids=lambda how: how.name)
@pytest.mark.parametrize("method", [JOIN, UPLOAD], ids=["join", "upload"])
def test_a_message_that_would_inflate(stage: Stage, method: str, how: grpc.Compression) -> None:
    message = zeros(INFLATED)
    with dialled(stage) as channel, stage.unmoved(ALLOWED):
        failed = refused(channel, method, message, how)

    assert failed.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "disabled" in failed.details()


@attack(
    "the same without a certificate",
    sent="32 MiB of zeros as 32 KiB of gzip to the port of enrolment, 20 times",
    outcome="UNIMPLEMENTED before anything is inflated",
)
def test_a_bomb_for_the_port_of_enrolment(stage: Stage) -> None:
    message = zeros(32 * MEBIBYTE)
    with dialled(stage, enrolment=True) as channel, stage.unmoved(ALLOWED):
        calls = [refused(channel, ENROL, message, KINDS[0]) for _ in range(20)]

    assert {failed.code() for failed in calls} == {grpc.StatusCode.UNIMPLEMENTED}
