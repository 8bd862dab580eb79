"""Why a call did not reach the server, without gRPC's own way of saying it."""

from __future__ import annotations

import socket

import grpc
import pytest

from fednot.rpc_errors import plain_cause

ALL = "failed to connect to all addresses; last error: "


@pytest.mark.parametrize(
    ("details", "cause"),
    [
        (
            f"{ALL}UNKNOWN: ipv4:127.0.0.1:9: Failed to connect to remote host: Connection refused",
            "Connection refused",
        ),
        (
            f"{ALL}UNKNOWN: ipv6:%5B::1%5D:9: Failed to connect to remote host: connect: "
            "Network is unreachable (101)",
            "connect: Network is unreachable (101)",
        ),
        (f"{ALL}UNAVAILABLE: ipv4:10.0.0.1:9: Socket closed", "Socket closed"),
        (
            f"{ALL}INTERNAL: ipv4:10.0.0.1:9: Ssl handshake failed: wrong version",
            "Ssl handshake failed: wrong version",
        ),
        ("DNS resolution failed for x:1: C-ares", "DNS resolution failed for x:1: C-ares"),
        ("Socket closed", "Socket closed"),
        ("", ""),
    ],
)
def test_what_grpc_puts_around_the_cause_is_left_out(details: str, cause: str) -> None:
    assert plain_cause(details) == cause


def test_a_port_on_which_nobody_listens() -> None:
    """By this grpcio, whatever it writes today."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with (
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
        pytest.raises(grpc.RpcError) as told,
    ):
        channel.unary_unary("/a/b")(b"", timeout=5)
    cause = plain_cause(told.value.details() or "")
    assert "onnection refused" in cause
    assert "addresses" not in cause
    assert str(port) not in cause
