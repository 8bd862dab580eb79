"""The demonstration's throwaway certificates: an authority that ends with its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from fednot.identity.authority import Authority
from fednot.identity.folder import Credentials, read_credentials
from fednot.identity.subject import Role, Subject

HOST: Final = "127.0.0.1"
DAYS: Final = 1.0


class Identities:
    """Identity folders for one day, each made when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        """Makes the authority in an empty or new folder. Raises AuthorityError."""
        self._authority = Authority.create(folder, domain="demo", hosts=(HOST,), days=DAYS)

    @property
    def server(self) -> Path:
        """The server's identity folder."""
        return self._authority.server_folder

    def client(self, name: str) -> Path:
        """The identity folder of a client."""
        return self._folder_of(Role.CLIENT, name)

    def credentials(self, role: Role) -> Credentials:
        """What someone in a role calls the server with."""
        return read_credentials(self._folder_of(role, "demo"))

    def _folder_of(self, role: Role, name: str) -> Path:
        folder = self._authority.directory / f"{role}-{name}"
        if not folder.exists():
            subject = Subject(role, name, self._authority.domain)
            self._authority.issue(subject, folder, days=DAYS)
        return folder
