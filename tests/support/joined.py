"""A client that joins and sends heartbeats by hand, over a real channel."""

from __future__ import annotations

from typing import Any, Self

from support.replay import MANIFEST
from support.served import CALL, Served

from client.activity import Activity
from fednot.identity.subject import Role
from fednot.v1 import federation_pb2, federation_pb2_grpc
from fednot.wire import manifest_message


class Joined:
    """A client of a name; it does no work."""

    def __init__(self, server: Served, name: str) -> None:
        self.stub = federation_pb2_grpc.FederationServiceStub(server.dial(Role.CLIENT, name))
        self.session = federation_pb2.Session()
        self.activity = Activity()

    async def join(self, device: str = "", version: str = "") -> Self:
        """Opens the session, as a client of ten examples."""
        request = federation_pb2.JoinRequest(
            manifest=manifest_message(MANIFEST),
            num_train_examples=10,
            device=device,
            software_version=version,
        )
        self.session.id = (await self.stub.Join(request, timeout=CALL)).session_id
        return self

    async def beat(self, **fields: Any) -> None:
        """Sends one heartbeat with its activity and these fields, or with another activity."""
        request = federation_pb2.HeartbeatRequest(
            session=self.session, **{"activity": self.activity.message()} | fields
        )
        await self.stub.Heartbeat(request, timeout=CALL)
