"""Signs as cert-manager's CA issuer would, what rendered Certificates ask for."""

from __future__ import annotations

import datetime as dt
import ipaddress
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

USAGES = {
    "server auth": ExtendedKeyUsageOID.SERVER_AUTH,
    "client auth": ExtendedKeyUsageOID.CLIENT_AUTH,
}
BITS = {
    "digital signature": "digital_signature",
    "cert sign": "key_cert_sign",
    "crl sign": "crl_sign",
}
EVERY_BIT = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"),
    *("key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)
Pair = tuple[x509.Certificate, ec.EllipticCurvePrivateKey]


def signed(spec: dict[str, Any], issuer: Pair | None) -> Pair:
    """The certificate of a `spec`, signed by an issuer, or by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, spec["commonName"])])
    begins = dt.datetime.now(dt.UTC).replace(microsecond=0)
    bits = dict.fromkeys(EVERY_BIT, False) | {
        BITS[usage]: True for usage in spec["usages"] if usage in BITS
    }
    purposes = [USAGES[usage] for usage in spec["usages"] if usage in USAGES]
    names: list[x509.GeneralName] = [
        *(x509.DNSName(name) for name in spec.get("dnsNames", [])),
        *(x509.UniformResourceIdentifier(uri) for uri in spec["uris"]),
        *(x509.IPAddress(ipaddress.ip_address(a)) for a in spec.get("ipAddresses", [])),
    ]
    is_authority = spec.get("isCA", False)
    signer = issuer[1] if issuer else key
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer[0].subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(begins + dt.timedelta(hours=int(spec["duration"].removesuffix("h"))))
        .add_extension(x509.KeyUsage(**bits), critical=True)
        .add_extension(x509.BasicConstraints(is_authority, None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
    )
    if purposes:
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
    return builder.sign(signer, hashes.SHA256()), key


def mounted(folder: Path, pair: Pair, authority: x509.Certificate) -> Path:
    """The secret of a certificate as kubelet mounts it: links into a hidden folder."""
    hidden = folder / "..2026_11_28"
    hidden.mkdir(parents=True)
    certificate, key = pair
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    pem = serialization.Encoding.PEM
    for name, content in (
        ("tls.crt", certificate.public_bytes(pem)),
        ("tls.key", private),
        ("ca.crt", authority.public_bytes(pem)),
    ):
        (hidden / name).write_bytes(content)
        (hidden / name).chmod(0o440)
    (folder / "..data").symlink_to(hidden.name)
    for name in ("tls.crt", "tls.key", "ca.crt"):
        (folder / name).symlink_to(f"..data/{name}")
    return folder
