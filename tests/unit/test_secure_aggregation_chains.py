"""Chains of certificates that other clients of a masked round show."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from support.identities import Identities

from fednot.errors import FednotError
from fednot.identity import certificates
from fednot.identity.folder import read_credentials
from fednot.identity.subject import Role
from fednot.secure_aggregation.signing import CertificateSigner


def test_a_chain_with_an_extension_twice_is_refused(tmp_path: Path) -> None:
    """The library tells of it by an error of a kind of its own."""
    identities = Identities(tmp_path)
    a, b = (CertificateSigner(read_credentials(identities.of(Role.CLIENT, name))) for name in "ab")
    key = ec.generate_private_key(ec.SECP256R1())
    authority = certificates.self_signed_authority("x", key, 1, "fednot")
    der = authority.public_bytes(serialization.Encoding.DER)
    identifier, constraints = bytes.fromhex("0603551d0e"), bytes.fromhex("0603551d13")
    assert identifier in der
    assert constraints in der
    twice = x509.load_der_x509_certificate(der.replace(identifier, constraints))
    with pytest.raises(x509.DuplicateExtension):
        twice.extensions.get_extension_for_class(x509.BasicConstraints)
    chain = a.chain + twice.public_bytes(serialization.Encoding.PEM)
    b.check("a", chain, b"text", a.sign(b"text"))
    with pytest.raises(FednotError):
        b.check("a", twice.public_bytes(serialization.Encoding.PEM) + a.chain, b"text", b"x")
