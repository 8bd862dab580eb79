"""The addresses that a server is dialled by."""

from __future__ import annotations

import ipaddress
from typing import Final

UNIX: Final = "unix:"
_DNS: Final = ("dns:///", "dns:")


def split(address: str) -> tuple[str, int]:
    """Host and port of HOST:PORT or [IPV6]:PORT, with or without gRPC's `dns:///` before it.

    Raises ValueError for anything else, such as the path of a Unix socket.
    """
    rest = address
    for scheme in _DNS:
        rest = rest.removeprefix(scheme)
    host, colon, port = rest.rpartition(":")
    if not colon or not host or "/" in host or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"{address!r} is no address; write HOST:PORT, such as 127.0.0.1:50051")
    return host.removeprefix("[").removesuffix("]"), int(port)


def is_loopback(address: str) -> bool:
    """Whether only this machine can be behind an address: 127.0.0.0/8, ::1, localhost, a socket."""
    if address.startswith(UNIX):
        return True
    try:
        host, _ = split(address)
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
