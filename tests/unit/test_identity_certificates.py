"""Certificates, requests and revocation lists as they are made and read back."""

from __future__ import annotations

import base64
import datetime as dt
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from fednot.errors import FednotError, Reason
from fednot.identity import certificates
from fednot.identity.description import Description
from fednot.identity.folder import read_trust
from fednot.identity.holders import Holders
from fednot.identity.subject import Role, Subject, SubjectError
from fednot.identity.trust import Trust

KEY = certificates.new_key()
OTHER = certificates.new_key()
ROOT = certificates.self_signed_authority("fednot authority", KEY, 30, "fednot")
CLIENT = Subject(Role.CLIENT, "c1")
SERVER = Subject(Role.SERVER, "server")
MINUTE = dt.timedelta(minutes=1)


def leaf(subject: Subject = CLIENT, days: float = 1, **more: object) -> x509.Certificate:
    return certificates.leaf(subject, OTHER.public_key(), ROOT, KEY, days=days, **more)  # type: ignore[arg-type]


def test_a_certificate_names_one_identity_and_what_it_is_for() -> None:
    found = leaf()
    purpose = found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    limits = found.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert certificates.subject_of(found) == CLIENT
    assert list(purpose) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert not limits.ca
    assert certificates.issued_by(found, ROOT)
    assert certificates.hosts_of(found) == ()


def test_a_servers_certificate_has_its_hosts() -> None:
    found = leaf(SERVER, hosts=["Fed.Example.org", "127.0.0.1", "::1"])
    purpose = found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(purpose) == [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    assert certificates.hosts_of(found) == ("fed.example.org", "127.0.0.1", "::1")


def test_its_dates() -> None:
    """It begins 10 minutes ago, ends when asked, and never after its issuer (30 days)."""
    now = certificates.now()
    found = leaf(days=2)
    assert abs(found.not_valid_before_utc - (now - certificates.CLOCK_SKEW)) < MINUTE
    assert abs(found.not_valid_after_utc - (now + dt.timedelta(days=2))) < MINUTE
    assert leaf(days=31).not_valid_after_utc == ROOT.not_valid_after_utc


def test_an_authority_says_for_which_domain_it_signs() -> None:
    assert certificates.domain_of(ROOT) == "fednot"
    assert certificates.domain_of(certificates.self_signed_authority("x", KEY, 1)) == ""


def test_what_a_certificate_says() -> None:
    found = Description.of_pem(certificates.pem_of([leaf(SERVER, hosts=["a.org"]), ROOT]))
    assert [each.name for each in found] == ["server", "fednot authority"]
    assert found[0].issuer == "fednot authority"
    assert found[0].hosts == ("a.org",)
    assert found[0].key_digest == certificates.key_digest(OTHER.public_key())
    assert found[1].ends == ROOT.not_valid_after_utc


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a b",
        "host:50051",
        "https://host",
        "-host",
        "host-",
        "a..b",
        "10.0.0.0/8",
        "b\u00fccher.de",
    ],
)
def test_what_is_no_host_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="neither a DNS name nor an IP address"):
        certificates.checked_host(name)
    with pytest.raises(ValueError, match="neither"):
        leaf(SERVER, hosts=[name])


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("LOCALHOST", "localhost"),
        ("my_box.local", "my_box.local"),
        ("*.fed.org", "*.fed.org"),
        ("0:0::1", "::1"),
        ("a" * 63 + ".org", "a" * 63 + ".org"),
    ],
)
def test_hosts_are_written_in_one_way(name: str, written: str) -> None:
    assert certificates.checked_host(name) == written


def test_a_request_carries_subject_and_key() -> None:
    pem = certificates.request_pem(certificates.request(CLIENT, OTHER))
    subject, key = certificates.read_request(pem)
    assert subject == CLIENT
    assert certificates.same_key(key, OTHER.public_key())
    assert not certificates.same_key(key, KEY.public_key())


Signer = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


def request_of(key: Signer, uris: list[str]) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    if uris:
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(u) for u in uris])
        builder = builder.add_extension(names, critical=False)
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return certificates.request_pem(builder.sign(key, algorithm))


def tampered() -> bytes:
    """A request whose signature was made for another: one bit of the name differs."""
    found = certificates.request(CLIENT, OTHER).public_bytes(serialization.Encoding.DER)
    changed = found.replace(b"/client/c1", b"/client/c2")
    return certificates.request_pem(x509.load_der_x509_csr(changed))


def of_version_8() -> bytes:
    found = certificates.request(CLIENT, OTHER).public_bytes(serialization.Encoding.DER)
    return pem("CERTIFICATE REQUEST", found.replace(b"\x02\x01\x00", b"\x02\x01\x07", 1))


def pem(label: str, content: bytes) -> bytes:
    return ssl.DER_cert_to_PEM_cert(content).replace("CERTIFICATE", label).encode()


BAD_REQUESTS: dict[str, tuple[Callable[[], bytes], str]] = {
    "no PEM": (lambda: b"nonsense", "Unable to load PEM"),
    "a certificate": (lambda: certificates.pem_of([ROOT]), "PEM"),
    "nothing": (lambda: b"", "Unable to load PEM"),
    "RSA": (lambda: request_of(rsa.generate_private_key(65537, 2048), [CLIENT.uri]), "P-256"),
    "P-384": (lambda: request_of(ec.generate_private_key(ec.SECP384R1()), [CLIENT.uri]), "P-256"),
    "Ed25519": (
        lambda: request_of(ed25519.Ed25519PrivateKey.generate(), [CLIENT.uri]),
        "P-256",
    ),
    "no name": (lambda: request_of(OTHER, []), "no subject alternative name"),
    "two names": (lambda: request_of(OTHER, [CLIENT.uri, SERVER.uri]), "and has 2"),
    "another kind of name": (lambda: request_of(OTHER, ["https://a"]), "is not spiffe://"),
    "tampered": (tampered, "does not match its key"),
    "version 8": (of_version_8, "unknown version"),
}


@pytest.mark.parametrize("name", BAD_REQUESTS)
def test_a_bad_request_is_a_value_error_with_the_reason(name: str) -> None:
    make, said = BAD_REQUESTS[name]
    with pytest.raises(ValueError, match=said):
        certificates.read_request(make())


def test_a_certificate_of_another_version_is_told_like_any_other_fault(tmp_path: Path) -> None:
    content = ROOT.public_bytes(serialization.Encoding.DER)
    changed = content.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x07")
    strange = pem("CERTIFICATE", changed)
    path = tmp_path / "ca.pem"
    path.write_bytes(strange)
    for read in (certificates.read_certificate, certificates.read_certificates, Trust.of_pem):
        with pytest.raises(ValueError, match="unknown version"):
            read(strange)
    with pytest.raises(FednotError, match="unknown version") as shown:
        Holders(Trust([ROOT]), "fednot").judge(strange, 0.0)
    with pytest.raises(FednotError, match=r"ca.pem.*unknown version") as kept:
        read_trust(path)
    assert shown.value.reason is Reason.INVALID_CERTIFICATE
    assert kept.value.reason is Reason.INVALID_IDENTITY


def test_a_certificate_without_identity_is_no_subject() -> None:
    for domain in ("fednot", ""):
        found = certificates.self_signed_authority("x", KEY, 1, domain)
        with pytest.raises(SubjectError):
            certificates.subject_of(found)


KEY_KIND, CURVE = bytes.fromhex("06072a8648ce3d0201"), bytes.fromhex("06082a8648ce3d030107")


@pytest.mark.parametrize("known", [KEY_KIND, CURVE])
def test_an_authority_with_a_key_of_an_unknown_kind_has_signed_nothing(known: bytes) -> None:
    der = ROOT.public_bytes(serialization.Encoding.DER)
    strange = x509.load_der_x509_certificate(der.replace(known, known[:-1] + b"\x55"))
    assert not certificates.issued_by(leaf(), strange)
    with pytest.raises(ValueError, match="key of an unknown kind"):
        Trust.of_pem(certificates.pem_of([strange]), certificates.revocation_list((), ROOT, KEY))


def test_a_private_key_of_an_unknown_kind_is_refused() -> None:
    der = KEY.private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    strange = base64.encodebytes(der.replace(KEY_KIND, KEY_KIND[:-1] + b"\x55"))
    with pytest.raises(ValueError, match="elliptic-curve"):
        certificates.read_key(
            b"-----BEGIN PRIVATE KEY-----\n" + strange + b"-----END PRIVATE KEY-----\n"
        )


def test_keys_are_read_back_and_others_refused() -> None:
    assert certificates.same_key(
        certificates.read_key(certificates.key_pem(KEY)).public_key(), KEY.public_key()
    )
    encrypted = KEY.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    with pytest.raises(ValueError, match="encrypted"):
        certificates.read_key(encrypted)
    other = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    with pytest.raises(ValueError, match="elliptic-curve"):
        certificates.read_key(other)


def test_an_authority_that_signed_nothing_is_no_issuer() -> None:
    stranger = certificates.self_signed_authority("fednot authority", OTHER, 30)
    assert not certificates.issued_by(leaf(), stranger)
    assert not certificates.issued_by(ROOT, leaf())


def test_a_newer_authority_is_followed_to_the_older() -> None:
    cross = certificates.cross_signed_authority("newer", OTHER, ROOT, KEY, "fednot")
    assert certificates.issued_by(cross, ROOT)
    assert certificates.common_name_of(cross) == "newer"
    assert certificates.domain_of(cross) == "fednot"
    assert abs(cross.not_valid_after_utc - ROOT.not_valid_after_utc) < MINUTE
