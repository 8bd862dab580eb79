"""One end of a data connection: a socket that never blocks, and waits that are bounded.

It is used by one thread; any thread may cut it. What is read goes straight to where it belongs, and
what is written is taken from where it is: nothing is copied beyond what the socket does. Over TLS
each record of 16 KiB is decrypted by a call of its own, since OpenSSL gives no more at once.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, cast

from fednot.data_messages import PREFIX_BYTES, size_in

STEP_BYTES: Final = 1 << 20
LOOK_SECONDS: Final = 0.2
DRAIN_SECONDS: Final = 2.0
_DRAIN_BYTES: Final = 256 << 10
_HUNG_UP: Final = select.POLLHUP | select.POLLERR | getattr(select, "POLLRDHUP", 0)
_KEEPALIVE: Final = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))


class LinkClosedError(ConnectionError):
    """The other side has closed the connection, or it was cut."""


def _nothing() -> None:
    """Looks at nothing."""


class DataLink:
    """A TCP connection, or one over TLS once `secure` was called.

    `look` is called every LOOK_SECONDS while nothing moves; it ends the wait by raising.
    """

    def __init__(self, connected: socket.socket) -> None:
        connected.setblocking(False)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE:
            if hasattr(socket, name):
                connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        self.look: Callable[[], None] = _nothing
        self._socket = connected
        self._tls: ssl.SSLSocket | None = None
        self._wanted = 0
        self._poll = select.poll()
        self._poll.register(connected, select.POLLIN)

    def secure(
        self, context: ssl.SSLContext, until: float, *, server_hostname: str | None = None
    ) -> None:
        """Shakes hands until a moment of the monotonic clock; as the server without a host name.

        Raises OSError (ssl.SSLError, LinkClosedError, TimeoutError).
        """
        self._poll.unregister(self._socket)
        self._socket = self._tls = context.wrap_socket(
            self._socket,
            server_side=server_hostname is None,
            server_hostname=server_hostname,
            do_handshake_on_connect=False,
        )
        self._poll.register(self._socket, select.POLLIN)
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self.wait(select.POLLIN, until)
            except ssl.SSLWantWriteError:
                self.wait(select.POLLOUT, until)
            else:
                return

    def certificate(self) -> bytes | None:
        """The certificate that the other side showed, as PEM."""
        found = self._tls.getpeercert(binary_form=True) if self._tls else None
        return ssl.DER_cert_to_PEM_cert(found).encode("ascii") if found else None

    def read_some(self, into: memoryview) -> int:
        """Fills what can be filled at once; 0 if nothing is there yet.

        Raises OSError (LinkClosedError at the end of what the other side sent).
        """
        if self._tls is not None:
            return self._decrypted(self._tls, into)
        try:
            count = self._socket.recv_into(into)
        except BlockingIOError:
            self._wanted = select.POLLIN
            return 0
        if not count:
            raise LinkClosedError("the other side closed the connection")
        return count

    def write_some(self, data: memoryview) -> int:
        """Sends what can be sent at once; 0 if that is nothing. Raises OSError."""
        try:
            return self._socket.send(data)
        except (BlockingIOError, ssl.SSLWantWriteError):
            self._wanted = select.POLLOUT
        except ssl.SSLWantReadError:
            self._wanted = select.POLLIN
        return 0

    def wait(self, mask: int, until: float) -> int:
        """Waits until the connection is ready for one of the events in `mask`; gives those.

        Raises TimeoutError at a moment of the monotonic clock, and what `look` raises.
        """
        self._poll.modify(self._socket, mask)
        while True:
            left = until - time.monotonic()
            if left <= 0:
                raise TimeoutError("nothing moved in time")
            found = self._poll.poll(1000 * min(left, LOOK_SECONDS))
            if found:
                return found[0][1]
            self.look()

    @contextmanager
    def looking(self, look: Callable[[], None]) -> Iterator[None]:
        """Looks at something for a time."""
        before, self.look = self.look, look
        try:
            yield
        finally:
            self.look = before

    def await_more(self, until: float) -> None:
        """Waits for what the last read or write lacked. Raises as `wait` does."""
        self.wait(self._wanted, until)

    def rest(self, seconds: float) -> bool:
        """Waits for the other side without looking at anything; False if it stayed silent."""
        if self._tls is not None and self._tls.pending():
            return True
        self._poll.modify(self._socket, select.POLLIN)
        return bool(self._poll.poll(1000 * seconds))

    def hung_up(self) -> bool:
        """Whether the other side has closed the connection."""
        self._poll.modify(self._socket, _HUNG_UP)
        return bool(self._poll.poll(0))

    def has_news(self) -> bool:
        """Whether something is there to be read, the end of the connection included."""
        return self.rest(0)

    def read(self, size: int, until: float) -> bytes:
        """So many bytes. Raises OSError (LinkClosedError, TimeoutError)."""
        found = bytearray(size)
        into, got = memoryview(found), 0
        while got < size:
            count = self.read_some(into[got:])
            got += count
            if not count:
                self.await_more(until)
        return bytes(found)

    def receive(self, until: float) -> bytes:
        """One message. Raises OSError (LinkClosedError, TimeoutError), DataMessageError."""
        return self.read(size_in(self.read(PREFIX_BYTES, until)), until)

    def receive_if_any(self, until: float) -> bytes | None:
        """One message if it has begun to come, else None. Raises as `receive` does."""
        prefix = bytearray(PREFIX_BYTES)
        got = self.read_some(memoryview(prefix))
        if not got:
            return None
        prefix[got:] = self.read(PREFIX_BYTES - got, until)
        return self.read(size_in(prefix), until)

    def send(
        self, data: memoryview, seconds: float, news: Callable[[], None] | None = None
    ) -> None:
        """Sends all of it; no part of it may wait longer than `seconds`.

        `news` is called when the other side sends something meanwhile. Raises OSError
        (TimeoutError).
        """
        until, sent = time.monotonic() + seconds, 0
        while sent < len(data):
            count = self.write_some(data[sent:])
            if count:
                sent += count
                continue
            if sent:
                data, sent, until = data[sent:], 0, time.monotonic() + seconds
            heard = select.POLLIN if news else 0
            if self.wait(self._wanted | heard, until) & heard and news:
                news()

    def cut(self) -> None:
        """Ends the connection at once; any thread may do so."""
        with contextlib.suppress(OSError):
            # SSLSocket's own also forgets the TLS state, which the thread that reads may be using.
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def close(self, *, drain: bool = False) -> None:
        """Closes it; with `drain` only once the other side has had time to read what was sent.

        A socket that is closed with unread bytes resets the connection, and what was sent is lost.
        """
        if drain:
            with contextlib.suppress(OSError):
                self._drain()
        self._socket.close()

    def _drain(self) -> None:
        plain, waste = self._socket, bytearray(_DRAIN_BYTES)
        socket.socket.shutdown(plain, socket.SHUT_WR)
        self._poll.modify(plain, select.POLLIN)
        until = time.monotonic() + DRAIN_SECONDS
        while (left := until - time.monotonic()) > 0 and self._poll.poll(1000 * left):
            if not socket.socket.recv_into(plain, waste):
                return

    def _decrypted(self, tls: ssl.SSLSocket, into: memoryview) -> int:
        read = cast("Callable[[int, memoryview], int]", tls.read)
        got, size = 0, len(into)
        try:
            while got < size:
                count = read(size - got, into[got:])
                if not count:
                    break
                got += count
        except ssl.SSLWantReadError:
            self._wanted = select.POLLIN
            return got
        except ssl.SSLWantWriteError:
            self._wanted = select.POLLOUT
            return got
        if not got:
            raise LinkClosedError("the other side closed the connection")
        return got
