"""A transfer over the data channel that is given up, against a server played by hand."""

from __future__ import annotations

import asyncio
import socket
import threading
import time

import pytest

from client.data_channel import DataChannel
from client.transfer import Expected
from fednot.data_link import DataLink, LinkClosedError
from fednot.data_messages import framed
from fednot.manifest import Manifest
from fednot.v1 import data_channel_pb2, federation_pb2, model_pb2
from fednot.wire import Receiver
from fednot.zoo import Mlp

HOST = "127.0.0.1"
LIMIT = 20.0


def answered(listener: socket.socket, header: model_pb2.ModelHeader) -> DataLink:
    """The server's end of a connection on which it has begun a download."""
    link = DataLink(listener.accept()[0])
    link.receive(time.monotonic() + LIMIT)
    link.send(memoryview(framed(data_channel_pb2.DataResponse(header=header))), LIMIT)
    return link


async def test_a_download_that_is_given_up_takes_no_more_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The next session goes on with the same receiver, while its thread still waits for bytes."""
    monkeypatch.setattr("fednot.data_link.LOOK_SECONDS", LIMIT)
    manifest = Manifest.of(Mlp(in_features=4, hidden=(8,), num_classes=4))
    receiver, never = Receiver(manifest), threading.Event()
    header = model_pb2.ModelHeader(
        version=1, manifest_digest=manifest.digest, num_bytes=receiver.num_bytes
    )
    with socket.create_server((HOST, 0)) as listener:
        channel = DataChannel(HOST, listener.getsockname()[1], lambda: None, lambda *_: None)
        request, expected = federation_pb2.DownloadModelRequest(), Expected(1, manifest.digest)
        getting = asyncio.create_task(channel.download(request, expected, receiver, never))
        link = await asyncio.to_thread(answered, listener, header)
    await asyncio.sleep(0.2)
    getting.cancel()
    await asyncio.gather(getting, return_exceptions=True)
    link.send(memoryview(bytes(8)), LIMIT)
    with pytest.raises((LinkClosedError, ConnectionError)):
        await asyncio.to_thread(link.receive, time.monotonic() + LIMIT)
    assert receiver.filled == 0
    link.close()
