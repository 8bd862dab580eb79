"""What an authority revoked: one file, replaced whole, so that many at once cost one write."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from fednot.identity import certificates
from fednot.identity.faults import AuthorityError
from fednot.identity.folder import write_private
from fednot.identity.keyring import Signer

REVOKED: Final = "revoked.json"


@dataclass(frozen=True)
class Revocation:
    """A certificate that was revoked at a moment.

    `issuer` is the key identifier of the authority that signed it, in hexadecimal; `key_digest` the
    sha256 of its own key.
    """

    serial: int
    at: dt.datetime
    ends: dt.datetime
    uri: str
    key_digest: str
    issuer: str

    @classmethod
    def of_row(cls, row: dict[str, str]) -> Self:
        """Reads what `row` made. Raises KeyError, TypeError or ValueError."""
        return cls(
            serial=int(row["serial"], 16),
            at=dt.datetime.fromisoformat(row["at"]),
            ends=dt.datetime.fromisoformat(row["ends"]),
            uri=str(row["uri"]),
            key_digest=str(row["key_sha256"]),
            issuer=str(row["issuer"]),
        )

    def row(self) -> dict[str, str]:
        """For the file."""
        return {
            "serial": f"{self.serial:x}",
            "at": self.at.isoformat(),
            "ends": self.ends.isoformat(),
            "uri": self.uri,
            "key_sha256": self.key_digest,
            "issuer": self.issuer,
        }


class Revocations:
    """The file in a folder; the authority's lock must be held to change it."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / REVOKED

    def read(self) -> list[Revocation]:
        """All of them. Raises AuthorityError for a file that cannot be read."""
        try:
            rows: list[dict[str, str]] = json.loads(self._path.read_bytes())["revoked"]
            return [Revocation.of_row(row) for row in rows]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise AuthorityError(f"{self._path} cannot be read: {error}") from error

    def write(self, found: Sequence[Revocation]) -> None:
        """Writes all of them, durably."""
        rows = ",\n".join(json.dumps(each.row()) for each in found)
        write_private(self._path, f'{{"revoked": [\n{rows}\n]}}\n'.encode())

    def serials(self, signers: Sequence[Signer]) -> set[int]:
        """What certificates of some signers are revoked. Raises AuthorityError."""
        issuers = {certificates.key_identifier(signer.certificate) for signer in signers}
        return {each.serial for each in self.read() if each.issuer in issuers}

    def lists(self, signers: Sequence[Signer]) -> bytes:
        """One revocation list for each signer, as PEM. Raises AuthorityError."""
        found = self.read()
        return b"".join(_list_of(signer, found) for signer in signers)


def _list_of(signer: Signer, found: Sequence[Revocation]) -> bytes:
    issuer = certificates.key_identifier(signer.certificate)
    rows = [(each.serial, each.at) for each in found if each.issuer == issuer]
    return certificates.revocation_list(rows, signer.certificate, signer.key)
