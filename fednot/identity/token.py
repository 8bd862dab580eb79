"""The one-time token with which a machine enrols: one line of text that also carries whom to trust,
so that the first connection is as safe as the later ones.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets
from dataclasses import dataclass, field
from typing import Any, Final, Self

from fednot.errors import FednotError, Reason
from fednot.identity import certificates
from fednot.identity.subject import Role, Subject, SubjectError

PREFIX: Final = "fednot-token-v1."
MAX_CHARACTERS: Final = 16 << 10
_FIELDS: Final = frozenset({"secret", "client", "domain", "trust"})
_SECRET: Final = re.compile(r"[A-Za-z0-9_-]{43}")
_SECRET_BYTES: Final = 32
_BYTE_ORDER_MARK: Final = "\ufeff"
_BASE64URL: Final = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Token:
    """A secret that lets one client enrol once; `trust` is the server's authorities as PEM."""

    secret: str = field(repr=False)
    client: str
    domain: str
    trust: bytes = field(repr=False)

    def __post_init__(self) -> None:
        """Raises ValueError for what no token may hold."""
        Subject(Role.CLIENT, self.client, self.domain)
        if not _SECRET.fullmatch(self.secret):
            raise ValueError("its secret is no secret")
        if not self.trust.isascii() or not certificates.read_certificates(self.trust):
            raise ValueError("its authorities are not in PEM form")

    @classmethod
    def fresh(cls, client: str, domain: str, trust: bytes) -> Self:
        """A token with a new secret. Raises ValueError for a name, domain or PEM that is none."""
        return cls(secrets.token_urlsafe(_SECRET_BYTES), client, domain, trust)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads a token, whatever white space it caught on its way.

        Raises FednotError (INVALID_TOKEN).
        """
        line = "".join(text.replace(_BYTE_ORDER_MARK, "").split())
        if not line:
            raise _invalid("there is no token, only empty text")
        if len(line) > MAX_CHARACTERS:
            raise _invalid(f"it has more than {MAX_CHARACTERS} characters")
        if not line.startswith(PREFIX):
            raise _invalid(f"it does not begin with {PREFIX}")
        try:
            values = _values(line.removeprefix(PREFIX))
            values["trust"] = values["trust"].encode("ascii")
            return cls(**values)
        except SubjectError as error:
            raise _invalid(str(error)) from error
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise _invalid("it was cut off or changed on its way") from error

    @property
    def subject(self) -> Subject:
        """Who may enrol with it."""
        return Subject(Role.CLIENT, self.client, self.domain)

    @property
    def secret_digest(self) -> str:
        """What a server keeps of it: see `secret_digest`."""
        return secret_digest(self.secret)

    def text(self) -> str:
        """The token on one line."""
        values = {
            "secret": self.secret,
            "client": self.client,
            "domain": self.domain,
            "trust": self.trust.decode("ascii"),
        }
        content = base64.urlsafe_b64encode(json.dumps(values).encode())
        return PREFIX + content.decode("ascii").rstrip("=")


def secret_digest(secret: str) -> str:
    """sha256 of a token's secret in hexadecimal; a secret of 256 bits needs no salt."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _values(content: str) -> dict[str, Any]:
    if not _BASE64URL.fullmatch(content):
        raise ValueError("it is no base64url")
    values = json.loads(base64.urlsafe_b64decode(content + "=" * (-len(content) % 4)))
    if not isinstance(values, dict) or set(values) != _FIELDS:
        raise ValueError("it holds other fields")
    return values


def _invalid(why: str) -> FednotError:
    return FednotError(Reason.INVALID_TOKEN, f"the token cannot be used: {why}")
