"""What a certificate request has to be before anybody signs it."""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from fednot.errors import FednotError, Reason
from fednot.identity import certificates
from fednot.identity.subject import Subject

MAX_REQUEST_BYTES: Final = 16 << 10


def requested_key(request_pem: bytes, subject: Subject) -> ec.EllipticCurvePublicKey:
    """The key that a request is for, and that signed it.

    Raises FednotError (INVALID_CERTIFICATE_REQUEST) if it is bad or is for another subject.
    """
    if len(request_pem) > MAX_REQUEST_BYTES:
        raise _refused(f"it has {len(request_pem)} bytes; {MAX_REQUEST_BYTES} are the most")
    try:
        asked, key = certificates.read_request(request_pem)
    except ValueError as error:
        raise _refused(str(error)) from error
    if asked != subject:
        raise _refused(f"it asks for {asked.uri}, and was to be for {subject.uri}")
    return key


def _refused(why: str) -> FednotError:
    return FednotError(
        Reason.INVALID_CERTIFICATE_REQUEST, f"the certificate request is refused: {why}"
    )
