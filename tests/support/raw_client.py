"""A client by hand: the calls of the protocol one by one, so that each can be made wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from google.protobuf import duration_pb2
from support.federation import CALL, LocalFederation, eventually
from support.replay import MANIFEST

from fednot.identity.subject import Role
from fednot.tensors import as_bytes, empty, views
from fednot.v1 import federation_pb2, model_pb2
from fednot.wire import Receiver, checksum, chunks, manifest_message

Part = federation_pb2.UploadUpdateRequest


class RawClient:
    """One session of a client that is not there, over a channel with that client's certificate.

    Over mutual TLS `claimed` is the name that it writes into its messages in place of its own.
    """

    def __init__(
        self,
        federation: LocalFederation,
        name: str,
        num_train_examples: int = 200,
        claimed: str | None = None,
        unsupported_scopes: Mapping[str, str] | None = None,
        instance: str = "",
    ) -> None:
        self.stub = federation.stubs_for(Role.CLIENT, name).clients
        self.name = name if claimed is None else claimed
        self.num_train_examples = num_train_examples
        self.joined = self.stub.Join(
            federation_pb2.JoinRequest(
                client=self.name,
                manifest=manifest_message(MANIFEST),
                num_train_examples=num_train_examples,
                unsupported_scopes=unsupported_scopes or {},
                instance=instance,
            ),
            timeout=CALL,
        )
        self.session = federation_pb2.Session(client=self.name, id=self.joined.session_id)

    def poll(self, seconds: float = 0.2) -> federation_pb2.PollWorkResponse:
        wait = duration_pb2.Duration()
        wait.FromMilliseconds(int(seconds * 1000))
        request = federation_pb2.PollWorkRequest(session=self.session, max_wait=wait)
        return self.stub.PollWork(request, timeout=CALL)

    def train_work(self) -> federation_pb2.TrainWork:
        """The next training work."""

        def polled() -> federation_pb2.TrainWork | None:
            response = self.poll()
            return response.train if response.HasField("train") else None

        found: federation_pb2.TrainWork = eventually(f"{self.name} gets work", polled)
        return found

    def download(self, work_id: str) -> torch.Tensor:
        request = federation_pb2.DownloadModelRequest(session=self.session, work_id=work_id)
        parts = iter(self.stub.DownloadModel(request, timeout=CALL))
        receiver = Receiver(MANIFEST)
        receiver.begin(next(parts).header.num_bytes, 0)
        for part in parts:
            if part.HasField("trailer"):
                return receiver.finish(part.trailer.xxh3_128)
            receiver.add(part.chunk)
        raise AssertionError("the download has no trailer")

    def header(self, work: federation_pb2.TrainWork, **changes: Any) -> federation_pb2.UpdateHeader:
        """A correct header but for the changes."""
        values = {
            "session": self.session,
            "work_id": work.work_id,
            "base_version": work.version,
            "generation": work.generation,
            "manifest_digest": MANIFEST.digest,
            "num_examples": self.num_train_examples,
            "num_bytes": MANIFEST.nbytes,
        }
        return federation_pb2.UpdateHeader(**{**values, **changes})

    def upload(self, parts: list[Part]) -> federation_pb2.UploadUpdateResponse:
        return self.stub.UploadUpdate(iter(parts), timeout=CALL)

    def report_failure(self, work_id: str, message: str) -> None:
        request = federation_pb2.ReportFailureRequest(
            session=self.session, work_id=work_id, message=message
        )
        self.stub.ReportFailure(request, timeout=CALL)

    def report_forgetting(self, order_id: str, **said: Any) -> None:
        values = {"num_train_examples": self.num_train_examples, "num_test_examples": 0}
        request = federation_pb2.ReportForgettingRequest(
            session=self.session, order_id=order_id, **(values | said)
        )
        self.stub.ReportForgetting(request, timeout=CALL)

    def leave(self) -> None:
        self.stub.Leave(federation_pb2.LeaveRequest(session=self.session), timeout=CALL)


def parts_of(header: federation_pb2.UpdateHeader, update: torch.Tensor) -> list[Part]:
    """A complete upload, as a client sends it."""
    return [Part(header=header), *chunks_of(update), trailer_of(update)]


def chunks_of(update: torch.Tensor) -> Iterator[Part]:
    return (Part(chunk=chunk) for chunk in chunks(as_bytes(update)))


def trailer_of(update: torch.Tensor) -> Part:
    return Part(trailer=model_pb2.StreamTrailer(xxh3_128=checksum(as_bytes(update))))


def constant_update(value: float) -> torch.Tensor:
    """An update that moves every weight by the same step."""
    update = empty(MANIFEST)
    for view in views(update, MANIFEST).values():
        view.fill_(value)
    return update


def update_with(value: float) -> torch.Tensor:
    """A small update with one value of its second tensor replaced."""
    update = constant_update(0.001)
    tensor = list(views(update, MANIFEST).values())[1]
    tensor.view(-1)[0] = value
    return update
