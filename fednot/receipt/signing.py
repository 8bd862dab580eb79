"""Signs receipts, and checks them without a network: compact JWS, EdDSA over Ed25519."""

from __future__ import annotations

import base64
import re
import warnings
from dataclasses import dataclass
from typing import Final, Self

from cryptography.exceptions import UnsupportedAlgorithm
from joserfc import jws
from joserfc.errors import JoseError, SecurityWarning
from joserfc.jwk import OKPKey
from pydantic import ValidationError

from fednot.receipt.payload import Receipt

TYPE: Final = "fednot-receipt+jws"
ALGORITHM: Final = "EdDSA"
MOST_CHARACTERS: Final = 16 << 20
_COMPACT: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]{86}", re.ASCII)
_PEM: Final = re.compile(r"-----BEGIN PUBLIC KEY-----.+?-----END PUBLIC KEY-----", re.DOTALL)
_NO_KEY: Final = (JoseError, ValueError, UnsupportedAlgorithm)
"""What reading a PEM text raises that holds no key, or one of an unknown kind."""

# RFC 9864 names the algorithm Ed25519; EdDSA is what verifiers know.
warnings.filterwarnings("ignore", "EdDSA is deprecated", SecurityWarning)


class ReceiptError(ValueError):
    """What is no receipt of the keys that were given; the message says why."""


@dataclass(frozen=True)
class SigningKey:
    """An Ed25519 key; `pem` is its public half. Its repr does not tell the private one."""

    id: str
    pem: str
    _key: OKPKey

    def __repr__(self) -> str:
        return f"SigningKey({self.id})"

    @classmethod
    def generate(cls) -> Self:
        """A new key."""
        return cls._of(OKPKey.generate_key("Ed25519", private=True))

    @classmethod
    def from_private_pem(cls, pem: bytes) -> Self:
        """The key of a private PEM (PKCS #8). Raises ReceiptError if it is none."""
        try:
            key = OKPKey.import_key(pem)
        except _NO_KEY as error:
            raise ReceiptError("this is no private Ed25519 key") from error
        if not key.is_private or key.curve_name != "Ed25519":
            raise ReceiptError("this is no private Ed25519 key")
        return cls._of(key)

    @classmethod
    def _of(cls, key: OKPKey) -> Self:
        return cls(key.thumbprint(), key.as_pem(private=False).decode(), key)

    def private_pem(self) -> bytes:
        """The private half as PEM (PKCS #8), without a password."""
        return self._key.as_pem(private=True)

    def sign(self, receipt: Receipt) -> str:
        """The receipt as a compact JWS. Raises ReceiptError if it names another key.

        Fields that came later are left out as long as they say nothing, for older readers.
        """
        if receipt.key_id != self.id:
            raise ReceiptError(f"the receipt is to be signed with {receipt.key_id}")
        header = {"alg": ALGORITHM, "typ": TYPE, "kid": self.id}
        payload = receipt.model_dump_json(exclude_defaults=True).encode()
        return jws.serialize_compact(header, payload, self._key, algorithms=[ALGORITHM])


def verified(token: str, pem: str) -> Receipt:
    """The receipt of a compact JWS whose signature is by one of the public keys in `pem`.

    Raises ReceiptError if it is not, or is no receipt at all. A single line end behind it is no
    part of it.
    """
    text = token.removesuffix("\n").removesuffix("\r")
    if len(text) > MOST_CHARACTERS or not _COMPACT.fullmatch(text):
        raise ReceiptError("this is no receipt: it has not the form of a compact JWS")
    _check_one_spelling(text)
    key_id = _key_id(text)
    key = _keys(pem).get(key_id)
    if key is None:
        raise ReceiptError(
            f"it was signed with the key {key_id}, which is not among those that were given"
        )
    try:
        found = jws.deserialize_compact(text, key, algorithms=[ALGORITHM])
    except (JoseError, ValueError) as error:
        raise ReceiptError("the signature does not verify: it was changed after that") from error
    return _receipt(found.payload, key_id)


def _check_one_spelling(text: str) -> None:
    """Unused bits of the last letter could be changed without changing what it says."""
    for part in text.split("."):
        try:
            decoded = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
        except ValueError as error:
            raise ReceiptError("this is no receipt: it is not base64url") from error
        if base64.urlsafe_b64encode(decoded).rstrip(b"=").decode() != part:
            raise ReceiptError("this is no receipt: its base64url is not canonical")


def _key_id(text: str) -> str:
    try:
        header = jws.extract_compact(text.encode()).headers()
    except (JoseError, ValueError, RecursionError) as error:
        raise ReceiptError("this is no receipt: its header cannot be read") from error
    if header.get("alg") != ALGORITHM or header.get("typ") != TYPE:
        raise ReceiptError(f"this is no receipt: its header does not say {ALGORITHM} and {TYPE}")
    return str(header.get("kid", ""))


def _keys(pem: str) -> dict[str, OKPKey]:
    found = {}
    for text in _PEM.findall(pem):
        try:
            key = OKPKey.import_key(text)
            found[key.thumbprint()] = key
        except _NO_KEY as error:
            raise ReceiptError("one of the keys is no public Ed25519 key") from error
    if not found:
        raise ReceiptError("no public key was given: it is a PEM text, `fednot receipt-keys`")
    return found


def _receipt(payload: bytes, key_id: str) -> Receipt:
    try:
        receipt = Receipt.model_validate_json(payload)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise ReceiptError(
            f"the signature verifies, but this version cannot read it: {place}: {first['msg']}"
        ) from error
    if receipt.key_id != key_id:
        raise ReceiptError("the header names another key than the receipt")
    return receipt
