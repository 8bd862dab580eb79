"""Roles, and the names that certificates carry."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self

from fednot.naming import CLIENT_NAME

SCHEME: Final = "spiffe://"
DEFAULT_DOMAIN: Final = "fednot"
DOMAIN: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


class Role(StrEnum):
    """What a certificate entitles to; `server/services/permissions.py` holds the table."""

    CLIENT = "client"
    OFFICER = "officer"
    OPERATOR = "operator"
    AUDITOR = "auditor"
    SERVER = "server"


class SubjectError(ValueError):
    """A name, role or trust domain that no certificate may carry; the message says why."""


@dataclass(frozen=True, order=True)
class Subject:
    """A role and a name in a trust domain: `spiffe://DOMAIN/ROLE/NAME`."""

    role: Role
    name: str
    domain: str = DEFAULT_DOMAIN

    def __post_init__(self) -> None:
        if not CLIENT_NAME.fullmatch(self.name):
            raise SubjectError(
                f"{self.name!r} is no name; use 1 to 63 of a-z, 0-9, '-', '_' and '.', "
                "starting with a letter or digit"
            )
        if not DOMAIN.fullmatch(self.domain):
            raise SubjectError(
                f"{self.domain!r} is no trust domain; use 1 to 63 of a-z, 0-9, '-', '_' and '.'"
            )

    @property
    def uri(self) -> str:
        """The SPIFFE id."""
        return f"{SCHEME}{self.domain}/{self.role}/{self.name}"

    @property
    def caller(self) -> str:
        """Role and name without the domain, such as `officer/dora`."""
        return f"{self.role}/{self.name}"

    @classmethod
    def of_uri(cls, uri: str) -> Self:
        """Reads a SPIFFE id. Raises SubjectError if it is none of ours."""
        parts = uri.removeprefix(SCHEME).split("/")
        if not uri.startswith(SCHEME) or len(parts) != 3:
            raise SubjectError(f"{uri!r} is not {SCHEME}DOMAIN/ROLE/NAME")
        domain, role, name = parts
        if role not in Role.__members__.values():
            raise SubjectError(f"{uri!r} has no known role; known are {', '.join(Role)}")
        return cls(Role(role), name, domain)

    def __str__(self) -> str:
        return f"{self.role} {self.name}"
