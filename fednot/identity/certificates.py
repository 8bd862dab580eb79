"""Makes keys, certificates, requests and revocation lists, and reads them.

Keys are ECDSA P-256: every TLS stack in use accepts them (gRPC's BoringSSL refuses Ed25519).
Certificates follow RFC 5280 and the X509-SVID profile: one URI subject alternative name.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fednot.identity.subject import SCHEME, Role, Subject, SubjectError

CLOCK_SKEW: Final = dt.timedelta(minutes=10)
"""Certificates begin this long ago, since clocks of separate machines differ."""

_DNS_NAME: Final = re.compile(
    r"(\*\.)?[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*"
)
_NO_EXTENSION: Final = (
    x509.ExtensionNotFound,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    ValueError,
)
"""What asking a certificate for an extension raises if it has none that can be read."""

PrivateKey = ec.EllipticCurvePrivateKey


def new_key() -> PrivateKey:
    """A fresh P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: PrivateKey) -> bytes:
    """A private key as unencrypted PKCS#8 PEM; the file that holds it must be private."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def read_key(pem: bytes) -> PrivateKey:
    """Reads a private key. Raises ValueError unless it is an unencrypted EC key."""
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except TypeError as error:
        raise ValueError("the key is encrypted; store it unencrypted with mode 0600") from error
    except UnsupportedAlgorithm as error:
        raise ValueError(f"the key is not an elliptic-curve key: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("the key is not an elliptic-curve key")  # noqa: TRY004
    return key


def pem_of(certificates: Iterable[x509.Certificate]) -> bytes:
    """Certificates as PEM, one after the other."""
    return b"".join(found.public_bytes(serialization.Encoding.PEM) for found in certificates)


def read_certificate(pem: bytes) -> x509.Certificate:
    """The first certificate of a PEM text. Raises ValueError if there is none."""
    with _versions_told():
        return x509.load_pem_x509_certificate(pem)


def read_certificates(pem: bytes) -> tuple[x509.Certificate, ...]:
    """Certificates of a PEM text, in its order. Raises ValueError if there is none."""
    with _versions_told():
        return tuple(x509.load_pem_x509_certificates(pem))


def now() -> dt.datetime:
    """This moment, in UTC, to the second, as certificates count it."""
    return dt.datetime.now(dt.UTC).replace(microsecond=0)


def self_signed_authority(
    common_name: str, key: PrivateKey, days: float, domain: str = ""
) -> x509.Certificate:
    """The root certificate of an authority; `domain` is the trust domain that it signs for."""
    return _authority(common_name, key, common_name, key, days, domain)


def cross_signed_authority(
    common_name: str,
    key: PrivateKey,
    issuer: x509.Certificate,
    issuer_key: PrivateKey,
    domain: str = "",
) -> x509.Certificate:
    """An authority's certificate signed by the one before, so that those who only trust the older
    one can follow the chain (RFC 4210, section 4.4, "new with old"). It ends with the older one.
    """
    days = (issuer.not_valid_after_utc - now()) / dt.timedelta(days=1)
    return _authority(common_name, key, common_name_of(issuer), issuer_key, days, domain)


def _authority(
    subject: str,
    key: PrivateKey,
    issuer: str,
    issuer_key: PrivateKey,
    days: float,
    domain: str,
) -> x509.Certificate:
    usage = _key_usage(key_cert_sign=True, crl_sign=True)
    builder = (
        _builder(subject, key.public_key(), issuer, issuer_key.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(usage, critical=True)
    )
    if domain:
        name = x509.UniformResourceIdentifier(SCHEME + domain)
        builder = builder.add_extension(x509.SubjectAlternativeName([name]), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def domain_of(authority: x509.Certificate) -> str:
    """The trust domain that an authority signs for; "" if its certificate does not say."""
    try:
        names = authority.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ""
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    return uris[0].removeprefix(SCHEME) if uris else ""


def leaf(
    subject: Subject,
    public_key: ec.EllipticCurvePublicKey,
    issuer: x509.Certificate,
    issuer_key: PrivateKey,
    *,
    days: float,
    hosts: Sequence[str] = (),
    begins: dt.datetime | None = None,
) -> x509.Certificate:
    """A certificate for a subject. `hosts` are DNS names and IP addresses of a server.

    It never outlives its issuer. `begins` is for tests of certificates that are not yet valid.
    """
    purposes = [ExtendedKeyUsageOID.CLIENT_AUTH]
    if subject.role is Role.SERVER:  # it asks its own health over the port that it serves, too
        purposes.insert(0, ExtendedKeyUsageOID.SERVER_AUTH)
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(subject.uri)]
    names += [_host(checked_host(name)) for name in hosts]
    return (
        _builder(
            subject.name,
            public_key,
            common_name_of(issuer),
            issuer_key.public_key(),
            days,
            begins=begins,
            latest=issuer.not_valid_after_utc,
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )


def request(subject: Subject, key: PrivateKey) -> x509.CertificateSigningRequest:
    """A request that the holder of a key makes for a certificate (PKCS#10)."""
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(subject.uri)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(_name(subject.name))
    return builder.add_extension(names, critical=False).sign(key, hashes.SHA256())


def request_pem(found: x509.CertificateSigningRequest) -> bytes:
    """A request as PEM."""
    return found.public_bytes(serialization.Encoding.PEM)


def read_request(pem: bytes) -> tuple[Subject, ec.EllipticCurvePublicKey]:
    """What a request asks for, and the key it is for.

    Raises ValueError if it is no request, is not signed by that key, or has no P-256 key.
    """
    with _versions_told():
        found = x509.load_pem_x509_csr(pem)
    try:
        key = found.public_key()
        signed = found.is_signature_valid
    except UnsupportedAlgorithm as error:
        raise ValueError(f"its key or signature is of an unknown kind: {error}") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ValueError("its key is not an elliptic-curve key on P-256")  # noqa: TRY004
    if not signed:
        raise ValueError("its signature does not match its key")
    return _subject_in(found), key


def subject_of(certificate: x509.Certificate) -> Subject:
    """Who a certificate is for. Raises SubjectError if it names no identity of fednot."""
    return _subject_in(certificate)


def hosts_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """The DNS names and IP addresses that a server's certificate is for, if it tells any."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except _NO_EXTENSION:
        return ()
    found = extension.value
    addresses = found.get_values_for_type(x509.IPAddress)
    return (*found.get_values_for_type(x509.DNSName), *map(str, addresses))


def common_name_of(certificate: x509.Certificate) -> str:
    """The common name of a certificate's subject; "" if it has none."""
    return _common_name(certificate.subject)


def issuer_of(certificate: x509.Certificate) -> str:
    """The common name of the authority that signed a certificate; "" if it has none."""
    return _common_name(certificate.issuer)


def checked_host(name: str) -> str:
    """A DNS name (small letters) or IP address as a server's certificate carries it.

    Raises ValueError for anything else, such as HOST:PORT or a URL.
    """
    with contextlib.suppress(ValueError):
        return str(ipaddress.ip_address(name))
    lowered = name.lower()
    if len(lowered) > 253 or not _DNS_NAME.fullmatch(lowered):
        raise ValueError(
            f"{name!r} is neither a DNS name nor an IP address; give it without a port and without "
            "a scheme, and a name with other letters in its xn-- form"
        )
    return lowered


def issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Whether an authority signed a certificate itself."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError):
        return False
    return True


def key_identifier(authority: x509.Certificate) -> str:
    """What the certificates that an authority signs call it by, in hexadecimal."""
    key: ec.EllipticCurvePublicKey = authority.public_key()  # type: ignore[assignment]
    return x509.SubjectKeyIdentifier.from_public_key(key).digest.hex()


def issuer_identifier(certificate: x509.Certificate) -> str:
    """The key identifier of the authority that a certificate says it is by; "" if it does not."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    except x509.ExtensionNotFound:
        return ""
    return (found.key_identifier or b"").hex()


def same_key(
    one: ec.EllipticCurvePublicKey | object, other: ec.EllipticCurvePublicKey | object
) -> bool:
    """Whether two public keys are the same."""
    return key_digest(one) == key_digest(other)


def key_digest(key: object) -> str:
    """sha256 of a public key, in hexadecimal: what people compare over the telephone."""
    digest = hashes.Hash(hashes.SHA256())
    digest.update(
        key.public_bytes(  # type: ignore[attr-defined]
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return digest.finalize().hex()


def revocation_list(
    serials: Iterable[tuple[int, dt.datetime]], issuer: x509.Certificate, issuer_key: PrivateKey
) -> bytes:
    """A certificate revocation list (RFC 5280, section 5) as PEM, valid as long as its issuer."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.subject)
        .last_update(now())
        .next_update(max(issuer.not_valid_after_utc, now() + CLOCK_SKEW))
        .add_extension(x509.CRLNumber(time.time_ns()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
    )
    for serial, at in serials:
        row = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(at).build()
        builder = builder.add_revoked_certificate(row)
    return builder.sign(issuer_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@contextlib.contextmanager
def _versions_told() -> Iterator[None]:
    """x509.InvalidVersion is no ValueError, unlike all other faults of what is read."""
    try:
        yield
    except x509.InvalidVersion as error:
        raise ValueError(f"it is of an unknown version: {error}") from error


def _subject_in(found: x509.Certificate | x509.CertificateSigningRequest) -> Subject:
    try:
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        raise SubjectError("it names no identity: it has no subject alternative name") from None
    except _NO_EXTENSION as error:
        raise SubjectError(f"its extensions cannot be read: {error}") from error
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise SubjectError(f"it must name one identity as a URI, and has {len(uris)}")
    return Subject.of_uri(uris[0])


def _builder(
    subject: str,
    key: ec.EllipticCurvePublicKey,
    issuer: str,
    issuer_key: ec.EllipticCurvePublicKey,
    days: float,
    *,
    begins: dt.datetime | None = None,
    latest: dt.datetime | None = None,
) -> x509.CertificateBuilder:
    start = begins or now() - CLOCK_SKEW
    end = (begins or now()) + dt.timedelta(days=days)
    if latest is not None:
        end = min(end, latest)
    return (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(issuer))
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(start, end - dt.timedelta(seconds=1)))
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False
        )
    )


def _common_name(name: x509.Name) -> str:
    found = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else ""


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _host(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _key_usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )
