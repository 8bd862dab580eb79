"""Model bytes over the server's data channel: one connection, kept from one transfer to the next.

Each transfer runs in a thread of its own, since a socket of asyncio would copy every byte. What a
transfer fails with is what the same transfer over gRPC fails with.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from typing import Final, TypeVar

import grpc
import torch
from google.protobuf.message import DecodeError
from google.rpc import status_pb2
from grpc import aio

from client.connection import BrokenStreamError
from client.transfer import Expected
from fednot.data_link import STEP_BYTES, DataLink, LinkClosedError
from fednot.data_messages import DataMessageError, framed, response_in
from fednot.errors import FednotError
from fednot.identity.folder import Credentials
from fednot.identity.probing import Deadline, connect
from fednot.tls_contexts import dialling_context
from fednot.training import WorkCancelledError
from fednot.v1 import data_channel_pb2, federation_pb2, model_pb2
from fednot.wire import MESSAGE_SECONDS, Receiver, longest_transfer

CONNECT_SECONDS: Final = 5.0
_DETAILS_KEY: Final = "grpc-status-details-bin"
_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}

T = TypeVar("T")
Response = data_channel_pb2.DataResponse


class NoDataChannelError(Exception):
    """The data channel cannot be used; the message says why. Nothing was moved."""


class DataChannel:
    """The data channel at a host and port: over TLS with credentials, in plaintext without.

    `credentials` gives those to show now; a connection that showed others is not used again.
    `moved` is told the direction and size of what was moved, in any thread.
    """

    def __init__(
        self,
        host: str,
        port: int,
        credentials: Callable[[], Credentials | None],
        moved: Callable[[str, int], None],
    ) -> None:
        self.place: Final = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._host = host
        self._credentials = credentials
        self._moved = moved
        self._lock = threading.Lock()
        self._kept: _Line | None = None

    async def download(
        self,
        request: federation_pb2.DownloadModelRequest,
        version: Expected,
        receiver: Receiver,
        cancelled: threading.Event,
    ) -> torch.Tensor:
        """As `Transfer.download`. Raises NoDataChannelError, too."""
        request.offset = receiver.filled
        asked = data_channel_pb2.DataRequest(download=request)

        def received(line: _Line, first: Response) -> torch.Tensor:
            return self._received(line, first, version, receiver)

        return await self._done(asked, MESSAGE_SECONDS, receiver.num_bytes, cancelled, received)

    async def upload(
        self,
        header: federation_pb2.UpdateHeader,
        payload: memoryview,
        cancelled: threading.Event,
    ) -> federation_pb2.UploadUpdateResponse:
        """As `Transfer.upload`. Raises NoDataChannelError, too."""
        asked = data_channel_pb2.DataRequest(upload=header)
        longest = longest_transfer(len(payload))

        def sent(line: _Line, first: Response) -> federation_pb2.UploadUpdateResponse:
            return self._sent(line, first, payload, header.xxh3_128)

        return await self._done(asked, longest, len(payload), cancelled, sent)

    def close(self) -> None:
        """Closes the connection that is kept."""
        with self._lock:
            kept, self._kept = self._kept, None
        if kept is not None:
            kept.link.close()

    async def _done(
        self,
        asked: data_channel_pb2.DataRequest,
        first_seconds: float,
        num_bytes: int,
        cancelled: threading.Event,
        move: Callable[[_Line, Response], T],
    ) -> T:
        given_up = threading.Event()
        turn = _Turn(cancelled, given_up, time.monotonic() + longest_transfer(num_bytes))
        try:
            return await _in_thread(lambda: self._exchanged(asked, first_seconds, turn, move))
        finally:
            given_up.set()

    def _exchanged(
        self,
        asked: data_channel_pb2.DataRequest,
        first_seconds: float,
        turn: _Turn,
        move: Callable[[_Line, Response], T],
    ) -> T:
        line, first = self._answered(asked, first_seconds, turn)
        try:
            with line.link.looking(turn.look):
                done = move(line, first)
        except (OSError, DataMessageError) as error:
            raise self._broken(error) from error
        finally:
            self._give_back(line)
        return done

    def _answered(
        self, asked: data_channel_pb2.DataRequest, seconds: float, turn: _Turn
    ) -> tuple[_Line, Response]:
        """A connection on which the server has answered, and the answer."""
        line = self._kept_line()
        if line is not None:
            with contextlib.suppress(NoDataChannelError):  # it was closed just now: dial anew
                return line, self._first(line, asked, seconds, turn)
        line = self._dialled()
        return line, self._first(line, asked, seconds, turn)

    def _first(
        self, line: _Line, asked: data_channel_pb2.DataRequest, seconds: float, turn: _Turn
    ) -> Response:
        try:
            with line.link.looking(turn.look):
                line.link.send(memoryview(framed(asked)), MESSAGE_SECONDS)
                return response_in(line.link.receive(min(time.monotonic() + seconds, turn.until)))
        except (OSError, DataMessageError) as error:
            line.link.close()
            raise NoDataChannelError(_sentence(error)) from error
        except BaseException:
            line.link.close()
            raise

    def _received(
        self, line: _Line, first: Response, version: Expected, receiver: Receiver
    ) -> torch.Tensor:
        header = _part(first, "header").header
        version.check(header)
        try:
            receiver.begin(header.num_bytes, header.offset)
            self._fill(line, receiver)
            last = response_in(line.link.receive(time.monotonic() + MESSAGE_SECONDS))
            line.in_step = True
            return receiver.finish(_part(last, "trailer").trailer.xxh3_128)
        except FednotError as error:
            raise BrokenStreamError(f"the download is broken: {error.message}") from error

    def _fill(self, line: _Line, receiver: Receiver) -> None:
        until = time.monotonic() + MESSAGE_SECONDS
        while receiver.filled < receiver.num_bytes:
            line.link.look()  # what is given up may go on over another line, from where this stands
            count = receiver.read_from(line.link.read_some, STEP_BYTES)
            if count:
                self._moved("download", count)
                until = time.monotonic() + MESSAGE_SECONDS
            else:
                line.link.await_more(until)

    def _sent(
        self, line: _Line, first: Response, payload: memoryview, xxh3_128: str
    ) -> federation_pb2.UploadUpdateResponse:
        link = line.link
        offset = _part(first, "grant").grant.offset
        if offset > len(payload):
            raise DataMessageError(f"the server asks from byte {offset} of {len(payload)} on")

        def news() -> None:
            """While bytes are sent, the server says something only to refuse the rest of them."""
            raw = link.receive_if_any(time.monotonic() + MESSAGE_SECONDS)
            if raw is not None:
                _part(response_in(raw), "")

        trailer = model_pb2.StreamTrailer(xxh3_128=xxh3_128)
        try:
            for start in range(offset, len(payload), STEP_BYTES):
                link.look()
                part = payload[start : start + STEP_BYTES]
                link.send(part, MESSAGE_SECONDS, news)
                self._moved("upload", len(part))
            link.send(memoryview(framed(trailer)), MESSAGE_SECONDS, news)
        except OSError:
            with contextlib.suppress(OSError, DataMessageError):  # a refusal may be there to read
                news()
            raise
        with link.looking(_see_nothing):  # all is sent: the update may count, whatever comes
            until = time.monotonic() + longest_transfer(len(payload))
            last = response_in(link.receive(until))
        line.in_step = True
        return _part(last, "counted").counted

    def _broken(self, error: Exception) -> Exception:
        if isinstance(error, TimeoutError):
            return TimeoutError(f"no bytes moved on the data channel for {MESSAGE_SECONDS:.0f} s")
        return BrokenStreamError(f"the data channel to {self.place} broke: {_sentence(error)}")

    def _dialled(self) -> _Line:
        credentials = self._credentials()
        deadline = Deadline(CONNECT_SECONDS)
        try:
            link = DataLink(connect(self.place, deadline))
        except OSError as error:
            raise NoDataChannelError(_sentence(error)) from error
        if credentials is None:
            return _Line(link, None)
        try:
            until = time.monotonic() + deadline.left()
            link.secure(dialling_context(credentials), until, server_hostname=self._host)
        except OSError as error:
            link.close()
            raise NoDataChannelError(_sentence(error)) from error
        return _Line(link, credentials)

    def _kept_line(self) -> _Line | None:
        with self._lock:
            line, self._kept = self._kept, None
        if line is None:
            return None
        if line.credentials is self._credentials() and not line.link.has_news():
            line.in_step = False
            return line
        line.link.close()
        return None

    def _give_back(self, line: _Line) -> None:
        with self._lock:
            if line.in_step and self._kept is None:
                self._kept = line
                return
        line.link.close()


class _Line:
    """A connection that showed `credentials`; `in_step` once the server waits for a request."""

    def __init__(self, link: DataLink, credentials: Credentials | None) -> None:
        self.link = link
        self.credentials = credentials
        self.in_step = False


class _Turn:
    """How long one transfer may go on: until it is cancelled, given up, or out of time."""

    def __init__(self, cancelled: threading.Event, given_up: threading.Event, until: float) -> None:
        self.until = until
        self._cancelled = cancelled
        self._given_up = given_up

    def look(self) -> None:
        """Raises WorkCancelledError, or TimeoutError."""
        if self._cancelled.is_set() or self._given_up.is_set():
            raise WorkCancelledError("the work no longer counts")
        if time.monotonic() > self.until:
            raise TimeoutError("the transfer took longer than any may")


def _part(response: Response, wanted: str) -> Response:
    """The response, if it is the one that is due.

    Raises AioRpcError for a refusal, as gRPC does, and DataMessageError for anything else.
    """
    found = response.WhichOneof("part")
    if found == "refusal":
        raise refused(response.refusal.status)
    if found != wanted:
        raise DataMessageError(f"{found} came in place of {wanted or 'nothing'}")
    return response


def refused(status: bytes) -> aio.AioRpcError:
    """A refusal of the data channel as the failed call that gRPC would have made of it."""
    try:
        found = status_pb2.Status.FromString(status)
        code = _CODES[found.code]
    except (DecodeError, KeyError) as error:
        raise DataMessageError("a refusal cannot be read") from error
    trailing = aio.Metadata((_DETAILS_KEY, status))
    return aio.AioRpcError(code, aio.Metadata(), trailing, details=found.message)


async def _in_thread(work: Callable[[], T]) -> T:
    """Runs it in a thread that the process does not wait for when it ends."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(value: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(value)  # type: ignore[arg-type]
        else:
            future.set_exception(error)

    def body() -> None:
        value, error = None, None
        try:
            value = work()
        except BaseException as raised:
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop has ended, nobody waits
            loop.call_soon_threadsafe(settle, value, error)

    threading.Thread(target=body, name="fednot-data", daemon=True).start()
    return await future


def _see_nothing() -> None:
    """Looks at nothing."""


def _sentence(error: Exception) -> str:
    if isinstance(error, LinkClosedError | DataMessageError | TimeoutError):
        return str(error) or "it did not answer in time"
    strerror = getattr(error, "strerror", None)
    return str(strerror or error)
