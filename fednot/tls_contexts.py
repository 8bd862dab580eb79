"""TLS 1.3 with the certificates of both sides, for Python's own sockets."""

from __future__ import annotations

import os
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from fednot.identity import certificates
from fednot.identity.folder import Credentials


def serving_context(credentials: Credentials) -> ssl.SSLContext:
    """For a server that demands a certificate of a trusted authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    context.num_tickets = 0  # nobody comes back without showing a certificate
    return _with(context, credentials)


def browsers_context(credentials: Credentials) -> ssl.SSLContext:
    """For a server that browsers reach: it checks a certificate if one is shown, over HTTP/1.1."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.num_tickets = 0
    context.set_alpn_protocols(["http/1.1"])
    return _with(context, credentials)


def dialling_context(credentials: Credentials) -> ssl.SSLContext:
    """For a client that checks the server's certificate and name, and shows its own."""
    return _with(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), credentials)


def _with(context: ssl.SSLContext, credentials: Credentials) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # As gRPC does: an authority that another one has signed is trusted if it stands in the file.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    trusted = certificates.pem_of(certificates.read_certificates(credentials.trust))
    context.load_verify_locations(cadata=trusted.decode("ascii"))
    with _own_file(credentials.chain + b"\n" + credentials.private_key) as path:
        context.load_cert_chain(path)
    return context


@contextmanager
def _own_file(content: bytes) -> Iterator[str]:
    """A file for a library that wants one: in memory where that can be, else only this user's."""
    if hasattr(os, "memfd_create"):
        with os.fdopen(os.memfd_create("fednot"), "wb") as file:
            file.write(content)
            file.flush()
            yield f"/proc/self/fd/{file.fileno()}"
        return
    with tempfile.NamedTemporaryFile() as named:
        named.write(content)
        named.flush()
        yield named.name
