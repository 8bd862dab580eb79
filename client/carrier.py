"""Chooses what carries model bytes: the server's data channel, or gRPC where that cannot be."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import torch

from client.connection import BrokenStreamError
from client.data_channel import DataChannel, NoDataChannelError
from client.transfer import Expected, Transfer
from fednot import address as addresses
from fednot.identity.folder import Credentials
from fednot.v1 import federation_pb2
from fednot.wire import Receiver, longest_transfer

MOST_BREAKS: Final = 12
_IN_VAIN: Final = 4
"""As how many breaks one counts before which not a byte has moved."""
SHARE: Final = 20
"""A dial that failed after so long is not tried again before SHARE times as long has passed."""

_log = logging.getLogger("client")

T = TypeVar("T")


class Carrier:
    """Moves flat models and updates, as `Transfer` does.

    Where the data channel cannot be reached, or breaks again and again, the rest of a piece of
    work goes over gRPC; the next piece of work tries again. Failing to reach it costs at most a
    twentieth of the time. `server` is the address that gRPC dials; with `data_channel`
    False everything goes over gRPC.
    """

    def __init__(
        self,
        over_grpc: Transfer,
        server: str,
        credentials: Callable[[], Credentials | None],
        moved: Callable[[str, int], None],
        *,
        data_channel: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._over_grpc = over_grpc
        self._server = server
        self._credentials = credentials
        self._tell_moved = moved
        self._bytes_moved = 0
        self._wanted = data_channel
        self._clock = clock
        self._channel: DataChannel | None = None
        self._port = 0
        self._told = False
        self._left_out = ""
        self._not_before = float("-inf")
        self._broken, self._breaks = "", 0

    def joined(self, data_port: int) -> None:
        """A session was opened; the server's data channel is on this port, 0 if it has none."""
        self._told = False
        self._left_out, self._not_before = "", float("-inf")
        if data_port != self._port:
            self.close()
            self._port = data_port
            self._channel = self._made(data_port) if data_port and self._wanted else None

    async def download(
        self,
        request: federation_pb2.DownloadModelRequest,
        version: Expected,
        receiver: Receiver,
        cancelled: threading.Event,
    ) -> torch.Tensor:
        """As `Transfer.download`."""
        return await self._carried(
            request.work_id,
            receiver.num_bytes,
            lambda channel: channel.download(request, version, receiver, cancelled),
            lambda: self._over_grpc.download(request, version, receiver, cancelled),
        )

    async def upload(
        self,
        header: federation_pb2.UpdateHeader,
        payload: memoryview,
        cancelled: threading.Event,
    ) -> federation_pb2.UploadUpdateResponse:
        """As `Transfer.upload`."""
        return await self._carried(
            header.work_id,
            len(payload),
            lambda channel: channel.upload(header, payload, cancelled),
            lambda: self._over_grpc.upload(header, payload, cancelled),
        )

    def close(self) -> None:
        """Closes the data channel's connection."""
        if self._channel is not None:
            self._channel.close()

    async def _carried(
        self,
        work_id: str,
        num_bytes: int,
        over_data: Callable[[DataChannel], Awaitable[T]],
        over_grpc: Callable[[], Awaitable[T]],
    ) -> T:
        channel, moved, begun = self._channel, self._bytes_moved, self._clock()
        if work_id != self._broken:
            self._broken, self._breaks = work_id, 0
        if channel is None or work_id == self._left_out or begun < self._not_before:
            return await over_grpc()
        try:
            return await over_data(channel)
        except NoDataChannelError as error:
            now = self._clock()
            self._leave_out(work_id, channel, str(error))
            # Where it took longer than a transfer may, this process stood still meanwhile.
            self._not_before = now + SHARE * min(now - begun, longest_transfer(num_bytes))
        except (BrokenStreamError, TimeoutError) as error:
            self._breaks += _IN_VAIN if self._bytes_moved == moved else 1
            if self._breaks >= MOST_BREAKS:
                self._leave_out(work_id, channel, str(error))
            raise
        return await over_grpc()

    def _leave_out(self, work_id: str, channel: DataChannel, why: str) -> None:
        self._left_out = work_id
        if not self._told:
            self._told = True
            _log.warning(
                "the data channel at %s cannot be used, model bytes go over gRPC: %s",
                channel.place,
                why,
            )

    def _made(self, port: int) -> DataChannel:
        host, _ = addresses.split(self._server)
        return DataChannel(host, port, self._credentials, self._moved)

    def _moved(self, direction: str, num_bytes: int) -> None:
        self._bytes_moved += num_bytes
        self._tell_moved(direction, num_bytes)
