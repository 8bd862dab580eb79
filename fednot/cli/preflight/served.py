"""Whether a server's own identity is good: its files, its dates, and the names it is dialled by."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fednot.cli.failures import local
from fednot.cli.preflight.check import Check, Outcome, Step, ok
from fednot.errors import FednotError, Reason
from fednot.identity import certificates, lifetime
from fednot.identity.diagnosis import check_dates_of, exposed_key, file_of
from fednot.identity.folder import KEY, Credentials, read_credentials
from fednot.identity.subject import Role


def steps(folder: Path) -> Iterator[Step]:
    """The checks of the folder that `fednot-server --identity` takes."""
    yield "identity", lambda: _files(folder), ()
    yield "key", lambda: _key(folder), ("identity",)
    yield "dates", lambda: _dates(folder), ("identity",)
    yield "names", lambda: _names(folder), ("identity",)


def _files(folder: Path) -> Check:
    found = _server(folder)
    return ok("identity", f"{found.subject.uri} in {folder}")


def _server(folder: Path) -> Credentials:
    found = read_credentials(folder)
    if found.subject.role is not Role.SERVER:
        raise FednotError(
            Reason.WRONG_ROLE, f"{folder} holds the certificate of {found.subject}, no server"
        )
    return found


def _key(folder: Path) -> Check:
    place, exposed = file_of(folder, KEY), exposed_key(folder)
    if exposed:
        return Check("key", Outcome.WARNING, exposed, f"chmod 600 {place}")
    return ok("key", f"{place} is its owner's alone")


def _dates(folder: Path) -> Check:
    found = _server(folder)
    check_dates_of(found)
    told = f"it ends {lifetime.remaining(found.certificate, certificates.now())}"
    if lifetime.ends_soon(found.certificate, certificates.now()):
        remedy = "A server with --authority renews it by itself; else `fednot certs issue server`."
        return Check("dates", Outcome.WARNING, told, remedy)
    return ok("dates", told)


def _names(folder: Path) -> Check:
    names = certificates.hosts_of(_server(folder).certificate)
    if not names:
        raise local(
            "the certificate is for no name, so nobody can dial this server",
            "Issue it again for the names that clients dial: "
            "fednot certs issue server NAME --host NAME_OR_IP.",
        )
    return ok("names", f"clients may dial {', '.join(names)}, and nothing else")
