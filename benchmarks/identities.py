"""The certificates of a benchmark over mutual TLS, by an authority of its own."""

from __future__ import annotations

from pathlib import Path

import grpc

from fednot.identity.authority import Authority
from fednot.identity.folder import read_credentials
from fednot.identity.subject import Role, Subject

HOST = "127.0.0.1"


class Identities:
    """An authority in a folder, and the identities of a server, of clients and of an operator."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority.create(folder / "authority", hosts=[HOST])

    @property
    def server(self) -> Path:
        """The server's identity folder."""
        return self.authority.server_folder

    def operator(self) -> Path:
        """The operator's identity folder."""
        return self._issued(Role.OPERATOR, "olga")

    def clients(self, count: int) -> Path:
        """The folder in which the identity folders of clients are, each under its client's name."""
        for index in range(count):
            self._issued(Role.CLIENT, client_name(index))
        return self.folder

    def _issued(self, role: Role, name: str) -> Path:
        place = self.folder / name
        if not place.exists():
            self.authority.issue(Subject(role, name, self.authority.domain), place)
        return place


def client_name(index: int) -> str:
    """The name of a client."""
    return f"c{index}"


def server_credentials(identity: Path) -> grpc.ServerCredentials:
    """What a bare gRPC server serves with; it demands a certificate."""
    found = read_credentials(identity)
    pair = [(found.private_key, found.chain)]
    return grpc.ssl_server_credentials(pair, found.trust, require_client_auth=True)


def channel_credentials(identity: Path) -> grpc.ChannelCredentials:
    """What a bare gRPC client dials with."""
    found = read_credentials(identity)
    return grpc.ssl_channel_credentials(found.trust, found.private_key, found.chain)
