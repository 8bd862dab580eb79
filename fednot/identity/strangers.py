"""What a machine without an identity can see of a server's certificate: its names and dates."""

from __future__ import annotations

from cryptography import x509

from fednot import address as addresses
from fednot.errors import FednotError, Reason
from fednot.identity import certificates
from fednot.identity.lifetime import dated


def strangers_finding(address: str, shown: x509.Certificate | None) -> FednotError | None:
    """What is wrong with the certificate that a server showed, whoever issued it; None if nothing
    that a stranger can see.
    """
    if shown is None:
        return FednotError(
            Reason.SERVER_SPEAKS_PLAINTEXT,
            f"what answers at {address} shows no certificate: it speaks no TLS",
        )
    host, _ = addresses.split(address)
    names = certificates.hosts_of(shown)
    if not any(_is_for(name, host) for name in names):
        return FednotError(
            Reason.SERVER_NAME_MISMATCH,
            f"the certificate of the server at {address} is for {', '.join(names) or 'no name'}, "
            f"not for {host}",
        )
    now, ends, begins = certificates.now(), shown.not_valid_after_utc, shown.not_valid_before_utc
    clock = f"and the clock here says {dated(now)}"
    if now > ends:
        text = f"the certificate of the server at {address} expired on {dated(ends)}, {clock}"
        return FednotError(Reason.SERVER_CERTIFICATE_EXPIRED, text)
    if now < begins:
        text = f"the certificate of {address} is valid only from {dated(begins)} on, {clock}"
        return FednotError(Reason.SERVER_CERTIFICATE_NOT_YET_VALID, text)
    return None


def _is_for(name: str, host: str) -> bool:
    """Whether a name of a certificate, which may begin with `*.`, stands for a host."""
    name, host = name.lower(), host.lower().rstrip(".")
    if name.startswith("*."):
        return host.partition(".")[2] == name[2:]
    return name == host
