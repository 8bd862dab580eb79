"""The one translator between FednotError and gRPC status with error details."""

from __future__ import annotations

from typing import Final

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from fednot.errors import CATALOGUE, DOMAIN, FednotError, Reason

_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}


def to_status(error: FednotError) -> status_pb2.Status:
    """The google.rpc.Status of an error: ErrorInfo always, RetryInfo if the error says when."""
    info = error_details_pb2.ErrorInfo(
        reason=error.reason,
        domain=DOMAIN,
        metadata={**error.metadata, "remedy": CATALOGUE[error.reason].remedy},
    )
    details = [_packed(info)]
    if error.retry_after is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(error.retry_after * 1e9))
        details.append(_packed(error_details_pb2.RetryInfo(retry_delay=delay)))
    code = code_pb2.Code.Value(error.code.name)
    return status_pb2.Status(code=code, message=error.message, details=details)


def from_rpc_error(error: grpc.RpcError) -> FednotError | None:
    """Reads the FednotError back from a failed call; None if the server sent no known reason."""
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
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


def status_code(status: status_pb2.Status) -> grpc.StatusCode:
    """The gRPC code of a status message."""
    return _CODES[status.code]


def _packed(message: error_details_pb2.ErrorInfo | error_details_pb2.RetryInfo) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
