"""Who calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

from fednot.identity.subject import Role


@dataclass(frozen=True)
class Caller:
    """Who called; no role and no name for a caller who showed no certificate.

    `expires_at` is when its certificate ends, in seconds since the epoch.
    """

    role: Role | None = None
    name: str = ""
    expires_at: float | None = None

    @property
    def key(self) -> str:
        """Role and name, such as `officer/dora`; "" without a certificate."""
        return f"{self.role}/{self.name}" if self.role else ""

    @property
    def who(self) -> str:
        """The key for a sentence, which somebody without a certificate has as well."""
        return self.key or "somebody without a certificate"

    @classmethod
    def of_key(cls, key: str) -> Self:
        """The caller of a key. Raises ValueError if it has no known role."""
        role, _, name = key.partition("/")
        return cls(Role(role), name) if key else cls()


NOBODY: Final = Caller()
