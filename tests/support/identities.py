"""The identities of a test's federation, and stubs that call with them."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
from cryptography import x509
from support.handmade_authority import HandMadeAuthority

from fednot.channel import open_channel
from fednot.identity import certificates
from fednot.identity.authority import Authority
from fednot.identity.folder import read_credentials
from fednot.identity.subject import Role, Subject
from fednot.v1 import (
    approval_pb2_grpc,
    audit_pb2_grpc,
    deletion_pb2_grpc,
    federation_pb2_grpc,
    identity_pb2_grpc,
    operator_pb2_grpc,
    receipt_pb2_grpc,
)

HOSTS = ("127.0.0.1", "localhost")
SERVER = "server"


class Identities:
    """An authority, and the identity folders that it issued, each when it is first asked for."""

    def __init__(self, folder: Path, hosts: Sequence[str] = HOSTS) -> None:
        self._folder = folder / "identities"
        self.authority = Authority.create(folder / "authority", hosts=hosts)

    @property
    def server(self) -> Path:
        return self.authority.directory / SERVER

    def of(self, role: Role, name: str) -> Path:
        place = self._folder / f"{role}-{name}"
        if not place.exists():
            self.issue(role, name)
        return place

    def issue(self, role: Role, name: str, *, days: float | None = None) -> Path:
        """Issues an identity anew, over the files that may be there."""
        place = self._folder / f"{role}-{name}"
        self.authority.issue(Subject(role, name, self.authority.domain), place, days=days)
        return place

    def by_hand(self) -> HandMadeAuthority:
        """The same authority, in the hands of somebody who signs anything."""
        keys = self.authority.directory / "ca"
        signer = HandMadeAuthority()
        signer.certificate = x509.load_pem_x509_certificate((keys / "cert.pem").read_bytes())
        signer.key = certificates.read_key((keys / "key.pem").read_bytes())
        return signer


@dataclass(frozen=True)
class Stubs:
    """What one caller calls the server with."""

    channel: grpc.Channel
    operator: operator_pb2_grpc.OperatorServiceStub
    deletions: deletion_pb2_grpc.DeletionServiceStub
    clients: federation_pb2_grpc.FederationServiceStub
    identity: identity_pb2_grpc.IdentityServiceStub
    approvals: approval_pb2_grpc.ApprovalServiceStub
    audit: audit_pb2_grpc.AuditServiceStub
    receipts: receipt_pb2_grpc.ReceiptServiceStub

    @classmethod
    def of(cls, address: str, identity: Path | None) -> Stubs:
        """Stubs for an identity folder; over plaintext without one."""
        channel = open_channel(address, read_credentials(identity) if identity else None)
        return cls(
            channel,
            operator_pb2_grpc.OperatorServiceStub(channel),
            deletion_pb2_grpc.DeletionServiceStub(channel),
            federation_pb2_grpc.FederationServiceStub(channel),
            identity_pb2_grpc.IdentityServiceStub(channel),
            approval_pb2_grpc.ApprovalServiceStub(channel),
            audit_pb2_grpc.AuditServiceStub(channel),
            receipt_pb2_grpc.ReceiptServiceStub(channel),
        )


def mutual_tls(identity: Path) -> grpc.ServerCredentials:
    """What a server that a test plays serves with; it demands a certificate."""
    found = read_credentials(identity)
    pair = [(found.private_key, found.chain)]
    return grpc.ssl_server_credentials(pair, found.trust, require_client_auth=True)


def serial_of(folder: Path) -> int:
    return read_credentials(folder).certificate.serial_number


def certificate_served(address: str, identity: Path) -> x509.Certificate:
    """The certificate that a server shows in a handshake now."""
    host, _, port = address.rpartition(":")
    context = ssl.create_default_context(cafile=str(identity / "ca.pem"))
    context.load_cert_chain(identity / "cert.pem", identity / "key.pem")
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection((host, int(port)), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=host) as secured,
    ):
        shown = secured.getpeercert(binary_form=True)
    return x509.load_der_x509_certificate(shown or b"")
