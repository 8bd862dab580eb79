"""The gRPC channel and its options, the same on both sides where they must agree."""

from __future__ import annotations

from typing import Final

import grpc
from grpc import aio

from fednot.identity.folder import Credentials

KEEPALIVE_SECONDS: Final = 30
CONNECT_SECONDS: Final = 20
"""gRPC takes its least back-off for the time that a connection attempt may take."""
MAX_MESSAGE_BYTES: Final = 4 << 20
DEFAULT_ADDRESS: Final = "127.0.0.1:50051"

_Options = list[tuple[str, int]]

_UNCOMPRESSED: Final = ("grpc.compression_enabled_algorithms_bitset", 1)
"""gRPC inflates a message before it looks at its size: 1 MB of gzip would become 1 GB. Model bytes
have encodings of their own, so that nothing is lost by refusing compressed messages.
"""

CLIENT_OPTIONS: Final[_Options] = [
    ("grpc.keepalive_time_ms", KEEPALIVE_SECONDS * 1000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", CONNECT_SECONDS * 1000),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    ("grpc.use_local_subchannel_pool", 1),
    _UNCOMPRESSED,
]
"""Each channel has connections of its own, so that a new one shows the new certificate."""

SERVER_OPTIONS: Final[_Options] = [
    ("grpc.keepalive_time_ms", KEEPALIVE_SECONDS * 1000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", KEEPALIVE_SECONDS * 500),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.so_reuseport", 0),
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.http2.settings_timeout", 5_000),
    _UNCOMPRESSED,
]
"""Who does not finish the TLS handshake in time is cut off, since each costs a file handle; and so
is who does not agree to the server's limits, which gRPC keeps to only then.

PING frames are answered however many come (no strikes): gRPC 1.80 goes on reading from a connection
that it closes for them, and each frame more then took 4.6 KB, 900 MB in a second, every other time.
"""


def open_channel(address: str, credentials: Credentials | None) -> grpc.Channel:
    """A channel for blocking calls; plaintext without credentials."""
    if credentials is None:
        return grpc.insecure_channel(address, options=CLIENT_OPTIONS)
    return grpc.secure_channel(address, _tls(credentials), options=CLIENT_OPTIONS)


def open_aio_channel(address: str, credentials: Credentials | None) -> aio.Channel:
    """A channel for asyncio; plaintext without credentials."""
    if credentials is None:
        return aio.insecure_channel(address, options=CLIENT_OPTIONS)
    return aio.secure_channel(address, _tls(credentials), options=CLIENT_OPTIONS)


def open_enrolment_channel(address: str, trust: bytes) -> grpc.Channel:
    """A channel for blocking calls of a machine that has no certificate yet; `trust` is PEM."""
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(trust), options=CLIENT_OPTIONS)


def _tls(credentials: Credentials) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(
        credentials.trust, credentials.private_key, credentials.chain
    )
