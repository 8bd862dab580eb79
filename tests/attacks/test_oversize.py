"""Messages, headers, manifests and lines that are larger than anything honest is, or say so."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from typing import Any, Final

import grpc
import pytest
from support.federation import CALL, refusal
from support.hostile.sockets import DataGuest, plain, until_the_end
from support.hostile.stage import MALLORY, MEBIBYTE, OpenRound, Stage
from support.hostile.told import attack
from support.raw_client import Part, constant_update, parts_of
from support.replay import MANIFEST

from fednot.channel import open_enrolment_channel
from fednot.data_messages import framed
from fednot.errors import FednotError, Reason
from fednot.identity.subject import Role
from fednot.v1 import (
    data_channel_pb2,
    federation_pb2,
    identity_pb2,
    identity_pb2_grpc,
    model_pb2,
)
from fednot.wire import manifest_message

ALLOWED: Final = 32 * MEBIBYTE
TENSORS: Final = 1_000_000
UPDATE = constant_update(0.001)
HUGE: Final = 1 << 60


def code_of(call: Callable[[], object]) -> grpc.StatusCode:
    """The code of gRPC's own refusal."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    code: grpc.StatusCode = caught.value.code()  # type: ignore[attr-defined]
    return code


def of_mallory(stage: Stage) -> Any:
    return stage.federation.stubs_for(Role.CLIENT, MALLORY).clients


@attack(
    "a message over the limit",
    sent="a Join and an upload's chunk of 5 MiB; an enrolment of 1 MiB without a certificate",
    outcome="RESOURCE_EXHAUSTED by gRPC before the message is read",
)
def test_a_message_over_the_limit(stage: Stage) -> None:
    large = bytes(5 * MEBIBYTE)
    join = federation_pb2.JoinRequest(client=MALLORY, device="x" * len(large))
    enrol = identity_pb2.EnrollRequest(secret="x" * MEBIBYTE)
    with stage.open_round() as opened, stage.unmoved(ALLOWED):
        mallory = opened.mallory
        parts = [Part(header=mallory.header(opened.work)), Part(chunk=large)]
        with open_enrolment_channel(stage.enrolment_address, stage.trust) as channel:
            enrolment = identity_pb2_grpc.EnrolmentServiceStub(channel)
            codes = {
                code_of(lambda: mallory.stub.Join(join, timeout=CALL)),
                code_of(lambda: mallory.upload(parts)),
                code_of(lambda: enrolment.Enroll(enrol, timeout=CALL)),
            }

    assert codes == {grpc.StatusCode.RESOURCE_EXHAUSTED}


def announced(opened: OpenRound, **header: Any) -> list[Part]:
    return parts_of(opened.mallory.header(opened.work, **header), UPDATE)


@attack(
    "a header that announces 2^60 bytes",
    sent="an UpdateHeader with num_bytes = 2^60, over gRPC and over the data channel",
    outcome="WRONG_SIZE before a byte is made room for",
)
def test_a_huge_update_announced(stage: Stage) -> None:
    with stage.open_round() as opened, stage.unmoved(ALLOWED):
        refused = [refusal(lambda: opened.mallory.upload(announced(opened, num_bytes=HUGE)))]
        header = opened.mallory.header(opened.work, num_bytes=HUGE)
        with DataGuest(stage.data_port, stage.identity()) as guest:
            guest.say(framed(data_channel_pb2.DataRequest(upload=header)))
            refused.append(guest.refusal())
        assert stage.federation.status().round.updates == 0

    assert {each.reason for each in refused} == {Reason.WRONG_SIZE}


@attack(
    "more bytes than announced",
    sent="an update's header, and ten times its bytes in chunks",
    outcome="WRONG_SIZE at the first byte too many",
)
def test_more_bytes_than_announced(stage: Stage) -> None:
    with stage.open_round() as opened, stage.unmoved(ALLOWED):
        parts = announced(opened)
        refused = refusal(lambda: opened.mallory.upload([*parts[:-1], *parts[1:-1] * 9]))

    assert refused.reason is Reason.WRONG_SIZE


def refused_join(stage: Stage, manifest: model_pb2.Manifest, **more: Any) -> FednotError:
    request = federation_pb2.JoinRequest(
        client=MALLORY, manifest=manifest, num_train_examples=10, **more
    )
    return refusal(lambda: of_mallory(stage).Join(request, timeout=CALL))


@attack(
    "a manifest of a million tensors",
    sent="a Join whose manifest has a million tensors in 4 MB",
    outcome="MANIFEST_TOO_LARGE before one of them is read",
)
def test_a_manifest_of_a_million_tensors(stage: Stage) -> None:
    manifest = model_pb2.Manifest(tensors=[model_pb2.TensorSpec(kind=1)] * TENSORS)
    with stage.unmoved(10 * ALLOWED):
        refused = refused_join(stage, manifest)

    assert refused.reason is Reason.MANIFEST_TOO_LARGE


def a_tensor(**values: Any) -> model_pb2.Manifest:
    """The federation's manifest with its first tensor changed."""
    manifest = manifest_message(MANIFEST)
    changed = model_pb2.TensorSpec(**values)
    manifest.tensors[0].ClearField("shape")
    manifest.tensors[0].MergeFrom(changed)
    return manifest


SHAPES = {
    "a product beyond 64 bits": {"shape": [1 << 40, 1 << 40]},
    "a hundred thousand dimensions": {"shape": [1] * 100_000},
    "a name of a megabyte": {"name": "x" * MEBIBYTE, "shape": [1]},
    "an offset of 2^63": {"byte_offset": 1 << 63, "shape": [1]},
    "a hundred thousand aliases": {"aliases": ["x"] * 100_000, "shape": [1]},
}


@attack(
    "a manifest that describes a monster",
    sent="tensors of 2^80 elements, of 100,000 dimensions, with a name of 1 MiB, an offset of "
    "2^63, 100,000 aliases",
    outcome="INVALID_REQUEST, MANIFEST_TOO_LARGE or MANIFEST_MISMATCH; nothing is made room for",
)
@pytest.mark.parametrize("what", SHAPES)
def test_a_monstrous_tensor(stage: Stage, what: str) -> None:
    with stage.unmoved(ALLOWED):
        refused = refused_join(stage, a_tensor(**SHAPES[what]))

    assert refused.reason in {
        Reason.INVALID_REQUEST,
        Reason.MANIFEST_TOO_LARGE,
        Reason.MANIFEST_MISMATCH,
    }
    assert len(refused.message) < 4000


@attack(
    "metadata over the limit",
    sent="a call with 1 MB of metadata, and one with 1,000 fields",
    outcome="RESOURCE_EXHAUSTED by gRPC",
)
@pytest.mark.parametrize("fields", [16, 1000])
def test_metadata_over_the_limit(stage: Stage, fields: int) -> None:
    metadata = tuple((f"x-{n}", "y" * (MEBIBYTE // fields)) for n in range(fields))
    leave = federation_pb2.LeaveRequest()
    with stage.unmoved(ALLOWED):
        code = code_of(lambda: of_mallory(stage).Leave(leave, metadata=metadata, timeout=CALL))

    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED


@attack(
    "a message over the limit on the data channel",
    sent="a size of 2^32 - 1; a size over 64 KiB; HTTP; bytes that are no message",
    outcome="INVALID_STREAM, and the connection ends",
)
@pytest.mark.parametrize(
    "raw",
    [
        b"\xff\xff\xff\xff",
        ((64 << 10) + 1).to_bytes(4),
        b"GET / HTTP/1.1\r\n\r\n",
        (64).to_bytes(4) + b"\xff" * 64,
    ],
    ids=["huge", "large", "http", "garbage"],
)
def test_a_message_over_the_limit_of_the_data_channel(stage: Stage, raw: bytes) -> None:
    with stage.unmoved(ALLOWED), DataGuest(stage.data_port, stage.identity()) as guest:
        guest.say(raw)
        refused = guest.refusal()
        until_the_end(guest.socket)

    assert refused.reason is Reason.INVALID_STREAM


LINES = {
    "a line of a megabyte": (b"GET /" + b"x" * MEBIBYTE + b" HTTP/1.1\r\n\r\n", b" 414 "),
    "a thousand fields": (
        b"GET /metrics HTTP/1.1\r\n" + b"X-A: b\r\n" * 1000 + b"\r\n",
        b" 431 ",
    ),
    "a field of a megabyte": (
        b"GET /metrics HTTP/1.1\r\nX: " + b"y" * MEBIBYTE + b"\r\n\r\n",
        b" 431 ",
    ),
    "a body of a terabyte": (
        b"POST /metrics HTTP/1.1\r\nContent-Length: 1099511627776\r\n\r\n",
        b" 405 ",
    ),
}


@attack(
    "an HTTP request over the limit",
    sent="a request line of 1 MiB, 1,000 header fields, a field of 1 MiB, a body of 1 TB, to "
    "/metrics",
    outcome="414, 431 or 405, and the connection ends",
)
@pytest.mark.parametrize("what", LINES)
def test_an_http_request_over_the_limit(stage: Stage, what: str) -> None:
    raw, status = LINES[what]
    with stage.unmoved(ALLOWED), plain(stage.federation.http_port) as connected:
        answer = sent_and_heard(connected, raw)

    assert not answer or status in answer.split(b"\r\n")[0]


def sent_and_heard(connected: socket.socket, raw: bytes) -> bytes:
    """The answer, which may be lost if the server closed before all was sent."""
    with contextlib.suppress(OSError):
        connected.sendall(raw)
    return until_the_end(connected)
