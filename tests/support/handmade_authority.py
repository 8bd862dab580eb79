"""An authority that signs whatever a test wants, with any dates, names and roles."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path

import grpc

from fednot.identity import certificates
from fednot.identity.folder import Credentials, read_credentials, write_credentials
from fednot.identity.subject import Role, Subject

LOCAL = ("127.0.0.1", "localhost")


class HandMadeAuthority:
    """A root certificate, and identities that its key signs."""

    def __init__(self, name: str = "fednot authority", days: float = 30) -> None:
        self.key = certificates.new_key()
        self.certificate = certificates.self_signed_authority(name, self.key, days)

    @property
    def trust(self) -> bytes:
        return certificates.pem_of([self.certificate])

    def identity(
        self,
        folder: Path,
        role: Role = Role.CLIENT,
        name: str = "c7",
        *,
        days: float = 10,
        begins: dt.datetime | None = None,
        hosts: Sequence[str] = (),
        trust: bytes = b"",
    ) -> Credentials:
        """Writes an identity into a folder; `trust` stands for another authority to be trusted."""
        key = certificates.new_key()
        signed = certificates.leaf(
            Subject(role, name),
            key.public_key(),
            self.certificate,
            self.key,
            days=days,
            hosts=hosts,
            begins=begins,
        )
        write_credentials(
            folder,
            chain=certificates.pem_of([signed]),
            trust=trust or self.trust,
            key=certificates.key_pem(key),
        )
        return read_credentials(folder)

    def server(self, folder: Path, hosts: Sequence[str] = LOCAL, **more: float) -> Credentials:
        return self.identity(folder, Role.SERVER, "server", hosts=hosts, **more)  # type: ignore[arg-type]


def days_from_now(days: float) -> dt.datetime:
    return certificates.now() + dt.timedelta(days=days)


@contextmanager
def serving(
    credentials: Credentials | None, host: str = "127.0.0.1", *, demand: bool = True
) -> Iterator[str]:
    """A real gRPC server without services; gives its address."""
    server = grpc.server(futures.ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
    if credentials is None:
        port = server.add_insecure_port(f"{host}:0")
    else:
        pair = [(credentials.private_key, credentials.chain)]
        trust = credentials.trust if demand else None
        port = server.add_secure_port(
            f"{host}:0", grpc.ssl_server_credentials(pair, trust, require_client_auth=demand)
        )
    server.start()
    try:
        yield f"{host}:{port}"
    finally:
        server.stop(None).wait()
