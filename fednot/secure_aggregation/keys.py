"""Keys of one attempt: their agreement, what is encrypted under them, and who signed them."""

from __future__ import annotations

import datetime as dt
import os
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fednot.errors import FednotError
from fednot.identity.certificates import PrivateKey, issued_by, read_certificates
from fednot.identity.subject import Role
from fednot.identity.trust import Trust, check_dates
from fednot.secure_aggregation.order import LABEL, Order, digest_of, failed
from fednot.secure_aggregation.shamir import SHARE_BYTES

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
CIPHERTEXT_BYTES: Final = NONCE_BYTES + 2 * SHARE_BYTES + TAG_BYTES
LARGEST_CHAIN: Final = 32 << 10
LARGEST_SIGNATURE: Final = 128
_LONGEST_CHAIN: Final = 8


@dataclass(frozen=True)
class PublicKeys:
    """A client's keys of one attempt, as they travel; the fields are those of AdvertisedKeys."""

    client: str
    cipher_key: bytes
    mask_key: bytes
    certificate_chain: bytes
    signature: bytes


@dataclass(frozen=True)
class SharePair:
    """What one client holds of another's two secrets."""

    mask_key: bytes
    seed: bytes


def public_bytes(key: X25519PrivateKey) -> bytes:
    """The public key that belongs to a private one, 32 bytes."""
    return key.public_key().public_bytes_raw()


def pair_seed(own: X25519PrivateKey, theirs: PublicKeys, order: Order, name: str) -> bytes:
    """The seed of the mask that two clients share, 32 bytes; `name` is whose `own` is.

    Both find the same one. Raises FednotError (MASKING_FAILED) for a public key that is none.
    """
    ends = sorted([(name, public_bytes(own)), (theirs.client, theirs.mask_key)])
    context = [part for end in ends for part in (end[0].encode(), end[1])]
    agreed = _agreed(own, theirs.mask_key, theirs.client)
    return _derived(agreed, b"pair mask", order.digest, *context)


def own_seed(secret: bytes, order: Order, name: str) -> bytes:
    """The seed of a client's mask of its own, from the secret that is shared for it."""
    return _derived(secret, b"own mask", order.digest, name.encode())


def encrypted(
    pair: SharePair, own: X25519PrivateKey, theirs: PublicKeys, order: Order, name: str
) -> bytes:
    """The shares for another client: nonce and ciphertext; `name` is who gives them.

    Raises FednotError (MASKING_FAILED) for a public key that is none.
    """
    agreed = _agreed(own, theirs.cipher_key, theirs.client)
    keys = (public_bytes(own), theirs.cipher_key)
    key, about = _share_key(agreed, order, name, theirs.client, keys)
    nonce = os.urandom(NONCE_BYTES)
    return nonce + ChaCha20Poly1305(key).encrypt(nonce, pair.mask_key + pair.seed, about)


def decrypted(
    ciphertext: bytes, own: X25519PrivateKey, theirs: PublicKeys, order: Order, name: str
) -> SharePair:
    """The shares that another client gave; `name` is who got them.

    Raises FednotError (MASKING_FAILED) unless that client wrote this for this one and this attempt.
    """
    if len(ciphertext) != CIPHERTEXT_BYTES:
        raise failed(f"the shares of {theirs.client} have {len(ciphertext)} bytes")
    agreed = _agreed(own, theirs.cipher_key, theirs.client)
    keys = (theirs.cipher_key, public_bytes(own))
    key, about = _share_key(agreed, order, theirs.client, name, keys)
    nonce, rest = ciphertext[:NONCE_BYTES], ciphertext[NONCE_BYTES:]
    try:
        plain = ChaCha20Poly1305(key).decrypt(nonce, rest, about)
    except InvalidTag:
        raise failed(f"the shares of {theirs.client} are not by it, or not for {name}") from None
    return SharePair(plain[:SHARE_BYTES], plain[SHARE_BYTES:])


def keys_statement(order: Order, client: str, cipher_key: bytes, mask_key: bytes) -> bytes:
    """What a client signs of its keys."""
    return LABEL + digest_of(b"keys", order.digest, client.encode(), cipher_key, mask_key)


def survivors_statement(
    order: Order, roster: bytes, sharers: tuple[str, ...], survivors: tuple[str, ...]
) -> bytes:
    """What a client signs of the survivors; `roster` is `roster_digest`'s.

    The paper signs the survivors alone; that all were shown the same keys and the same givers of
    shares costs nothing to say, too.
    """
    lists = [
        digest_of(*(name.encode() for name in sorted(names))) for names in (sharers, survivors)
    ]
    return LABEL + digest_of(b"survivors", order.digest, roster, *lists)


def roster_digest(roster: tuple[PublicKeys, ...]) -> bytes:
    """sha256 over who takes part with which keys."""
    rows = sorted((keys.client.encode(), keys.cipher_key, keys.mask_key) for keys in roster)
    return digest_of(b"roster", *(part for row in rows for part in row))


def signed(statement: bytes, key: PrivateKey) -> bytes:
    """A signature by a certificate's key: ECDSA with SHA-256."""
    return key.sign(statement, ec.ECDSA(hashes.SHA256()))


def check_signature(
    signature: bytes, statement: bytes, key: ec.EllipticCurvePublicKey, client: str
) -> None:
    """Raises FednotError (MASKING_FAILED) unless the holder of a key signed this."""
    if len(signature) > LARGEST_SIGNATURE:
        raise failed(f"the signature of {client} is too large")
    try:
        key.verify(signature, statement, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise failed(f"the signature of {client} does not fit") from None


def certified_key(
    keys: PublicKeys, trust: Trust, domain: str, at: dt.datetime
) -> ec.EllipticCurvePublicKey:
    """The key by which a client signs, if its certificate is to be trusted at a moment.

    Its issuers may stand behind it, as they do while an authority is being replaced. Raises
    FednotError (MASKING_FAILED) that says what is wrong with it.
    """
    if len(keys.certificate_chain) > LARGEST_CHAIN:
        raise failed(f"the certificates of {keys.client} are too large")
    try:
        leaf, *issuers = read_certificates(keys.certificate_chain)
        subject = _extended(trust, issuers, at).check(leaf, at)
        key = leaf.public_key()
    except FednotError as error:
        raise failed(f"the certificate of {keys.client} does not hold: {error.message}") from error
    except Exception as error:
        # Parsers raise errors of many kinds at what a hostile certificate may hold.
        raise failed(f"the certificate of {keys.client} cannot be read: {error}") from error
    if (subject.role, subject.name, subject.domain) != (Role.CLIENT, keys.client, domain):
        raise failed(f"the certificate of {keys.client} is that of {subject} in {subject.domain}")
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise failed(f"the certificate of {keys.client} has no elliptic-curve key")
    return key


def _extended(trust: Trust, issuers: list[x509.Certificate], at: dt.datetime) -> Trust:
    """The trust and the authorities that it follows to, one after the other."""
    known = list(trust.authorities)
    for issuer in issuers[:_LONGEST_CHAIN]:
        standing = [authority for authority in known if authority.not_valid_after_utc >= at]
        if not any(issued_by(issuer, authority) for authority in standing):
            continue
        check_dates(issuer, at)
        if _may_sign(issuer) and issuer.serial_number not in trust.revoked:
            known.append(issuer)
    return Trust(known, trust.revoked)


def _may_sign(certificate: x509.Certificate) -> bool:
    # Else any client could issue certificates for others.
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return False
    return constraints.ca and usage.key_cert_sign


def _agreed(own: X25519PrivateKey, theirs: bytes, client: str) -> bytes:
    try:
        return own.exchange(X25519PublicKey.from_public_bytes(theirs))
    except ValueError as error:
        raise failed(f"a key of {client} is no X25519 key to agree with: {error}") from error


def _share_key(
    agreed: bytes, order: Order, giver: str, taker: str, keys: tuple[bytes, bytes]
) -> tuple[bytes, bytes]:
    """The key for shares in one direction, and the data that the ciphertext is bound to."""
    context = (order.digest, giver.encode(), taker.encode(), *keys)
    return _derived(agreed, b"shares", *context), digest_of(b"shares", *context)


def _derived(secret: bytes, purpose: bytes, *context: bytes) -> bytes:
    info = LABEL + digest_of(purpose, *context)
    return HKDF(hashes.SHA256(), KEY_BYTES, salt=None, info=info).derive(secret)
