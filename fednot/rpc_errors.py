"""The one translator between FednotError and gRPC status with error details."""

from __future__ import annotations

import re
from typing import Final

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from fednot.errors import DOMAIN, REMEDY_KEY, FednotError, Reason

MAX_MESSAGE_SIZE: Final = 3000
"""A message travels twice, percent-encoded and as base64, in 8 KiB of trailing metadata."""

_CUT: Final = " ..."
_NOT_REACHED: Final = re.compile(
    r"failed to connect to all addresses; last error: [A-Z_]+: (?:(?:ipv[46]|unix):\S+: )?"
    r"(?:Failed to connect to remote host: )?"
)


def to_status(error: FednotError, call_id: str = "") -> status_pb2.Status:
    """The google.rpc.Status of an error: ErrorInfo always, RetryInfo if the error says when, and
    RequestInfo with the call id.

    A message that would not fit is cut, since gRPC would lose the whole status with it.
    """
    info = error_details_pb2.ErrorInfo(
        reason=error.reason,
        domain=DOMAIN,
        metadata={**error.metadata, REMEDY_KEY: error.remedy},
    )
    details = [_packed(info)]
    if error.retry_after is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(error.retry_after * 1e9))
        details.append(_packed(error_details_pb2.RetryInfo(retry_delay=delay)))
    if call_id:
        details.append(_packed(error_details_pb2.RequestInfo(request_id=call_id)))
    code = code_pb2.Code.Value(error.code.name)
    return status_pb2.Status(code=code, message=_cut(error.message), details=details)


def from_rpc_error(error: grpc.RpcError) -> FednotError | None:
    """Reads the FednotError back from a failed call; None if the server sent no known reason."""
    try:
        status = rpc_status.from_call(error)  # type: ignore[arg-type]
    except (ValueError, DecodeError):
        # Something on the way, gRPC itself too, put its own code over the server's.
        return None
    if status is None:
        return None
    info = error_details_pb2.ErrorInfo()
    retry = error_details_pb2.RetryInfo()
    reason, retry_after, metadata = None, None, {}
    for detail in status.details:
        if detail.Unpack(info) and info.domain == DOMAIN and info.reason in Reason.__members__:
            reason, metadata = Reason(info.reason), dict(info.metadata)
        elif detail.Unpack(retry):
            retry_after = retry.retry_delay.ToNanoseconds() / 1e9
    if reason is None:
        return None
    return FednotError(reason, status.message, metadata=metadata, retry_after=retry_after)


def plain_cause(details: str) -> str:
    """What gRPC says of a call that reached nobody, without the words and address before it."""
    return _NOT_REACHED.sub("", details, count=1)


def _cut(message: str) -> str:
    size = 0
    for shown, letter in enumerate(message):
        plain = " " <= letter <= "~" and letter != "%"
        size += 1 if plain else 3 * len(letter.encode())
        if size > MAX_MESSAGE_SIZE:
            return message[:shown] + _CUT
    return message


def _packed(message: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
