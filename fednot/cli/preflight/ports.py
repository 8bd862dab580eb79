"""Whether what a daemon is to listen on is free."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Final

from fednot import address as addresses
from fednot.cli.failures import local, usage
from fednot.cli.preflight.check import Check, Step, ok

_REMEDIES: Final = {
    errno.EADDRINUSE: "`ss -ltnp` names the process that listens there; stop it, or take another "
    "port.",
    errno.EADDRNOTAVAIL: "Take an address of this machine (`ip address` lists them), or 0.0.0.0 "
    "for all.",
    errno.EACCES: "Ports below 1024 need rights; take a higher one.",
}


def steps(places: Iterable[str]) -> Iterator[Step]:
    """A check for each HOST:PORT."""
    for place in places:
        yield f"port {place.rpartition(':')[2]}", partial(free, place), ()


def check_places(places: Iterable[str]) -> None:
    """Raises CliError (USAGE) for what is no address."""
    for place in places:
        try:
            addresses.split(place)
        except ValueError as error:
            raise usage(
                f"--listen {place!r} is not HOST:PORT", "Write it as in 0.0.0.0:50051."
            ) from error


def free(place: str) -> Check:
    """Raises CliError (LOCAL) if nothing can listen at HOST:PORT."""
    host, port = addresses.split(place)
    try:
        rows = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, where = rows[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)
            probe.listen(1)
    except (OSError, UnicodeError) as error:
        number = getattr(error, "errno", None) or 0
        raise local(
            f"nothing can listen on {place}: {getattr(error, 'strerror', None) or error}",
            _REMEDIES.get(number, "Write an address of this machine and a free port."),
        ) from error
    return ok(f"port {port}", f"{place} is free")
