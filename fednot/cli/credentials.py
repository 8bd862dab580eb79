"""As whom a command calls: the options that say so, and the identity's own faults."""

from __future__ import annotations

from pathlib import Path

from fednot import address as addresses
from fednot.cli.failures import of_finding, usage
from fednot.cli.output import Output
from fednot.errors import FednotError, Reason
from fednot.identity import certificates, lifetime
from fednot.identity.diagnosis import check_dates_of, exposed_key, file_of
from fednot.identity.folder import CERTIFICATE, Credentials, read_credentials
from fednot.identity.replacement import finish_replacement
from fednot.identity.subject import Role


def credentials_for(
    address: str, identity: Path | None, *, insecure: bool, output: Output
) -> Credentials | None:
    """Whom to call as; None for plaintext. Warns of an end that is near and a key that is open.

    Raises CliError if the options do not go together, or the identity cannot be used.
    """
    check_address(address)
    check_choice(address, identity, insecure=insecure)
    if identity is None:
        return None
    try:
        credentials = own_credentials(identity)
    except FednotError as error:
        raise of_finding(error) from error
    exposed = exposed_key(identity)
    if exposed:
        output.note(f"warning: {exposed}; chmod 600 makes it yours alone")
    if lifetime.ends_soon(credentials.certificate, certificates.now()):
        output.note(f"warning: {ending(credentials)}; `fednot certs renew` renews it")
    return credentials


def check_address(address: str) -> None:
    """Raises CliError (USAGE) for what is no address."""
    if address.startswith(addresses.UNIX) and address != addresses.UNIX:
        return
    try:
        addresses.split(address)
    except ValueError as error:
        raise usage(
            f"--server {address!r} is not HOST:PORT", "Write it as in 127.0.0.1:50051."
        ) from error


def check_choice(address: str, identity: Path | None, *, insecure: bool) -> None:
    """Raises CliError (USAGE) unless there is an identity, or plaintext on this machine."""
    if identity is not None and insecure:
        raise usage(
            "--identity and --insecure exclude each other",
            "Keep one; the variables FEDNOT_IDENTITY and FEDNOT_INSECURE count too.",
        )
    if identity is None and not insecure:
        raise usage(
            "who calls? There is no --identity (nor FEDNOT_IDENTITY)",
            "Give --identity FOLDER with a certificate by `fednot certs`, or --insecure for a "
            "plaintext server on this machine.",
        )
    if identity is not None and address.startswith(addresses.UNIX):
        raise usage(
            f"{address} has no host name, which the server's certificate would be checked for",
            "Give HOST:PORT, or --insecure instead of --identity.",
        )
    if insecure and not addresses.is_loopback(address):
        raise usage(
            f"--insecure talks in plaintext, and {address} is not on this machine",
            "Give --identity FOLDER instead, or dial 127.0.0.1, ::1 or localhost.",
        )


def own_credentials(folder: Path) -> Credentials:
    """The identity in a folder, if one can call with it now. Raises FednotError."""
    credentials = callers_credentials(folder)
    check_dates_of(credentials)
    return credentials


def callers_credentials(folder: Path) -> Credentials:
    """The identity of a caller in a folder, whatever its dates. Raises FednotError."""
    finish_replacement(folder)
    credentials = read_credentials(folder)
    if credentials.subject.role is Role.SERVER:
        raise FednotError(
            Reason.WRONG_ROLE,
            f"{folder} holds the certificate of a server, with which nobody can call; take one of "
            "a client, officer, operator or auditor",
        )
    return credentials


def ending(credentials: Credentials) -> str:
    """When a certificate ends, for a warning."""
    place = file_of(credentials.folder, CERTIFICATE)
    end = lifetime.remaining(credentials.certificate, certificates.now())
    return f"the certificate of {credentials.subject} in {place} ends {end}"
