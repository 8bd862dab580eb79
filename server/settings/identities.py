"""Who the server is, and who must agree."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator

from fednot.settings import Settings


class IdentitySettings(Settings):
    """Identities and approval."""

    identity: Path | None = Field(
        None, description="folder with the server's cert.pem, key.pem and ca.pem"
    )
    authority: Path | None = Field(
        None,
        description="directory by `fednot certs init`: gives --identity (DIR/server) and "
        "--revocations (DIR/revoked.pem), and lets the server sign certificates, its own too",
    )
    revocations: Path | None = Field(
        None, description="PEM file of revocation lists; its certificates are refused"
    )
    insecure: bool = Field(False, description="plaintext without identities, loopback only")
    require_approval: bool = Field(
        False, description="deletions and readmissions wait for a second identity"
    )
    approval_expiry: float = Field(
        7 * 24 * 3600.0, gt=0, description="seconds before an approval that nobody gave ends"
    )

    @field_validator("identity", "revocations", "authority", mode="before")
    @classmethod
    def _no_folder(cls, value: object) -> object:
        return value or None

    @property
    def identity_folder(self) -> Path | None:
        """Where the server's own certificate is; None over plaintext."""
        if self.identity is None and self.authority is not None:
            return self.authority / "server"
        return self.identity
