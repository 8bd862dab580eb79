"""Whether a server's name stands for an address, and its port takes connections."""

from __future__ import annotations

import errno
import socket
from typing import Final

from fednot import address as addresses
from fednot.cli.exit_codes import ExitCode
from fednot.cli.failures import UNREACHABLE, CliError
from fednot.cli.preflight.check import Check, ok
from fednot.identity import probing
from fednot.identity.probing import Deadline

_NO_WAY: Final = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN})


def resolved(address: str, deadline: Deadline) -> Check:
    """Raises CliError (UNREACHABLE) for a name that stands for nothing, or DNS that is silent."""
    if address.startswith(addresses.UNIX):
        return ok("address", address)
    try:
        rows = probing.resolve(address, deadline)
    except (OSError, ValueError) as error:
        host, _ = addresses.split(address)
        raise _failure(
            f"{host} cannot be resolved: {_told(error)}",
            f"Look for a slip in the name. If `getent hosts {host}` finds nothing either, this "
            "machine's DNS does not know it (/etc/resolv.conf), or does not answer: mend that, or "
            "write the name with its address into /etc/hosts.",
        ) from error
    found = dict.fromkeys(str(row[4][0]) for row in rows)
    return ok("address", f"{address} is {', '.join(found)}")


def reached(address: str, deadline: Deadline) -> Check:
    """Raises CliError (UNREACHABLE) if no connection comes about, with what may stand between."""
    if address.startswith(addresses.UNIX):
        return ok("port", "a socket of this machine")
    try:
        probing.connect(address, deadline).close()
    except OSError as error:
        raise _failure(
            f"no connection to {address}: {_told(error)}", _remedy(error, address)
        ) from error
    return ok("port", f"{address} takes connections")


def _remedy(error: OSError, address: str) -> str:
    host, port = addresses.split(address)
    if error.errno == errno.ECONNREFUSED:
        nobody = f"Nothing listens on port {port} there. Start fednot-server, or correct the port."
        if addresses.is_loopback(address):
            return nobody
        return (
            f"{nobody} Unless it is told --address 0.0.0.0:{port}, a server listens on 127.0.0.1, "
            "for its own machine alone."
        )
    if isinstance(error, TimeoutError):
        return (
            f"See that {host} is the server and is on, and that no firewall drops TCP to port "
            f"{port}: outbound from this machine, inbound to the server."
        )
    if error.errno in _NO_WAY:
        return f"This machine has no way to {host}: look at its network, VPN and routes."
    return f"Check that fednot-server runs and that --server names its host and port: {address}."


def _told(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    text = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
    known = isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN
    return f"{text} (DNS did not answer)" if known else text


def _failure(message: str, remedy: str) -> CliError:
    return CliError(message, ExitCode.UNREACHABLE, reason=UNREACHABLE, remedy=remedy, lost=True)
